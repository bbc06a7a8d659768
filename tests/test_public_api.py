"""What the package exports: a name that comes or goes is a decision, written down here."""

import importlib
import subprocess
import sys

import pytest

EXPORTS = {}


@pytest.mark.parametrize("module", EXPORTS)
def test_a_package_exports_these_names(module):
    package = importlib.import_module(module)
    assert sorted(package.__all__) == sorted(EXPORTS[module].split())
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_subpackages_are_imported_on_first_use():
    code = (
        "import sys, kdaug_jax as kd; assert 'jax' not in sys.modules; "
        "assert kd.losses.kl and kd.experiment.views.build_augment; "
        "assert 'losses' in dir(kd) and not hasattr(kd, 'loses')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_exported_function_is_documented():
    missing = [
        f"{module}.{name}"
        for module, names in EXPORTS.items()
        for name in names.split()
        if callable(value := getattr(importlib.import_module(module), name)) and not value.__doc__
    ]
    assert missing == []
