"""One step function, many experiments: what differs is in the config alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.members import ended, matched
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.runtime import sharding
from kdaug_jax.training import population
from kdaug_jax.training.step import FAULT
from kdaug_jax.types import Outputs
from tests.conftest import tiny_config
from tests.training.bench import INFO, USER, Bench, distilled


def test_one_step_runs_everything_at_once():
    """Two-branch views, mutual learning, a term with parameters and state, a phase, a sweep."""
    config = tiny_config(
        views={
            "a1": "pad_crop(1)|randaugment(2, 3)",
            "a2": dict(ops='view("a1")|cutout(3)', branch=1),
        },
        networks={name: configs.network("tiny", trainable=True) for name in ("one", "two")},
        terms={
            "ce_one": configs.term("cross_entropy", ("a1", "a2"), student="one"),
            "ce_two": configs.term("cross_entropy", ("a1",), student="two"),
            "one_from_two": configs.term(
                "topk_kl", ("a1",), student="one", teacher="two", k=2, gradient_group="distill"
            ),
            "two_from_one": configs.term(
                "kl", ("a1",), student="two", teacher="one@a2", gradient_group="distill"
            ),
            "own": configs.term(
                f"{USER}:adapter", ("a2",), student="one", gradient_group="distill"
            ),
        },
        optim=dict(combine="clip_per_variable()", weight_decay=1e-3),
        phases=((1, {"views.a1": "flip", "terms.own.weight": 0.5}),),
    )
    before, after = (Bench(config, phase=phase) for phase in (0, 1))
    ends = []
    for overrides in (
        {},
        {"terms.one_from_two.weight": 0.1},
        {"terms.one_from_two.k": 4},
        {"seed": 5},
        {"views.a1.randaugment.m": 8},
    ):
        hparams = configs.overlay(before.program.hparams, before.program.ranges, overrides)
        state, rows = before.run(2, hparams)
        state, later = after.run(1, state=state)
        assert all(np.isfinite(value) for row in (*rows, *later) for value in row.values())
        assert int(state.term_state["own"]["calls"]) == 3
        assert {len(state.network_state[name]["bn"]["mean"]) for name in ("one", "two")} == {1, 2}
        ends.append(tuple(np.asarray(state.params["two"]["fc"]["bias"]).tolist()))
    assert len(set(ends)) == len(ends)
    assert before.step._cache_size() == after.step._cache_size() == 1


def test_distillation_learns(frozen_teacher):
    _, rows = Bench(distilled()).run(12)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    total = [row["train/ce"] + row["train/kd"] for row in rows]
    np.testing.assert_allclose([row["train/loss"] for row in rows], total, rtol=1e-6)


def test_two_branch_views_keep_their_statistics_apart():
    config = tiny_config(
        views={"a": "flip", "b": dict(ops="cutout(8, fill=255)", branch=1)},
        terms={"ce": configs.term("cross_entropy", ("a", "b"))},
    )
    state, _ = Bench(config).run(2)
    statistics = state.network_state["student"]["bn"]["mean"]
    assert statistics.shape[0] == 2
    assert not np.allclose(statistics[0], statistics[1])


def test_mutual_learning_trains_both_networks_at_once():
    networks = {name: configs.network("tiny", trainable=True) for name in ("one", "two")}
    terms = {
        "ce_one": configs.term("cross_entropy", ("x",), student="one"),
        "ce_two": configs.term("cross_entropy", ("x",), student="two"),
        "one_from_two": configs.term("kl", ("x",), student="one", teacher="two"),
        "two_from_one": configs.term("kl", ("x",), student="two", teacher="one"),
    }
    bench = Bench(tiny_config(networks=networks, terms=terms))
    start = bench.init(bench.program.hparams)
    state, rows = bench.run(1)
    for name in networks:
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start.params, state.params)[name]
        assert all(jax.tree.leaves(moved))
    assert rows[0]["train/one_from_two"] != rows[0]["train/two_from_one"]


def test_a_term_with_parameters_and_state():
    terms = {
        "ce": configs.term("cross_entropy", ("x",), weight=0.0),
        "own": configs.term(f"{USER}:adapter", ("x",), weight=0.0, width=2),
    }
    config = tiny_config(terms=terms, optim=dict(weight_decay=0.5, momentum=0.0))
    state, rows = Bench(config).run(2)
    assert state.params["terms"]["own"]["kernel"].shape[1] == 2
    assert int(state.term_state["own"]["calls"]) == 2
    assert rows[1]["train/own/calls"] == 2
    # Without gradients only decay moves parameters, and it spares the one it is told to.
    np.testing.assert_array_equal(state.params["terms"]["own"]["spared"], 1.0)
    np.testing.assert_allclose(state.params["terms"]["own"]["kernel"], 0.95**2, rtol=1e-6)


def test_a_phase_changes_views_and_weights_but_not_the_state():
    phases = ((1, {"views.x": "", "terms.ce.weight": 0.0, "optim.weight_decay": 0.0}),)
    config = tiny_config(phases=phases)
    first, second = (Bench(config, phase=phase) for phase in (0, 1))
    assert second.program.start_step == 5
    state, _ = first.run(5)
    after, rows = second.run(2, state=state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert rows[0]["train/loss"] == 0.0 < rows[0]["train/ce"]


def numbers_of(phases, path, **sections):
    config = tiny_config(views={"x": "randaugment(1, 3)"}, phases=phases, **sections)
    config.train.epochs = 4.0
    programs = build_programs(config, INFO)
    return [float(program.hparams[path]) for program in programs if path in program.hparams]


def test_later_phases_replace_what_earlier_ones_set():
    path = "views.x.randaugment.m"
    traced, written = {path: 5}, {"views.x": "randaugment(1, 2)"}
    assert numbers_of(((1, traced), (2, written)), path) == [3, 5, 2]
    assert numbers_of(((1, written), (2, traced)), path) == [3, 2, 5]
    assert numbers_of(((1, traced), (2, {"views.x": "flip"})), path) == [3, 5]
    smoothing = "terms.ce.label_smoothing"
    assert numbers_of(((1, {smoothing: 0.5}),), smoothing) == [0.0, 0.5]


def test_a_sweep_ends_where_a_phase_takes_its_stage_away():
    paths = ("views.x.randaugment.m", "terms.ce.weight")
    config = tiny_config(views={"x": "randaugment(1, 3)"}, phases=((1, {"views.x": "flip"}),))
    config.train.epochs = 4.0
    built = build_programs(config, INFO)
    members = population.members(((paths[0], (1, 7)), (paths[1], (1.0, 0.5))))
    phases = population.hparams(built, members)
    assert [hparams.get(paths[0], None) for hparams in phases[0]] == [1, 1, 7, 7]
    assert all(paths[0] not in hparams for hparams in phases[1])
    assert [hparams[paths[1]] for hparams in phases[1]] == [1.0, 0.5, 1.0, 0.5]
    assert ended(built, members) == [
        f"population: from phases.0 on there is no {paths[0]}, so that members no longer differ in "
        "it"
    ]


@pytest.mark.parametrize(
    "swept, overrides, message",
    [
        ("terms.ce.weight", {"terms.ce.weight": 0.0}, "phases.0 goes on with its value of 'terms"),
        ("terms.ce.weight.base", {"terms.ce.weight": 0.0}, "of 'terms.ce.weight'; take it out of"),
        ("views.x.randaugment.m", {"views.x.randaugment.m": 5}, "its value of 'views.x.randaug"),
        ("views.x.randaugment.m", {"views.x": "flip|randaugment(1, 5)"}, "of 'views.x'; take"),
        ("views.x.randaugment.m", {"views.x.ops": "randaugment(1, 5)"}, "of 'views.x.ops'; take"),
        ("optim.schedule.base", {"optim.schedule": dict(name="cosine", base=0.1)}, "of 'optim.sch"),
        ("optim.schedule", {"optim.schedule.base": 0.3}, "of 'optim.schedule.base'; take it out"),
        ("optim.weight_decay", {"optim.weight_decay": 0.1}, "of 'optim.weight_decay'; take it out"),
    ],
)
def test_a_path_that_is_swept_is_not_set_by_a_phase(swept, overrides, message):
    weight = dict(name="constant", base=1.0) if swept.endswith("weight.base") else 1.0
    built = build_programs(tiny_config(
        views={"x": "randaugment(1, 3)"}, phases=((1, overrides),),
        terms={"ce": configs.term("cross_entropy", ("x",), weight=weight)},
    ), INFO)
    values = (1, 7) if "views" in swept else (0.5, 1.0)
    with pytest.raises(ConfigError) as caught:
        population.hparams(built, population.members(((swept, values),)))
    assert str(caught.value).startswith(f"population: '{swept}' is swept, but phases.0")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_phase_set_may_not_come_back_under_a_sweep():
    changes = ((0.5, {"views.x": "flip"}), (1, {"views.x": "randaugment(1, 5)"}))
    built = build_programs(tiny_config(views={"x": "randaugment(1, 3)"}, phases=changes), INFO)
    with pytest.raises(ConfigError, match="but phases.1 goes on with its value of 'views.x'"):
        population.hparams(built, population.members((("views.x.randaugment.m", (1, 7)),)))


@pytest.mark.parametrize(
    "path, values, message",
    [
        ("terms.ce.weight", (0.1, 0.10000000001), "names 0.1 and 0.10000000001, which are one flo"),
        ("terms.ce.weight", (1, 1.0), "names 1 and 1.0, which are one float32; name each value"),
        ("terms.ce.weight", (0.0, 0.5, -0.0), "names 0.0 and -0.0, which are one float32"),
        ("optim.schedule", (0.3, 0.30000000000000004), "which are one float32; name each value on"),
        ("optim.weight_decay", (1e-4, 0.0001), "repeats a value"),
    ],
)
def test_members_are_of_different_numbers(path, values, message):
    built = build_programs(tiny_config(), INFO)
    with pytest.raises(ConfigError, match=message):
        population.hparams(built, population.members(((path, values), ("seed", (0, 1)))))


def test_members_are_matched_by_name():
    grid = (("optim.weight_decay", (0.1, 0.2)), ("seed", (0, 1)))
    members = population.members(grid)
    names = [member.name for member in members]
    assert matched(members, names[::-1], "w") == members[::-1]
    # A record holds lists, whose members have the same names.
    pair = (("views.x.random_resized_crop.scale", ((0.5, 1.0), (0.08, 1.0))),)
    assert population.members(configs.canonical({"population": pair})["population"]) == (
        population.members(pair)
    )
    with pytest.raises(CheckpointError) as caught:
        matched(members, [*names[1:], "seed=7"], "w/checkpoints")
    assert str(caught.value).startswith(
        "w/checkpoints: holds other members: it has no 'optim.weight_decay=0.1,seed=0', and it has "
        "'seed=7'; resume with the population"
    )
    with pytest.raises(CheckpointError, match="it has no run without population, and it has 'opt"):
        matched(population.members(()), names, "w")


@pytest.mark.parametrize(
    "grid, message",
    [
        ((("seed", (0, 0)),), "repeats a value"),
        ((("seed", ()),), "has no values"),
        ((("seed", (0,)), ("seed", (1,))), "there twice"),
        ((("optim.schedule", (0.1,)), ("optim.schedule.base", (0.2,))), "there twice"),
        (((3, (0,)),), "has no values"),
    ],
)
def test_populations_that_make_no_sense(grid, message):
    with pytest.raises(ConfigError, match=message):
        population.members(grid)


def test_weights_follow_their_schedules():
    weight = dict(name="milestones", base=0.5, at=(1, 2), factor=0.1, unit="step")
    terms = {"ce": configs.term("cross_entropy", ("x",), weight=weight)}
    _, rows = Bench(tiny_config(terms=terms)).run(3)
    shares = [row["train/loss"] / row["train/ce"] for row in rows]
    np.testing.assert_allclose(shares, [0.5, 0.05, 0.005], rtol=1e-5)


def test_relational_losses_stay_inside_their_group():
    terms = {"own": configs.term(f"{USER}:spread", ("x",))}
    _, whole = Bench(tiny_config(terms=terms, views={"x": ""})).run(1)
    bench = Bench(tiny_config(terms=terms, views={"x": ""}, train=dict(replica_batch_size=4)))
    state = bench.init(bench.program.hparams)
    variables = {"params": state.params["student"], "batch_stats": state.network_state["student"]}
    model, images = bench.program.networks["student"].model, bench.batch(0).image
    outputs, _ = model.apply(variables, images, train=True)
    groups = np.asarray(outputs.logits).reshape(2, 4, -1)
    expected = np.mean([np.var(group, axis=0).sum() for group in groups])
    _, split = bench.run(1)
    np.testing.assert_allclose(split[0]["train/own"], expected, rtol=1e-4)
    assert abs(split[0]["train/own"] - whole[0]["train/own"]) > 1e-6


def test_masked_rows_do_not_count():
    bench = Bench(tiny_config(views={"x": ""}))
    hparams, batch = bench.program.hparams, bench.batch(0)
    state = bench.init(hparams)
    clock = bench.program.clock(state.step, hparams)
    values = []
    for mask in ([True] * 8, [True] * 4 + [False] * 4):
        masked = batch.replace(mask=jnp.asarray(mask))
        made, *_ = bench.program.make_views(clock, masked, hparams, {}, {})
        context = bench.program.context(made, clock, hparams)
        outputs, _ = bench.program.run_networks(
            state.params, state.network_state, {}, {}, context
        )
        values.append(
            (
                bench.program.compute_terms({}, {}, outputs, context)[1][0],
                outputs["student@x"].logits,
            )
        )
    logs = jax.nn.log_softmax(values[1][1])[jnp.arange(4), batch.label[:4]]
    np.testing.assert_allclose(values[1][0], -logs.mean(), rtol=1e-5)
    assert values[0][0] != values[1][0]


@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.parametrize(
    "loss, gave", [("unreduced", r"an array of shape .*4\]"), ("with_more", "a tuple")]
)
def test_a_loss_of_another_form_is_refused(loss, gave, group):
    terms = {"own": configs.term(f"{USER}:{loss}", ("x",))}
    config = tiny_config(terms=terms, train=dict(replica_batch_size=group))
    with pytest.raises(ConfigError, match=f"^terms.own: {loss} returned {gave} for a batch of"):
        build_programs(config, INFO)


def test_a_sweep_of_weight_magnitude_k_and_seed_compiles_once(frozen_teacher):
    bench = Bench(distilled())
    losses = set()
    for overrides in (
        {},
        {"terms.kd.weight": 0.5},
        {"views.x.randaugment.m": 7},
        {"terms.kd.k": 4},
        {"seed": 9},
        {"optim.schedule.base": 0.01, "optim.momentum": 0.5, "optim.weight_decay": 1e-3},
    ):
        hparams = configs.overlay(bench.program.hparams, bench.program.ranges, overrides)
        _, rows = bench.run(2, hparams)
        losses.add(rows[1]["train/loss"])
    assert len(losses) == 6
    assert bench.step._cache_size() == 1


def not_numbers(tree):
    """Variables of the same form that would spoil whatever is computed from them."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tree)


