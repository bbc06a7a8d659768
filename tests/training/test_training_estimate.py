"""The estimate at the start of a run: when it is printed, and its numbers."""

import io

import pytest

from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import estimate, loop
from kdaug_jax.training.intervals import Intervals, due
from tests.conftest import tiny_config


def intervals(total=91_000, save=(), save_minutes=0.0, per_call=1):
    return Intervals(
        total=total, starts=(0,), log=20, evaluate=0, save=save, save_minutes=save_minutes,
        per_call=per_call,
    )


def follow(measured, seconds, start=0, per_call=1, total=200_000, cold=0.5):
    """Takes steps of so many seconds, the first call `cold` longer, until a line comes.

    Returns:
      The line, the seconds until then, and after how many steps something was measured.
    """
    step, clock, steps = start, cold, []
    while step < total:
        step += per_call
        clock += seconds * per_call
        if measured.due(step):
            steps.append(step - start)
            line = measured.measure(step, clock)
            if line:
                return line, clock, steps
    return "", clock, steps


def test_it_names_duration_and_checkpoints():
    measured = estimate.Estimate(intervals(save=(467,)), 0, 12_300_000, 3)
    line, _, _ = follow(measured, 0.086)
    assert line == (
        "estimate  about 2h10m for 91,000 steps (86 ms a step), without evaluation; "
        "195 checkpoints of 12.3 MB, at most 3 kept"
    )


@pytest.mark.parametrize(
    "seconds, latest", [(0.0005, 5), (0.086, 5), (0.7, 5), (5.0, 11), (60.0, 121)]
)
def test_it_comes_early_and_once_and_waits_seldom(seconds, latest):
    measured = estimate.Estimate(intervals(total=200_000), 0, 1, 1)
    line, clock, steps = follow(measured, seconds)
    assert line and clock < latest
    assert steps == [2**n for n in range(len(steps))]
    assert not any(measured.due(step) for step in range(steps[-1], 200_001))


def test_the_first_call_does_not_count():
    cold = estimate.Estimate(intervals(total=1_000), 0, 1, 1)
    line, _, _ = follow(cold, 1.0, cold=500.0)
    assert line.startswith("estimate  about 16m40s for 1,000 steps (1,000 ms a step)")


def test_a_resumed_run_is_told_of_what_is_left():
    measured = estimate.Estimate(intervals(total=1_000), 900, 1, 1)
    line, _, steps = follow(measured, 2.5, start=900)
    assert line.startswith("estimate  about 4m10s for 100 steps") and steps == [1, 2]


def test_a_short_run_needs_none():
    measured = estimate.Estimate(intervals(total=1_000), 0, 1, 1)
    assert follow(measured, 0.05, total=1_000)[0] == ""
    assert not measured.due(1_000)
    assert follow(estimate.Estimate(intervals(total=1), 0, 1, 1), 300.0, total=1)[0] == ""


def test_several_steps_a_call():
    measured = estimate.Estimate(intervals(total=10_000, per_call=50), 0, 1, 1)
    line, clock, steps = follow(measured, 0.0071, per_call=50)
    assert line.startswith("estimate  about 1m11s for 10,000 steps (7.1 ms a step)")
    assert clock < 5 and steps == [50, 100, 200, 400]


@pytest.mark.parametrize("save", [(), (7,), (10,), (7, 10), (10, 15), (500,)])
@pytest.mark.parametrize("start", [0, 13, 99])
def test_checkpoints_are_counted_as_the_loop_saves(save, start):
    saved = [
        step for step in range(start + 1, 101)
        if step == 100 or any(due(step - 1, step, every) for every in save)
    ]
    assert intervals(total=100, save=save).saves(start, 1.0) == len(saved)


def test_checkpoints_by_the_clock():
    # 130 minutes: at 10, 20, ..., 120 and at the end.
    assert intervals(total=7_800, save_minutes=10.0).saves(0, 1.0) == 13
    # One every 5 minutes anyway.
    assert intervals(total=7_800, save=(300,), save_minutes=10.0).saves(0, 1.0) == 26
    # Never more than there are calls.
    assert intervals(total=100, save=(1,), per_call=50).saves(0, 1.0) == 2


def test_a_run_prints_it_before_its_first_row(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(estimate, "SHORT_SECONDS", 0.0)
    console = io.StringIO()
    loop.train(tiny_config(log=dict(every_steps=4)), tmp_path, stream=console)
    lines = console.getvalue().splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("estimate  ")]
    assert lines[at + 1].startswith("step 4/10")
    assert "for 10 steps" in lines[at] and "2 checkpoints of " in lines[at]
    assert lines[at].endswith("at most 3 kept")
    size = next(line.split()[1] for line in lines if line.startswith("checkpoint "))
    assert f"of {size} MB" in lines[at]
    assert [row["step"] for row in read_rows(tmp_path) if "train/loss" in row] == [4, 8, 10]
