"""Processes of a run find each other before JAX connects them, or say what is missing."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.runtime.rendezvous import meet
from kdaug_jax.runtime.watch import Watch

HOST = "127.0.0.1"


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def outcomes(*calls):
    """Runs `meet` in threads; gives the message of each, "" for success."""

    def run(arguments):
        try:
            meet(*arguments)
        except ConfigError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_all_go_on_once_everybody_has_come_and_the_port_is_free_again(port):
    assert outcomes(*((number, 3, HOST, port, 20.0) for number in range(3))) == [""] * 3
    with socket.create_server(("", port), reuse_port=False):
        pass


def test_one_process_meets_nobody():
    meet(0, 1, "nowhere.invalid", 1, 0.0)


def test_a_missing_process_is_named_to_all(port):
    calls = [(0, 4, HOST, port, 1.5), (2, 4, HOST, port, 20.0)]
    what = f"--distributed: processes 1, 3 of 4 did not come to {HOST}:{port} within 1.5 s"
    first, second = outcomes(*calls)
    assert first == f"{what}; start them, or wait longer: --join_seconds=N"
    assert second.startswith(what)


def test_process_0_does_not_answer(port):
    (message,) = outcomes((1, 2, HOST, port, 0.5))
    assert message.startswith(
        f"--distributed: process 0 does not answer at {HOST}:{port} within 0.5 s (Connection refus"
    )


def test_an_unknown_host():
    (message,) = outcomes((1, 2, "nowhere.invalid", 1234, 0.5))
    assert "process 0 does not answer at nowhere.invalid:1234" in message
    assert "(unknown host: " in message


def test_a_port_that_is_taken(port):
    with socket.create_server(("", port)):
        (message,) = outcomes((0, 2, HOST, port, 5.0))
    assert message == (
        f"--distributed: port {port} of this host is taken by another program; name another port "
        "to all processes"
    )


def test_other_counts_and_the_same_number_twice_are_turned_away(port):
    first, second, other, twice = outcomes(
        (0, 3, HOST, port, 3.0), (1, 3, HOST, port, 6.0), (2, 4, HOST, port, 6.0),
        (1, 3, HOST, port, 6.0),
    )
    assert "process 2 of 3 did not come" in first
    assert "process 0 expects 3 processes, and this one is 2/4" in other
    same = [message for message in (second, twice) if "two processes say that they are" in message]
    assert len(same) == 1


def test_a_process_that_hangs_up_is_noticed_and_one_that_says_goodbye_is_not():
    gone = {number: [] for number in range(4)}
    watches = [Watch(number, gone[number].append) for number in range(4)]
    for number in (1, 2, 3):
        watches[number].connect(number, HOST, watches[0].port)
    wait_until(lambda: len(watches[0]._peers) == 3)
    watches[1].leave()
    wait_until(lambda: len(watches[0]._peers) == 2)
    watches[2]._peers[0].shutdown(socket.SHUT_RDWR)
    wait_until(lambda: gone[0] and gone[3])
    assert gone[0] == [2] and gone[3] == [2] and gone[1] == []
    watches[3].leave()
    watches[0].leave()


def wait_until(condition):
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)
