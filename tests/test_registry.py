"""Names of configs: rows of tables, and what users bring in modules of their own."""

import sys

import pytest

from kdaug_jax import registry
from kdaug_jax.errors import ConfigError

TABLE = {"kl": "a row", "cross_entropy": "another"}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a user's module into an importable folder; returns its name."""
    count = 0

    def write(text):
        nonlocal count
        count += 1
        name = f"users_{tmp_path.name.replace('-', '_')}_{count}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    monkeypatch.syspath_prepend(tmp_path)
    return write


def resolved(name):
    return registry.resolve("terms.kd.loss", "loss", name, TABLE)


def test_rows_and_attributes_are_found(module):
    name = module("value = 3\n")
    assert resolved("kl") == "a row"
    assert resolved(f"{name}:value") == resolved(f"{name}.value") == 3
    assert registry.short_name(f"{name}:value") == registry.short_name("a.b.value") == "value"
    assert registry.short_name("kl") == "kl"


@pytest.mark.parametrize("name, message", [
    ("kll", "terms.kd.loss: unknown loss 'kll'; did you mean kl"),
    ("what:ever", r"cannot import 'what:ever': there is no module 'what'; .*searched "),
    ("os.path:nothing_here", "module os.path has no 'nothing_here'"),
    ("os:getcvd", "module os has no 'getcvd'; did you mean getcwd"),
    (":f", "is no name of a loss; write package.module:attribute"),
    ("a:b:c", "is no name of a loss"),
    ("os.:f", "is no name of a loss"),
])
def test_wrong_names_are_refused_in_one_line(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [
    ("import json\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*, line 2\)"),
    ("x = (\n", r"SyntaxError: .*line 1"),
    ("import no_such_library\n", r"ModuleNotFoundError: No module named 'no_such_library'"),
])
def test_modules_that_fail_tell_why_and_where(module, text, message):
    with pytest.raises(ConfigError, match=message):
        resolved(module(text) + ":f")


def test_the_folder_of_the_config_and_the_current_one_are_importable(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    before = list(sys.path)
    with registry.importable(there / "config.py"):
        assert sys.path[:2] == [str(there), str(here)]
    assert sys.path == before
    (there / "config.py").write_text("")
    link = tmp_path / "elsewhere" / "config.py"
    link.parent.mkdir()
    link.symlink_to(there / "config.py")
    with registry.importable(link):  # the file's own loss may lie beside either
        assert sys.path[:3] == [str(link.parent), str(there), str(here)]
    assert sys.path == before
