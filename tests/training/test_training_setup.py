"""What a run says before its first step about how it lies on the devices."""

import pytest

from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.training.setup import crossing_mixes
from tests.conftest import tiny_config
from tests.training.bench import INFO


@pytest.mark.parametrize("replica_batch_size, devices, platform, crosses", [
    (0, 1, "tpu", False),
    (0, 4, "tpu", True),
    (0, 4, "cpu", False),
    (4, 2, "tpu", False),
    (4, 4, "gpu", True),
    (2, 4, "gpu", False),
])
def test_mixing_across_devices_is_told(replica_batch_size, devices, platform, crosses):
    config = tiny_config(
        views={"x": "flip|cutmix(1.0)"}, train=dict(replica_batch_size=replica_batch_size)
    )
    lines = crossing_mixes(build_programs(config, INFO), devices, platform)
    assert bool(lines) == crosses
    if crosses:
        assert lines[0].startswith("warning: views.x.cutmix mixes groups of ")
        assert lines[0].endswith(f"train.replica_batch_size={8 // devices} keeps them apart")


def test_views_without_mixing_say_nothing():
    assert crossing_mixes(build_programs(tiny_config(), INFO), 4, "tpu") == []
