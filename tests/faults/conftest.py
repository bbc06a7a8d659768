"""What the tests of faults share: the fixtures of tests of bad input, and signals as in a shell."""

import signal

import pytest

from tests.bad_input.conftest import finished, straight, tiny

__all__ = ["finished", "straight", "tiny"]


@pytest.fixture(autouse=True)
def as_in_a_shell():
    """Jobs in the background, as tests may be, are told to ignore Ctrl-C."""
    handlers = {
        signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
