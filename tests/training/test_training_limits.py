"""A run whose minutes are over saves and goes on; a trace of its steps can be read."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError, Preempted
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import manifest
from kdaug_jax.training import loop
from tests.conftest import tiny_config

SAVES = dict(every_steps=100, every_epochs=0.0)


def test_a_run_out_of_time_saves_and_goes_on_to_the_same_results(tmp_path):
    straight = loop.train(tiny_config(checkpoint=SAVES), tmp_path / "a", stream=io.StringIO())
    limited = tiny_config(checkpoint=SAVES, train=dict(max_minutes=1e-6, steps_per_call=1))
    with pytest.raises(Preempted, match="train.max_minutes: step 1 is saved; run again") as caught:
        loop.train(limited, tmp_path / "b", stream=io.StringIO())
    assert caught.value.exit_code == 75 and manifest.steps(tmp_path / "b/checkpoints") == [1]
    # The limit may change, and the same signal handlers serve the next run.
    resumed = tiny_config(checkpoint=SAVES, train=dict(max_minutes=1000.0, steps_per_call=1))
    again = loop.train(resumed, tmp_path / "b", stream=io.StringIO())
    np.testing.assert_equal(again, straight)


def test_a_profile_of_some_steps_is_a_trace_that_can_be_read(tmp_path):
    said = io.StringIO()
    config = tiny_config(checkpoint=SAVES, train=dict(profile=(2, 4), steps_per_call=1))
    loop.train(config, tmp_path, stream=said)
    folder = tmp_path / "tensorboard"
    assert f"profile: {folder}/plugins/profile; pip install" in said.getvalue()
    (trace,) = Path(folder, "plugins", "profile").glob("*/*.xplane.pb")
    names = [plane.name for plane in jax.profiler.ProfileData.from_file(str(trace)).planes]
    assert any("CPU" in name for name in names)


@pytest.mark.parametrize("steps", [(5,), (5, 5), (7, 5), (1, 2, 3)])
def test_steps_of_a_profile_are_a_first_and_a_last(steps):
    with pytest.raises(ConfigError, match=r"train.profile: got .*write \(first, last\)"):
        configs.validate(tiny_config(train=dict(profile=steps)))