def test_given_outputs_are_not_run(frozen_teacher):
    bench = Bench(distilled())
    hparams, batch = bench.program.hparams, bench.batch(0)
    state = bench.init(hparams)
    clock = bench.program.clock(state.step, hparams)
    image = bench.program.make_views(clock, batch, hparams, {}, {})[0]["x"].image
    teacher = bench.program.networks["teacher"].model
    outputs, _ = teacher.apply(bench.frozen["teacher"], image, train=False)
    live, _ = bench.step(state, bench.frozen, batch, hparams)
    spoilt = not_numbers(bench.frozen)
    given, metrics = bench.step(state, spoilt, batch, hparams, {"teacher@x": outputs})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), live, given)
    assert metrics[FAULT][0] == 0
    wrong = Outputs(outputs.logits[:, ::-1], outputs.features)
    other, _ = bench.step(state, spoilt, batch, hparams, {"teacher@x": wrong})
    assert not np.allclose(
        other.params["student"]["fc"]["bias"], live.params["student"]["fc"]["bias"]
    )
    _, metrics = bench.step(state, spoilt, batch, hparams)
    assert bench.program.term_names[int(metrics[FAULT][0]) - 1] == "kd"


def test_teachers_may_see_another_view_and_be_several(frozen_teacher):
    networks = {
        "student": configs.network("tiny", trainable=True),
        "t1": configs.network("tiny_wide"),
        "t2": configs.network("tiny_wide"),
    }
    views = {"x": "cutout(8)", "clean": ""}
    terms = {"kd": configs.term("kl", ("x",), teacher=("t1@clean", "t2@clean"))}
    bench = Bench(distilled(networks=networks, views=views, terms=terms))
    assert bench.program.pairs == (("student", "x"), ("t1", "clean"), ("t2", "clean"))
    _, averaged = bench.run(1)
    # Both teachers have the same weights here, so their average is each of them.
    single = {"kd": configs.term("kl", ("x",), teacher="t1@clean")}
    del networks["t2"]
    _, alone = Bench(distilled(networks=networks, views=views, terms=single)).run(1)
    np.testing.assert_allclose(averaged[0]["train/kd"], alone[0]["train/kd"], rtol=1e-5)


