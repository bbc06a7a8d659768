"""Runs that the tests of bad input start from."""

import io
import shutil
from pathlib import Path

import pytest

from kdaug_jax.training import loop
from tests.bad_input.helpers import SECTIONS, TWICE, files, one_line
from tests.conftest import tiny_config


@pytest.fixture
def tiny(run, tmp_path):
    """Runs a tiny experiment from a config file; gives the exit status."""

    def call(sections, *words, directory=tmp_path / "w"):
        (tmp_path / "config.py").write_text(SECTIONS.format(sections=sections))
        return run(f"--config={tmp_path / 'config.py'}", f"--workdir={directory}", *words)

    return call


@pytest.fixture
def told(tiny, tmp_path, capsys):
    """Runs what must be refused; gives the line, and sees that no file came, went or changed."""

    def call(status, sections, *words, directory=tmp_path / "w"):
        before = files(directory)
        assert tiny(sections, *words, directory=directory) == status
        assert files(directory) == before
        return one_line(capsys.readouterr().err)

    return call


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """A finished run."""
    directory = tmp_path_factory.mktemp("straight")
    loop.train(tiny_config(**TWICE), directory, stream=io.StringIO())
    return directory


@pytest.fixture
def finished(straight, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(straight, tmp_path / "w"))
