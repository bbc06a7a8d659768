"""What a run says before its first step about how it lies on the devices."""

import dataclasses

import pytest

from kdaug_jax.experiment import views
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.training.setup import crossing_mixes, slow_policies
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


@pytest.mark.parametrize("platform, told", [("tpu", True), ("gpu", False), ("cpu", False)])
def test_ops_that_are_slow_on_a_tpu_are_told_once(platform, told, tmp_path, monkeypatch):
    (tmp_path / "ops_slow.py").write_text("def halved(image):\n    return image >> 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = 'randaugment(1, 9, ops=("Solarize", "ops_slow:halved"))'
    config = tiny_config(
        views={"x": f"crop_random(6)|{policy}", "y": 'view("x")|flip'},
        phases=((1, {"terms.ce.weight": 0.5}),),
    )
    programs = build_programs(config, INFO)
    hosted = [
        dataclasses.replace(program, view_specs=tuple(
            spec._replace(hosted=views.unmixed(spec)) for spec in program.view_specs
        )) for program in programs
    ]
    assert slow_policies(hosted, platform) == []  # the host carries it out
    lines = slow_policies(programs, platform)
    assert lines == told * [
        "warning: views.x.randaugment: ops_slow:halved has no form in the kernel, so a TPU "
        "augments images that draw it about a thousand times more slowly"
    ]


def test_views_without_mixing_say_nothing():
    assert crossing_mixes(build_programs(tiny_config(), INFO), 4, "tpu") == []