def test_a_teacher_is_a_constant_unless_asked_otherwise():
    networks = {name: configs.network("tiny", trainable=True) for name in ("one", "two")}
    moved = {}
    for detach in (True, False):
        terms = {"kd": configs.term("kl", ("x",), student="one", teacher="two", detach=detach)}
        bench = Bench(tiny_config(networks=networks, terms=terms))
        start = bench.init(bench.program.hparams)
        state, _ = bench.run(1)
        moved[detach] = bool(
            jnp.any(start.params["two"]["fc"]["kernel"] != state.params["two"]["fc"]["kernel"])
        )
    assert moved == {True: False, False: True}


@pytest.mark.parametrize("combine", ["sum()", "clip_per_variable(start=2)"])
def test_gradient_groups(frozen_teacher, combine):
    config = distilled(optim=dict(combine=combine, momentum=0.0, schedule=dict(base=1.0)))
    bench = Bench(config)
    batch, hparams = bench.batch(0), bench.program.hparams
    state = bench.init(hparams)
    clock = bench.program.clock(state.step, hparams)
    made, *_ = bench.program.make_views(clock, batch, hparams, {}, {})
    context = bench.program.context(made, clock, hparams)

    def part(params, term):
        outputs, _ = bench.program.run_networks(
            params, state.network_state, bench.frozen, {}, context
        )
        raw = bench.program.compute_terms({}, {}, outputs, context)[1]
        return raw[bench.program.term_names.index(term)]

    task, distill = (jax.grad(part)(state.params, term)["student"] for term in ("ce", "kd"))

    def expected(task, distill):
        if combine == "sum()":
            return task + distill
        limit = np.linalg.norm(task.ravel()) / (1 + np.exp(2.0))
        norm = np.linalg.norm(distill.ravel())
        return task + distill * min(1.0, limit / norm)

    after, _ = bench.step(state, bench.frozen, batch, hparams)
    moved = jax.tree.map(lambda a, b: a - b, state.params["student"], after.params["student"])
    jax.tree.map(
        lambda got, *parts: np.testing.assert_allclose(got, expected(*parts), atol=2e-6),
        moved,
        task,
        distill,
    )


