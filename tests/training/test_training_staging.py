"""How many steps a call takes, and so how many bytes of batches lie on the devices."""

import pytest

from kdaug_jax.training.population import steps_per_call

GB = 10**9


def image_bytes(batch, side, copies=1):
    return batch * side * side * 3 * copies


# The steps of an epoch, of all, and the intervals of logging, evaluation and checkpoints.
IMAGENET = (312 * 500, 0, 100, 312 * 5, 0, 312 * 5)
ROUND = (10_000, 0, 100, 1000, 0, 1000)
BUSY = (391 * 200, 0, 100, 391 * 10, 0, 391 * 10)


@pytest.mark.parametrize(
    "configured, intervals, item, stage, backend, expected",
    [
        # EfficientNet-B0 and -B7, batches of 4,096 on one process: 0.6 and 4.4 GB each.
        (0, ROUND, image_bytes(4096, 224), 1 * GB, "gpu", 1),
        (0, ROUND, image_bytes(4096, 600), 1 * GB, "gpu", 1),
        (0, ROUND, image_bytes(4096, 600), 1 * GB, "tpu", 1),
        (0, IMAGENET, image_bytes(4096, 224), 30 * GB, "gpu", 20),
        (0, ROUND, image_bytes(4096, 224), 30 * GB, "gpu", 20),
        # One of 64 hosts sends 64 of them.
        (0, ROUND, image_bytes(64, 600), 1 * GB, "tpu", 5),
        (0, ROUND, image_bytes(64, 224), 1 * GB, "tpu", 50),
        # ResNet-50 at 256; a clean view or three seeds beside it.
        (0, ROUND, image_bytes(256, 224), 1 * GB, "gpu", 10),
        (0, ROUND, image_bytes(256, 224, 2), 1 * GB, "gpu", 5),
        (0, ROUND, image_bytes(256, 224, 4), 1 * GB, "gpu", 2),
        # A gigabyte is a bound, not a wish: exactly five batches twice, and a byte more.
        (0, ROUND, GB // 10, 1 * GB, "gpu", 5),
        (0, ROUND, GB // 10 + 1, 1 * GB, "gpu", 4),
        (0, ROUND, 1000, 0, "gpu", 1),
        # Data sets that stay on the devices send positions only.
        (0, ROUND, 0, 1 * GB, "gpu", 100),
        (0, ROUND, 0, 0, "gpu", 100),
        (0, BUSY, 0, 1 * GB, "gpu", 10),
        (0, (7, 0, 100), 0, 1 * GB, "gpu", 1),
        # A CPU takes one, and whoever says a number gets it.
        (0, ROUND, 0, 1 * GB, "cpu", 1),
        (7, ROUND, image_bytes(4096, 600), 1 * GB, "gpu", 7),
        (7, ROUND, 0, 1 * GB, "cpu", 7),
    ],
)
def test_a_call_never_stages_more_than_it_may(
    configured, intervals, item, stage, backend, expected
):
    steps = steps_per_call(configured, intervals, item, stage, backend)
    assert steps == expected
    if not configured and steps > 1:
        assert 2 * steps * item <= stage or not item
        assert all(interval % steps == 0 for interval in intervals)
