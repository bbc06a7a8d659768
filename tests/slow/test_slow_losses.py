"""Every loss of the table through the real step, on handwritten digits."""

import pytest

from tests.training.digits import ALL, falls, method, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ALL)
def test_a_loss_falls_in_fifty_steps(frozen_teacher, name):
    _, _, values = run(*method((name,)))
    assert falls(name, values)


@pytest.mark.parametrize("name", [name for name in ALL if name != "cross_entropy"])
def test_a_loss_falls_under_the_clip(frozen_teacher, name):
    """Beside cross entropy, whose gradient bounds it variable by variable."""
    made, frozen = method(tuple(dict.fromkeys((name, "cross_entropy"))))
    made.optim.combine = "clip_per_variable()"
    made.terms[name].gradient_group = "distill"
    _, _, values = run(made, frozen)
    assert falls(name, values) and falls("cross_entropy", values)