def test_not_finite_changes_nothing_and_names_the_term():
    terms = {
        "bad": configs.term(f"{USER}:infinite", ("x",)),
        "ce": configs.term("cross_entropy", ("x",)),
    }
    bench = Bench(tiny_config(terms=terms, optim=dict(ema=0.9)))
    start = bench.init(bench.program.hparams)
    state, rows = bench.run(1)
    assert bench.program.term_names[int(rows[0][FAULT]) - 1] == "bad"
    jax.tree.map(np.testing.assert_array_equal, start.replace(step=state.step), state)
    assert int(state.step) == 1


def test_averaged_weights_follow_with_a_ramp():
    bench = Bench(tiny_config(optim=dict(ema=0.9)))
    states = [bench.init(bench.program.hparams)]
    for _ in range(3):
        states.append(bench.run(1, state=states[-1])[0])
    expected = np.asarray(states[0].params["student"]["fc"]["kernel"])
    for number, state in enumerate(states[1:]):
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * state.params["student"]["fc"]["kernel"]
    averaged = states[-1].ema["params"]["student"]["fc"]["kernel"]
    np.testing.assert_allclose(averaged, expected, rtol=1e-5)
    statistics = [state.ema["network_state"]["student"]["bn"]["mean"] for state in states]
    assert not np.array_equal(statistics[0], statistics[-1])
    assert not np.array_equal(statistics[-1], states[-1].network_state["student"]["bn"]["mean"])


