"""What the processes of a run have to know alike."""

import json

import pytest

from kdaug_jax.errors import CheckpointError, ConfigError, Disagreement, Preempted
from kdaug_jax.runtime import agreement, processes, signals


def of_peers(monkeypatch, *others):
    """Lets `exchange` answer with what other processes would give after this one."""
    answers = iter(others)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "exchange", lambda own: [own, *next(answers)])


def texts(**facts):
    return {name: json.dumps(value) for name, value in facts.items()}


def test_processes_that_know_the_same_go_on(monkeypatch):
    of_peers(monkeypatch, [0], [texts(seed=1, data={"train": "f0"})])
    agreement.agree({"data": {"train": "f0"}, "seed": 1})


def test_each_difference_is_named_with_both_values(monkeypatch):
    long = "x" * 100
    of_peers(monkeypatch, [0, 0], [texts(seed=2, own=1), texts(seed=1, more=long)])
    with pytest.raises(Disagreement) as caught:
        agreement.agree({"seed": 1, "more": long})
    message = str(caught.value)
    assert message.startswith(
        "--distributed: the processes differ from process 0: process 1 has more none instead of "
        '"xxxxxxxxxxxxxxxxxxxxxxx… (SHA-256 '
    )
    assert "own 1 instead of none, seed 2 instead of 1; start all of them with the same" in message
    assert "process 2" not in message


def test_many_differences_are_counted(monkeypatch):
    of_peers(monkeypatch, [0], [texts(**{f"f{n}": 1 for n in range(9)})])
    with pytest.raises(Disagreement, match="f4 1 instead of 0 and 4 more; start all"):
        agreement.agree({f"f{n}": 0 for n in range(9)})


def test_a_signal_of_another_process_is_one_of_all(monkeypatch):
    of_peers(monkeypatch, [15])
    with pytest.raises(Preempted, match="SIGTERM: nothing was done"):
        with signals.handled("nothing was done"):
            agreement.agree()


def test_one_process_agrees_with_itself_and_sees_its_directory(tmp_path):
    agreement.agree({"seed": 1})
    agreement.require_shared(tmp_path, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_software_names_versions_and_code():
    known = agreement.software()
    assert {"python", "jax", "jaxlib", "numpy"} <= set(known) and len(known["kdaug_jax"]) == 16


def test_errors_cross_processes():
    error = CheckpointError("w", "is full", "make room")
    received = processes._read(json.loads(json.dumps(processes._written(error))))
    assert type(received) is CheckpointError and str(received) == str(error)


@pytest.mark.parametrize("name", processes.Limits._fields)
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_make_no_sense(name, seconds):
    with pytest.raises(ConfigError, match=f"--{name}_seconds: .* is not from 1 to a million"):
        processes.start("0/2@127.0.0.1:1234", processes.Limits(**{name: seconds}))
