"""A view whose policy is traced shows what the schedule of the same policies shows."""

import json

import jax
import numpy as np
import pytest

from kdaug_jax import rng
from kdaug_jax.experiment import views
from kdaug_jax.types import Batch, Clock, Info

INFO = Info(4, (32, 32), np.zeros(16, np.int32), (10.0, 20.0, 30.0), (1.0, 1.0, 1.0))
INDEX = np.arange(16, dtype=np.int32)
BATCH = Batch(
    np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8), INDEX % 4, INDEX,
    np.ones(16, bool),
)


def maker(text):
    specs = views.parse_all({"x": text}, INFO, epochs=3)
    values, _ = views.hparams(specs)

    @jax.jit
    def made(epoch, batch, values):
        clock = Clock(np.uint32(5), epoch, np.int32(0))
        return views.make(specs, clock, batch, values, INFO, 1)["x"].image

    return lambda epoch, batch=BATCH, **given: np.asarray(
        made(np.int32(epoch), batch, {**values, **given})
    )


def rows_of(text, epoch, **given):
    """The rows of ops that each image of a batch takes, and the ops."""
    (call,) = views.parse("x", text, INFO, epochs=3).calls
    policy = call.bound.static["policy"]
    clock = Clock(np.uint32(5), np.int32(epoch), np.int32(0))
    keys = rng.fold(rng.example_keys(clock, "view/x", np.arange(200)), call.draws)
    values = {"epoch": np.int32(epoch)} | given
    return policy.ops, np.asarray(jax.vmap(lambda key: policy.draw(key, values))(keys))


def test_a_traced_policy_draws_what_the_schedule_draws(tmp_path):
    random = np.random.default_rng(1)
    table = [random.integers(0, 10, 60, np.int32) for _ in range(2)]
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps({"segments": [[1, policy.tolist()] for policy in table]}))
    for epoch, policy in enumerate(table):
        ops, drawn = rows_of("pba", epoch, policy=policy)
        others, scheduled = rows_of(f"schedule('{file}')", epoch)
        assert ops == others and (drawn > 0).mean() > 0.5
        np.testing.assert_array_equal(drawn, scheduled)


@pytest.mark.slow
def test_a_traced_policy_equals_the_schedule_bit_for_bit(tmp_path):
    random = np.random.default_rng(1)
    policies = [random.integers(0, 10, 60, np.int32) for _ in range(2)]
    file = tmp_path / "schedule.json"
    segments = [[1, policies[0].tolist()], [2, policies[1].tolist()]]
    file.write_text(json.dumps({"segments": segments}))
    scheduled = maker(f"pad_crop(1)|schedule('{file}')|flip")
    traced = maker("pad_crop(1)|pba|flip")
    for epoch, policy in enumerate([policies[0], policies[1], policies[1]]):
        image = traced(epoch, **{"views.x.pba.policy": policy})
        np.testing.assert_array_equal(image, scheduled(epoch))
        part = jax.tree.map(lambda array: array[8:], BATCH)  # an image does not see its neighbours
        np.testing.assert_array_equal(
            image[8:], traced(epoch, part, **{"views.x.pba.policy": policy})
        )
    assert (image != traced(2)).any((1, 2, 3)).mean() > 0.5


def test_stages_that_share_draws_are_told_apart_within_a_view(tmp_path):
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps({"segments": [[1, [0] * 60]]}))
    calls = views.parse("x", f"pba|schedule('{file}')|pba", INFO, epochs=1).calls
    assert [call.draws for call in calls] == ["schedule", "schedule_1", "schedule_2"]
    assert [call.role for call in calls] == ["pba", "schedule", "pba_1"]