def test_one_and_four_devices_agree(frozen_teacher):
    config = distilled(train=dict(replica_batch_size=4))
    benches = [Bench(config, devices=count) for count in (1, 4)]
    images = []
    for bench in benches:
        clock = bench.program.clock(jnp.int32(0), bench.program.hparams)
        run = jax.jit(
            lambda batch, bench=bench, clock=clock: (
                bench.program.make_views(clock, batch, bench.program.hparams, {}, {})[0]["x"].image
            )
        )
        images.append(np.asarray(run(bench.batch(0))))
    np.testing.assert_array_equal(*images)
    results = [bench.run(3) for bench in benches]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)


def test_several_steps_a_call_equal_single_steps(frozen_teacher):
    bench = Bench(distilled())
    whole = sharding.replicated(bench.mesh)
    states = []
    for steps in (1, 2):
        call = population.make_call(bench.program, bench.feed, steps, whole)
        state = bench.init(bench.program.hparams)
        for start in range(0, 4, steps):
            items = np.stack([bench.feed.item(start + offset) for offset in range(steps)])
            state, _ = call(state, bench.frozen, bench.feed.constants, items, bench.program.hparams)
        states.append(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)


def test_given_outputs_reach_the_step_through_a_call(frozen_teacher):
    bench = Bench(distilled())
    program, whole = bench.program, sharding.replicated(bench.mesh)
    teacher = program.networks["teacher"].model
    outputs = []
    for step in range(2):
        clock = program.clock(jnp.int32(step), program.hparams)
        views, *_ = program.make_views(clock, bench.batch(step), program.hparams, {}, {})
        outputs.append(teacher.apply(bench.frozen["teacher"], views["x"].image, train=False)[0])
    items = np.stack([bench.feed.item(step) for step in range(2)])
    given = {"teacher@x": jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)}
    ends = []
    for frozen, extra in ((bench.frozen, None), (not_numbers(bench.frozen), given)):
        call = population.make_call(program, bench.feed, 2, whole)
        states, metrics = population.advance(
            call, [bench.init(program.hparams)], frozen, bench.feed.constants, [items],
            [program.hparams], extra,
        )
        assert not np.any(metrics[0][FAULT][0])
        ends.append(states)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *ends)


