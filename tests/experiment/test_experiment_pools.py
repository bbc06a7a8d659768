"""Pools of views: what draws again, which rows are kept, what networks score and store."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import losses, rng
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.experiment.views import Rows, draws_of, rows_after
from kdaug_jax.types import Batch, Clock, Info, Outputs
from tests.training.bench import INFO as DATA
from tests.training.bench import Bench, distilled

INFO = Info(4, (12, 12), np.zeros(16, np.int32), (10.0, 20.0, 30.0), (1.0, 1.0, 1.0))


def make(expressions, groups=1, step=0):
    specs = views.parse_all(expressions, INFO)
    values, _ = views.hparams(specs)
    clock = Clock(np.uint32(0), np.int32(0), np.int32(step))
    index = np.arange(16, dtype=np.int32)
    images = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)
    batch = Batch(images, index % 4, index, np.ones(16, bool))
    return jax.jit(lambda batch: views.make(specs, clock, batch, values, INFO, groups))(batch)


def copies(array, n):
    return np.asarray(array).reshape(-1, n, *array.shape[1:])


def test_what_comes_before_repeat_is_shared_and_what_comes_after_draws_again():
    made = make({"x": "pad_crop(4)|repeat(3)", "y": "repeat(3)|pad_crop(4)", "z": "pad_crop(4)"})
    shared, fresh = copies(made["x"].image, 3), copies(made["y"].image, 3)
    for copy in range(3):
        # Views have keys of their own, so x and z differ but each agrees with itself.
        np.testing.assert_array_equal(shared[:, copy], shared[:, 0])
        assert copy == 0 or not np.array_equal(fresh[:, copy], fresh[:, 0])
    assert not np.array_equal(fresh[:, 1], fresh[:, 2])
    np.testing.assert_array_equal(copies(made["y"].index, 3)[:, 1], np.arange(16))
    # The first copy draws what it would without `repeat`.
    np.testing.assert_array_equal(fresh[:, 0], make({"y": "pad_crop(4)"})["y"].image)
    assert not np.array_equal(fresh[:, 0], made["z"].image)


def test_a_view_of_a_pool_goes_on_drawing_for_each_copy():
    made = make({"x": "repeat(2)", "y": 'view("x")|pad_crop(4)', "z": "repeat(2)|repeat(2)|flip"})
    pair = copies(made["y"].image, 2)
    assert not np.array_equal(pair[:, 0], pair[:, 1])
    flips = copies(made["z"].image, 4).reshape(16, 4, -1)
    different = [len(np.unique(image, axis=0)) for image in flips]
    assert set(different) == {1, 2} and np.mean(different) > 1.6  # 7/8 of them, not 1/2


@pytest.mark.parametrize("groups", [1, 4])
def test_mixing_stays_inside_a_draw_and_draws_differ(groups):
    text = "cutmix(1.0, partner='derangement')"
    pool = make({"m": "repeat(2)|" + text}, groups)["m"]
    plain = make({"m": text}, groups)["m"]
    image, target = copies(pool.image, 2), copies(pool.target, 2)
    np.testing.assert_array_equal(image[:, 0], plain.image)
    np.testing.assert_array_equal(target[:, 0], plain.target)
    assert not np.array_equal(target[:, 1], target[:, 0])
    # In a draw each example of a group is partner once, so the group's labels keep their sum.
    sums = target.reshape(groups, 16 // groups, 2, 4).sum(axis=1)
    np.testing.assert_allclose(sums, 4 / groups, atol=1e-5)


def test_draw_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    same = rng.redraw(keys, jnp.asarray([0, 1, 2]))
    data = jax.random.key_data
    assert (data(same)[0] == data(keys)[0]).all()
    assert (data(same)[1:] != data(keys)[1:]).any(axis=1).all()
    assert (data(rng.redraw(keys, jnp.full(3, 1)))[1] == data(same)[1]).all()


def test_rows_are_counted_group_by_group():
    pool = (Rows(2), Rows(0.5, "views.m.pick"))
    assert rows_after(pool, 5) == 5 and draws_of(pool) == 1
    assert rows_after((Rows(0.29, "p"),), 100) == 29
    assert rows_after((Rows(0.5, "p"),), 5) == 2
    assert draws_of((Rows(2), Rows(3))) == 6 and draws_of((Rows(2), Rows(0.5, "p"), Rows(4))) == 4


def pooled(text='view("x")|repeat(2)|cutmix|pick("kl")', **sections):
    terms = {
        "ce": configs.term("cross_entropy", ("x",), weight=0.1),
        "kd": configs.term("kl", ("x", "mixed"), teacher="teacher", temperature=4.0, weight=0.9),
    }
    settings = dict(views={"x": "pad_crop(1)|flip", "mixed": text}, terms=terms)
    return distilled(**{**settings, **sections})


def parts(bench, groups=1):
    """The views of the first step, and everything that they were chosen from."""
    program, hparams = bench.program, bench.program.hparams
    state, batch = bench.init(hparams), bench.batch(0)
    clock = program.clock(state.step, hparams)
    variables = program.variables(state.params, state.network_state, bench.frozen)
    made = jax.jit(lambda: program.make_views(clock, batch, hparams, variables, {}))()
    texts = {name: view["ops"] for name, view in program.config["views"].items()}
    texts["mixed"] = texts["mixed"][: texts["mixed"].rindex("|pick")]
    specs = views.parse_all(texts, DATA)
    pool = jax.jit(lambda: views.make(specs, clock, batch, hparams, DATA, groups))()["mixed"]
    return made, pool, variables, state


@pytest.mark.parametrize(
    "by, draws, keep, groups",
    [("kl", 2, 0.5, 1), ("kl", 2, 0.5, 2), ("teacher_entropy", 1, 0.5, 2),
     ("student_entropy", 3, 0.25, 1)],
)
def test_pick_keeps_the_hardest_of_each_group(frozen_teacher, by, draws, keep, groups):
    text = f'view("x")|repeat({draws})|cutmix(1.0, per="example")|pick("{by}", keep={keep})'
    bench = Bench(pooled(text, train=dict(replica_batch_size=8 // groups)))
    (made, given, metrics), pool, variables, _ = parts(bench, groups)
    networks = bench.program.networks
    teacher, _ = networks["teacher"].model.apply(variables["teacher"], pool.image, train=False)
    student, _ = networks["student"].model.apply(
        variables["student"], pool.image, train=True, branches=(0,) * draws, groups=groups
    )
    score = np.asarray(losses.PICKERS[by](student.logits, teacher.logits))
    rows = 8 * draws // groups
    count = int(keep * rows)
    kept = np.concatenate([
        np.argsort(scores, kind="stable")[-count:] + number * rows
        for number, scores in enumerate(score.reshape(groups, rows))
    ])
    np.testing.assert_array_equal(made["mixed"].index, pool.index[kept])
    np.testing.assert_array_equal(made["mixed"].image, pool.image[kept])
    np.testing.assert_allclose(made["mixed"].target, pool.target[kept])
    assert len(made["mixed"].label) == count * groups
    # The teacher's outputs are reused; the student, which is trained, runs again.
    assert set(given) == {"teacher@mixed"}
    np.testing.assert_allclose(given["teacher@mixed"].logits, teacher.logits[kept], atol=1e-5)
    distance = np.asarray(losses.kl_score(student.logits, teacher.logits))
    np.testing.assert_allclose(
        metrics["mixed/ratio"][0], distance[kept].mean() / distance.mean(), rtol=1e-4
    )


def test_scoring_changes_no_statistics_and_gives_no_gradient(frozen_teacher):
    """A step with a pick is the step on the kept rows as they are."""
    bench = Bench(pooled(optim=dict(momentum=0.0)))
    (made, _, _), _, _, state = parts(bench)
    program, batch = bench.program, bench.batch(0)
    hparams = program.hparams
    after, _ = bench.step(state, bench.frozen, batch, hparams)
    context = program.context(made, program.clock(state.step, hparams), hparams)

    def losses_of(params):
        outputs, statistics = program.run_networks(
            params, state.network_state, bench.frozen, {}, context
        )
        return program.compute_terms({}, {}, outputs, context)[0]["all"], statistics

    grads, statistics = jax.grad(losses_of, has_aux=True)(state.params)
    rate = program.learning_rate(hparams, state.step)
    expected = jax.tree.map(lambda p, g: p - rate * g, state.params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), after.params, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.network_state, statistics
    )


def test_the_teacher_runs_once_on_the_pool_and_not_on_what_is_kept(frozen_teacher):
    bench = Bench(pooled())
    model = bench.program.networks["teacher"].model
    batches = []

    def counted(variables, image, **options):
        batches.append(image.shape[0])
        return model.apply(variables, image, **options)

    bench.program.networks["teacher"] = bench.program.networks["teacher"]._replace(
        model=model._replace(apply=counted)
    )
    state, batch = bench.init(bench.program.hparams), bench.batch(0)
    batches.clear()
    jax.eval_shape(
        lambda: bench.step.__wrapped__(state, bench.frozen, batch, bench.program.hparams)
    )
    assert sorted(batches) == [8, 16]  # view x, and the pool of 2 x 8


def test_a_picked_view_trains_and_is_measured(frozen_teacher):
    bench = Bench(pooled(train=dict(epochs=8.0)))
    _, rows = bench.run(30)
    assert np.mean([row["train/kd"] for row in rows[-5:]]) < np.mean(
        [row["train/kd"] for row in rows[:5]]
    )
    assert all(row["train/mixed/ratio"] > 1 for row in rows)
    assert all(0 <= row["train/mixed/disagreement"] <= 8 for row in rows)
    assert "train/x/disagreement" not in rows[0]  # its labels are not mixed


def test_disagreement_counts_where_the_teacher_contradicts_the_mixed_label(frozen_teacher):
    bench = Bench(pooled('view("x")|cutmix(1.0)'))
    hparams, batch = bench.program.hparams, bench.batch(0)
    state = bench.init(hparams)
    _, metrics = bench.step(state, bench.frozen, batch, hparams)
    clock = bench.program.clock(state.step, hparams)
    made, *_ = bench.program.make_views(clock, batch, hparams, {}, {})
    teacher = bench.program.networks["teacher"].model
    outputs, _ = teacher.apply(bench.frozen["teacher"], made["mixed"].image, train=False)
    expected = np.argmax(outputs.logits, -1) != np.argmax(made["mixed"].target, -1)
    total, count = metrics["train/mixed/disagreement"]
    assert total == expected.sum() and count == 8


def test_picks_agree_on_any_number_of_devices(frozen_teacher):
    config = pooled(train=dict(replica_batch_size=2))
    ends = [Bench(config, devices=devices).run(2) for devices in (1, 4)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), *ends)
    whole = [Bench(pooled(), devices=devices).run(2) for devices in (1, 4)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), *whole)


def test_accumulation_shares_the_kept_rows(frozen_teacher):
    ends = []
    for parts in (1, 2):
        config = pooled(
            train=dict(replica_batch_size=2, accumulate=parts), optim=dict(momentum=0.0)
        )
        state, rows = Bench(config).run(1)
        ends.append((state.params, rows[0]["train/loss"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *ends)


def test_rows_kept_of_one_example_still_draw_for_themselves(frozen_teacher):
    text = 'repeat(4)|pick("teacher_entropy", keep=1.0, ratio=False)|pad_crop(4)'
    bench = Bench(pooled(text, train=dict(replica_batch_size=0)))
    (made, given, metrics), *_ = parts(bench)
    assert given == {} and metrics == {}  # a later stage changes what the teacher saw
    first = np.asarray(made["mixed"].index) == np.asarray(made["mixed"].index)[0]
    assert first.sum() == 4
    assert len(np.unique(np.asarray(made["mixed"].image)[first], axis=0)) > 1


def test_trained_networks_may_choose_for_each_other():
    networks = {name: configs.network("tiny", trainable=True) for name in ("one", "two")}
    terms = {
        "ce": configs.term("cross_entropy", ("x",), student="two"),
        "kl": configs.term("kl", ("m",), student="one", teacher="two"),
    }
    chosen = 'view("x")|repeat(2)|mixup(1.0)|pick("kl", student="one", teacher="two")'
    from tests.conftest import tiny_config

    bench = Bench(tiny_config(networks=networks, terms=terms, views={"x": "flip", "m": chosen}))
    _, rows = bench.run(2)
    assert rows[1]["train/m/ratio"] > 1


def test_given_outputs_win(frozen_teacher):
    bench = Bench(pooled())
    state, batch = bench.init(bench.program.hparams), bench.batch(0)
    wrong = Outputs(jnp.zeros((8, 4)), {})
    other, _ = bench.step(
        state, bench.frozen, batch, bench.program.hparams, {"teacher@mixed": wrong}
    )
    live, _ = bench.step(state, bench.frozen, batch, bench.program.hparams)
    assert not np.allclose(
        other.params["student"]["fc"]["bias"], live.params["student"]["fc"]["bias"]
    )


POOL = 'view("x")|repeat(2)|cutmix(1.0)|'


@pytest.mark.parametrize(
    "text, sections, message",
    [
        ("repeat(0)", {}, "views.mixed.repeat: got n=0; must be at least 1"),
        ("repeat(1.5)", {}, "views.mixed.repeat.n: got 1.5; must be a int"),
        (POOL + "pick", {}, "views.mixed.pick: argument 'by' is missing; takes (by, keep"),
        (POOL + 'pick("kld")', {}, "views.mixed.pick: unknown score 'kld'; did you mean kl?"),
        (POOL + 'pick("kl", keep=0.0)', {}, "got keep=0; must be more than 0 and at most 1"),
        (POOL + 'pick("kl", keep=1.5)', {}, "got keep=1.5; must be more than 0 and at most 1"),
        (POOL + 'pick("kl", temperature=0.0)', {}, "views.mixed.pick.temperature: got 0.0"),
        (POOL + 'pick("kl", teacher="teach")', {},
         "views.mixed.pick: no network 'teach'; did you mean teacher"),
        (POOL + 'pick("kl", keep=0.05)', {},
         "views.mixed.pick.keep: 0.05 of 16 rows leaves none; keep at least 0.0625"),
        (POOL + 'pick("kl", keep=0.2)', dict(train=dict(replica_batch_size=2)),
         "views.mixed.pick.keep: 0.2 of 4 rows leaves none; keep at least 0.25"),
        (POOL + 'pick("kl", keep=0.2)', dict(train=dict(accumulate=2)),
         "views.mixed: has 3 rows, which 2 micro-batches cannot share evenly"),
        (POOL + 'pikc("kl")', {}, "views.mixed: unknown stage 'pikc'; did you mean pick?"),
    ],
)
def test_what_does_not_fit(frozen_teacher, text, sections, message):
    with pytest.raises(ConfigError) as caught:
        build_programs(pooled(text, **sections), DATA)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_teacher_on_other_rows_and_a_relational_loss_on_few(frozen_teacher):
    kd = configs.term("kl", ("mixed",), teacher="teacher@x")
    with pytest.raises(ConfigError, match="sees other rows than view 'mixed' has; start both"):
        build_programs(pooled(terms={"kd": kd}), DATA)
    sp = configs.term("sp", ("mixed",), teacher="teacher", features=("pooled",))
    with pytest.raises(ConfigError, match="1 \\(view 'mixed' keeps 1 of 8\\); it"):
        build_programs(pooled(POOL + 'pick("kl", keep=0.1)', terms={"sp": sp}), DATA)


def test_a_memory_of_examples_takes_each_once(frozen_teacher):
    crd = configs.term("crd", ("mixed",), teacher="teacher", features=("pooled",), negatives=8)
    with pytest.raises(ConfigError, match="terms.crd.on: view 'mixed' may hold an example twice"):
        build_programs(pooled(terms={"crd": crd}), DATA)
    with pytest.raises(ConfigError, match="terms.crd.on: view 'mixed' mixes images"):
        build_programs(pooled('view("x")|cutmix(1.0)', terms={"crd": crd}), DATA)


def test_views_that_change_the_rows_are_not_for_evaluation_or_notebooks(tmp_path):
    from kdaug_jax.training.plan import plan_run
    from tests.conftest import tiny_config

    with pytest.raises(ConfigError, match="eval.view: changes the number of rows"):
        plan_run(tiny_config(eval=dict(view="repeat(2)|flip")), tmp_path, print)
    with pytest.raises(ConfigError, match="needs a batch"):
        views.build_augment("repeat(2)|flip")


def test_a_picked_view_that_no_term_looks_at_is_not_made(frozen_teacher):
    """So a teacher is trained on a config whose views it helps to choose."""
    terms = {"ce": configs.term("cross_entropy", ("x",))}
    networks = {"student": configs.network("tiny", trainable=True)}
    bench = Bench(pooled(terms=terms, networks=networks))
    _, rows = bench.run(1)
    assert "train/mixed/ratio" not in rows[0]
