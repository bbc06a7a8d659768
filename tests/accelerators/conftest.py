"""Compilers for devices that are not there: a folder that only these tests put on the path."""

import os
from pathlib import Path

import pytest

from kdaug_jax.compile import compilers
from tests.conftest import EXTRAS_REQUIRED

NEEDED = {"tpu": "libtpu", "gpu": "jax_cuda12_plugin"}


@pytest.fixture(scope="session", params=["tpu", "gpu"])
def compiler(request):
    """Platform and folder of a compiler; a missing one fails where it is required."""
    directory = os.environ.get(compilers.VARIABLE, "")
    if not directory or not (Path(directory) / NEEDED[request.param]).is_dir():
        line = compilers.pip_line(request.param, directory or "compilers")
        reason = f"no compiler in ${compilers.VARIABLE}: {line}"
        (pytest.fail if EXTRAS_REQUIRED else pytest.skip)(reason)
    return request.param, directory
