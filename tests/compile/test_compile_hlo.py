"""Counts in the text of compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kdaug_jax.compile import hlo
from kdaug_jax.runtime import sharding

# As libtpu writes it: a loop of 3 turns, an asynchronous collective, branches, a kernel.
PROGRAM = """\
HloModule jit_call, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%fused_gather (param_0: s32[256], param_1: s32[4,5,3]) -> s32[4,5] {
  %param_0 = s32[256]{0:T(256)} parameter(0)
  %param_1 = s32[4,5,3]{2,1,0} parameter(1)
  ROOT %gather.18 = s32[4,5]{1,0:T(2,128)} gather(%param_0, %param_1), offset_dims={}, \
collapsed_slice_dims={0}, index_vector_dim=2, slice_sizes={1}
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %fusion.1 = s32[4,5]{1,0:T(2,128)} fusion(%a, %b), kind=kCustom, calls=%fused_gather
  %fusion.2 = f32[8]{0} fusion(%a), kind=kLoop, calls=%cheap, backend_config={"window_config":\
{"estimated_cycles":"100"}}
  %all-reduce-start.1 = f32[8]{0} all-reduce-start(%fusion.2), to_apply=%add
  %all-reduce-done.1 = f32[8]{0} all-reduce-done(%all-reduce-start.1)
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%i, %all-reduce-done.1)
}

%condition (arg: (s32[], f32[8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(3)
  %arg.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %constant.5), direction=LT
}

%cheap (p: f32[8]) -> f32[8] {
  ROOT %p = f32[8]{0} parameter(0)
}

%dear (p: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  %updates = f32[6,2]{1,0} parameter(1)
  ROOT %scatter = f32[8]{0} scatter(%p.1, %indices, %updates), update_window_dims={1}, to_apply=%add
}

%wrapped (p: bf16[4]) -> bf16[8] {
  %p.2 = bf16[4]{0} parameter(0)
  ROOT %all-gather.3 = bf16[8]{0} all-gather(%p.2), dimensions={0}
}

ENTRY %main (param: f32[8]) -> f32[8] {
  %param = f32[8]{0} parameter(0)
  %while.8 = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%tuple), condition=%condition, body=%body
  %conditional = f32[8]{0} conditional(%which, %param, %param), branch_computations={%cheap, %dear}
  %async-start = ((bf16[4]), bf16[8]{0}) async-start(%half), calls=%wrapped
  %async-done = bf16[8]{0} async-done(%async-start)
  %pair = (f32[2,3]{1,0:T(8,128)}, pred[5]{0}) all-reduce(%a, %b), to_apply=%add
  %augment.1 = u32[2,8,8]{2,1,0:T(8,128)} custom-call(%param), custom_call_target="tpu_custom_call"
  %custom-call.5 = s32[4]{0} custom-call(%param), custom_call_target="AssumeGatherIndicesInBound"
  ROOT %copy = f32[8]{0} copy(%param), backend_config={"estimated_cycles":"7"}
}
"""


def test_counts_follow_loops_branches_and_calls():
    profile = hlo.profile(PROGRAM)
    assert profile.cycles == 3 * 100 + 7
    assert (profile.gathered, profile.scattered) == (3 * 20, 6)
    assert profile.all_cycles == 307 + 10 * 66
    assert profile.collectives == {
        "all-gather": (1, 16), "all-reduce": (3 + 1, 3 * 32 + 24 + 5),
    }
    assert profile.kernels == {"augment": 1}
    assert profile.unknown_loops == 0


def test_launches_follow_loops_and_branches():
    # Two fusions in each of three turns, two calls and a copy; in one branch a scatter.
    assert hlo.launches(PROGRAM) == (9, 10)


@pytest.mark.parametrize(
    "changed, turns",
    [
        ('body=%body, backend_config={"known_trip_count":{"n":"12"}}', 12),
        ("body=%body", 3),
    ],
)
def test_turns_of_loops_are_noted_or_compared(changed, turns):
    profile = hlo.profile(PROGRAM.replace("body=%body", changed))
    assert (profile.cycles, profile.unknown_loops) == (turns * 100 + 7, 0)


def test_a_loop_of_unknown_turns_counts_once_and_is_told():
    profile = hlo.profile(PROGRAM.replace("constant(3)", "parameter(1)"))
    assert (profile.cycles, profile.unknown_loops) == (107, 1)


def test_a_row_of_neighbours_costs_as_much_as_its_vectors():
    rows = PROGRAM.replace("s32[4,5]{1,0:T(2,128)} gather", "s32[20,300]{1,0} gather")
    assert hlo.profile(rows.replace("slice_sizes={1}", "slice_sizes={1,300}")).gathered == 3 * 60


@pytest.mark.parametrize(
    "shape, size",
    [("f32[]", 4), ("(bf16[2,3]{1,0:T(8,128)(2,1)}, s4[3])", 14), ("pred[0,4]", 0), ("token[]", 0)],
)
def test_bytes_of_shapes(shape, size):
    assert hlo.shape_bytes(shape) == size


def test_a_program_of_this_machine():
    mesh = sharding.make_mesh(-1, 8)
    split = NamedSharding(mesh, PartitionSpec(sharding.DATA))

    def total(table, rows):
        picked = jnp.take(table, rows.astype(jnp.int32))
        scan = jax.lax.scan(lambda carry, _: (jnp.sin(carry) + picked.sum(), None), 0.0, length=5)
        return scan[0]

    jitted = jax.jit(total, in_shardings=(sharding.replicated(mesh), split))
    text = jitted.lower(jnp.ones(16), jnp.ones(8)).compile().as_text()
    computations, entry = hlo.parse(text)
    assert entry in computations and len(computations) > 3
    profile = hlo.profile(text)
    assert profile.collectives["all-reduce"] == (1, 4)
    assert (profile.gathered, profile.unknown_loops, profile.cycles) == (2, 0, 0)
