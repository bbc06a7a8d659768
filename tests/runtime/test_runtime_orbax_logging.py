import logging
import sys
from types import SimpleNamespace

import pytest

from kdaug_jax.runtime.orbax_logging import silence_orbax


def test_what_is_told_otherwise_is_not_shown(caplog, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    silence_orbax()
    silence_orbax()  # once is enough
    sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError("Event loop is closed")))
    sys.unraisablehook(other := SimpleNamespace(exc_value=RuntimeError("something else")))
    assert shown == [other]
    for name in ("absl", "asyncio"):
        logging.getLogger(name).error("future: <Task defined at orbax/checkpoint/x.py>")
        logging.getLogger(name).warning("orbax: %s", "a warning")
        logging.getLogger(name).error("%s of another", "an error")
    said = [record.getMessage() for record in caplog.records]
    assert said == 2 * ["orbax: a warning", "an error of another"]


@pytest.fixture(autouse=True)
def loggers_as_before():
    kept = {name: list(logging.getLogger(name).filters) for name in ("absl", "asyncio")}
    yield
    for name, filters in kept.items():
        logging.getLogger(name).filters = filters
