"""Every loss of the table through the real step."""

import numpy as np
import pytest

from kdaug_jax.losses import LOSSES
from tests.losses_through_step import EQUAL, config
from tests.training.test_training_step import Bench, frozen_teacher

__all__ = ["frozen_teacher"]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_falls(frozen_teacher, name):
    """Averaged over the last of eight epochs it is less than over the first one that has it."""
    teacher = "tiny" if name in EQUAL else "tiny_wide"
    # The ensemble of a2aug learns from the labels through its views alone.
    names = (name, "cross_entropy") if name == "a2aug" else (name,)
    bench = Bench(config(names, teacher=teacher, train=dict(epochs=8.0)))
    state, rows = bench.run(40)
    values = np.asarray([row[f"train/{name}"] for row in rows]).reshape(8, 5).mean(axis=1)
    first = 1 if name == "ft" else 0  # its first epoch has another loss
    assert np.isfinite(values).all()
    assert values[-1] < values[first] - 0.02 * abs(values[first])
    assert all(row["fault"] == 0 for row in rows)
