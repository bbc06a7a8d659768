from fractions import Fraction

import jax
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import schedules
from kdaug_jax.types import Info, Range

INFO = Info(4, (8, 8), np.zeros(16, np.int32), (0.0,), (1.0,))
LEGAL = Range(np.float32, 0.0)


def values(spec, steps=40, per_epoch=4):
    built = schedules.build_schedule("w", spec, per_epoch, steps, LEGAL, INFO)
    return float(built.base) * np.asarray(jax.vmap(built.multiplier)(np.arange(steps)))


def test_a_number_is_constant():
    np.testing.assert_array_equal(values(0.25), np.full(40, np.float32(0.25)))


def test_milestones_count_epochs_from_zero():
    got = values(dict(name="milestones", base=0.1, at=(2, 5), factor=0.1))
    np.testing.assert_allclose(got[[7, 8, 19, 20]], [0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_a_warm_up_with_stairs_counts_epochs():
    """mdistiller has e / warmup in epoch e from 1, the code of ReviewKD (e - 1) / warmup."""
    spec = dict(base=2.0, warmup=5.0, stairs="epoch")
    epochs = np.arange(10).repeat(4)
    np.testing.assert_allclose(values(spec), 2 * np.minimum((epochs + 1) / 5, 1), rtol=1e-6)
    behind = values({**spec, "offset": 0.0})
    np.testing.assert_allclose(behind, 2 * np.minimum(epochs / 5, 1), rtol=1e-6)
    falling = values(dict(name="linear", base=1.0, stairs="epoch"))
    np.testing.assert_allclose(falling, 1 - epochs / 10, rtol=1e-6)
    with pytest.raises(ConfigError, match="w.stairs: got 'step'; must be 'epoch' or empty"):
        values({**spec, "stairs": "step"})
    with pytest.raises(ConfigError, match="w.offset: got 2.0; must be at least 0 and at most 1"):
        values({**spec, "offset": 2.0})


def test_step_decay():
    got = values(dict(name="step_decay", base=0.4, every=3, factor=0.5))
    np.testing.assert_allclose(got[[0, 11, 12, 24, 36]], [0.4, 0.4, 0.2, 0.1, 0.05], rtol=1e-6)


def test_cosine_falls_to_its_end():
    got = values(dict(name="cosine", base=2.0, end=0.5))
    np.testing.assert_allclose(got[[0, 20]], [2.0, 1.5], rtol=1e-6)
    assert 1.0 < got[-1] < 1.01 and np.all(np.diff(got) < 0)


def test_cosine_ends_early_and_stays_there():
    spec = dict(name="cosine", base=2.0, end=0.5)
    early, whole = values({**spec, "until": 5.0}), values(spec, steps=20)
    np.testing.assert_array_equal(early[:20], whole)
    np.testing.assert_array_equal(early[20:], np.full(20, np.float32(1.0)))


def test_linear():
    got = values(dict(name="linear", base=2.0, end=0.5))
    np.testing.assert_allclose(got[[0, 20]], [2.0, 1.5], rtol=1e-6)


def test_exponential_in_steps_and_smoothly():
    spec = dict(name="exponential", base=1.0, every=2.5, factor=0.5)
    np.testing.assert_allclose(values(spec)[[9, 10, 20]], [1.0, 0.5, 0.25], rtol=1e-6)
    smooth = values({**spec, "staircase": False})
    np.testing.assert_allclose(smooth[[5, 10]], [0.5**0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize(
    "per_epoch, every", [(41, 1.0), (1251, 2.4), (7, 0.3), (10, 0.35), (3, 0.1)]
)
def test_staircases_fall_on_the_step_that_was_written(per_epoch, every):
    steps = min(50 * per_epoch, 20_000)
    spec = dict(name="exponential", base=1.0, every=every, factor=0.5, staircase=True)
    built = schedules.build_schedule("w", spec, per_epoch, steps, LEGAL, INFO)
    got = np.asarray(jax.jit(jax.vmap(built.multiplier))(np.arange(steps)))
    length = Fraction(str(every)) * per_epoch
    power = np.array([step // length for step in range(steps)], np.float64)
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(got, 0.5**power, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("time, per_unit, steps", [
    (0.1, 30, 3), (0.35, 10, 4), (2.675, 100, 268), (np.float32(0.7), 10, 7), (3, 4, 12),
])
def test_times_are_the_decimal_numbers_that_were_written(time, per_unit, steps):
    assert schedules.whole_steps(time, per_unit) == steps


def test_warmup_rises_from_zero_and_does_not_shift_the_rest():
    spec = dict(name="milestones", base=1.0, at=(8,), unit="step", factor=0.5)
    warm, plain = values({**spec, "warmup": 4}), values(spec)
    np.testing.assert_allclose(warm[:5], [0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(warm[4:], plain[4:])


@pytest.mark.parametrize(
    "spec, message",
    [
        (-1.0, "at least 0"),
        (True, "must be a number"),
        (dict(base=1.0, name="milestons", at=(1,)), "did you mean milestones"),
        (dict(base=1.0, name="milestones"), "argument 'at' is missing"),
        (dict(base=1.0, name="milestones", at=3), "must be a tuple"),
        (dict(base=1.0, name="step_decay", every=0), "must be more than 0"),
        (dict(base=1.0, name="milestones", at=("a",)), "must be rising times"),
        (dict(base=1.0, name="milestones", at=(5, 2)), "must be rising times"),
        (dict(base=1.0, name="milestones", at=(float("nan"),)), "at = (nan,)"),
        (dict(base=1.0, name="milestones", at=(1,), factor=-1.0), "must be at least 0"),
        (dict(base=1.0, name="milestones", at=(1, 2), factor=1e30), "its power 2 finite"),
        (dict(base=1.0, name="exponential", every=0.5, factor=1e30), "finite over 40 steps"),
        (dict(base=1.0, name="milestones", at=(1,), factor=float("nan")), "must be finite"),
        (dict(base=1.0, name="cosine", end=-1.0), "must be at least 0"),
        (dict(base=1.0, name="cosine", until=-1.0), "must be a time from 0"),
        (dict(base=1e39), "must be at least 0"),
        (10**400, "must be at least 0"),
        (dict(base=1.0, name="cosine", unit="hour"), "must be 'epoch' or 'step'"),
        (dict(base=1.0, warmup=11), "make it shorter"),
    ],
)
def test_what_is_refused(spec, message):
    with pytest.raises(ConfigError) as caught:
        schedules.build_schedule("w", spec, 4, 40, LEGAL, INFO)
    assert message in str(caught.value)