@pytest.mark.parametrize("replica_batch_size", [0, 2])
def test_accumulated_gradients_are_those_of_the_whole_batch(frozen_teacher, replica_batch_size):
    """With statistics of groups that micro-batches keep whole, accumulating changes nothing."""
    results = []
    for accumulate in (1, 2, 4):
        train = dict(replica_batch_size=replica_batch_size or 1, accumulate=accumulate)
        combine = "clip_per_variable()" if replica_batch_size else "sum()"
        bench = Bench(distilled(train=train, optim=dict(combine=combine, momentum=0.0)))
        state, rows = bench.run(1)
        results.append((state.params, rows[0]["train/loss"], rows[0]["train/kd"]))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), results[0], other)


@pytest.mark.parametrize(
    "views, on", [({"x": ""}, ("x",)), ({"x": "", "y": "flip", "z": dict(ops="", branch=1)}, "xyz")]
)
def test_micro_batches_update_running_statistics_once(views, on):
    """As if the batch were one part: groups of one example are normalised alike in both."""
    states = []
    for accumulate in (1, 2, 4):
        train = dict(accumulate=accumulate, replica_batch_size=1)
        terms = {"ce": configs.term("cross_entropy", tuple(on))}
        bench = Bench(tiny_config(train=train, views=views, terms=terms))
        state, _ = bench.run(1)
        states.append(state.network_state["student"])
    start = bench.init(bench.program.hparams).network_state["student"]
    for other in states[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), states[0], other
        )
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start, states[0])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    "sections, message",
    [
        (dict(terms={"ce": configs.term("cross_entropi", ("x",))}), "did you mean cross_entropy"),
        (dict(terms={"ce": configs.term("cross_entropy", ("y",))}), "no view 'y'"),
        (dict(terms={"ce": configs.term("cross_entropy", ())}), "names no view"),
        (
            dict(terms={"ce": configs.term("cross_entropy", ("x",), smoothing=0.1)}),
            "did you mean label_smoothing",
        ),
        (
            dict(terms={"ce": configs.term("cross_entropy", ("x",), label_smoothing=1.5)}),
            "at most 1",
        ),
        (dict(terms={"ce": configs.term("cross_entropy", ("x",), weight=-1.0)}), "at least 0"),
        (
            dict(terms={"ce": configs.term("cross_entropy", ("x",), teacher="student")}),
            "takes no teacher",
        ),
        (dict(terms={"kd": configs.term("kl", ("x",))}), "needs a teacher"),
        (dict(terms={"kd": configs.term("kl", ("x",), teacher="techer")}), "no network 'techer'"),
        (
            dict(terms={"kd": configs.term("topk_kl", ("x",), teacher="student", k=5)}),
            "at most 4 (num classes)",
        ),
        (
            dict(terms={"kd": configs.term("kl", ("x",), teacher="student", temperature=0.0)}),
            "more than 0",
        ),
        (dict(terms={"kd": configs.term("no.such:loss", ("x",))}), "cannot import"),
        (dict(terms={"ce": configs.term("cross_entropy", ("x",), gradient_group="other")}), "task"),
        (dict(networks={"student": configs.network("tinny", trainable=True)}), "did you mean tiny"),
        (
            dict(networks={"student": configs.network("lenet_vrm", trainable=True)}),
            "at least 16 pixels",
        ),
        (
            dict(networks={n: configs.network("tiny", trainable=True) for n in ("student", "b")}),
            "no term uses it",
        ),
        (dict(data=dict(batch_size=41)), "more than the 40 training examples"),
        (dict(optim=dict(schedule=dict(name="cosin", base=0.1))), "did you mean cosine"),
        (
            dict(terms={"ce": configs.term("cross_entropy", ("x",), weight=dict(name="cosine"))}),
            "has no base value",
        ),
        (dict(optim=dict(schedule=dict(name="cosine", base=0.1, warmup=9.0))), "make it shorter"),
        (dict(train=dict(accumulate=3)), "use a divisor of 8"),
        (dict(train=dict(accumulate=4, replica_batch_size=4)), "cannot share groups 2 evenly"),
        (dict(optim=dict(decay="some")), "unknown scope"),
        (dict(optim=dict(combine="mean()")), "unknown combination"),
        (dict(optim=dict(momentum=1.5)), "at most 1"),
        (dict(phases=((3, {"views.x": ""}),)), "inside the run"),
        (dict(phases=((1, {"views.z": ""}),)), "there is no such field"),
        (dict(phases=((float("nan"), {"views.x": ""}),)), "phases.0.epoch: got nan"),
        (dict(phases=(("1", {"views.x": ""}),)), "must be a number"),
        (dict(phases=((1, ["views.x"]),)), "overrides are"),
        (dict(phases=((1, {"data.batch_size": 4}),)), "phases change views, terms, optim"),
        (dict(phases=((1, {"": 4}),)), "phases change views, terms, optim"),
        (dict(phases=((1, {"optim.clip_norm": 4.0}),)), "changes what the run stores"),
        (dict(phases=((1, {"optim.ema": 0.9}),)), "changes what the run stores"),
        (dict(views={"x": dict(ops="", branch=1)}), "branch 0, which is evaluated"),
        (dict(terms={"ce": configs.term("cross_entropy", ("x", "x"))}), "or one twice"),
        (
            dict(terms={"ce": configs.term("cross_entropy", ("x",), student="student@x")}),
            "write the view in `on`",
        ),
        (dict(optim=dict(ema=1.0)), "at most 0.999999"),
        (
            dict(
                networks={
                    "student": configs.network("tiny", trainable=True, options=dict(dropout=0.5))
                }
            ),
            "has no 'dropout'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(sections, message):
    with pytest.raises(ConfigError) as caught:
        build_programs(tiny_config(**sections), INFO)
    assert message in str(caught.value)


def test_only_traced_numbers_can_be_swept():
    program = build_programs(tiny_config(), INFO)[0]
    with pytest.raises(ConfigError, match="not a traced number"):
        configs.overlay(program.hparams, program.ranges, {"views.x.pad_crop.padding": 2})
    with pytest.raises(ConfigError, match="at most 1"):
        configs.overlay(program.hparams, program.ranges, {"optim.momentum": 2.0})
