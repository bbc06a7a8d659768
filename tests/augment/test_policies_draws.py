"""What policies draw: frequencies over many keys, whatever the batch, with one program."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.augment import apply_policy, policies
from kdaug_jax.augment.engine import build_table
from kdaug_jax.augment.ops.table import OPS
from kdaug_jax.augment.policies import TABLES
from kdaug_jax.augment.policies.pba import COUNTS, SLOTS
from kdaug_jax.augment.policies.pba import OPS as PBA_OPS
from tests.augment.drawn import chi_square, defaults, draw_many

SIZE = (32, 32)
SIGNED = [name for name, row in OPS.items() if row.geometric]
BUILDERS = {
    "autoaugment": lambda: policies.autoaugment(size=SIZE),
    "paper": lambda: policies.randaugment(2, 9, size=SIZE),
    "tpu": lambda: policies.randaugment(2, 9, "tpu", size=(224, 224)),
    "torchvision": lambda: policies.randaugment(3, 9, "torchvision", size=SIZE),
    "timm": lambda: policies.timm("rand-m9-mstd0.5-inc1", size=SIZE),
    "timm_uniform": lambda: policies.timm("rand-m9-mstd101", size=SIZE),
    "trivial": lambda: policies.trivialaugment_wide(size=SIZE),
    "fixmatch": lambda: policies.fixmatch(size=SIZE),
    "wei2020": lambda: policies.wei2020(2, 3, size=SIZE),
    "wei2020_uniform": lambda: policies.wei2020(2, 3, size=SIZE, translate="uniform"),
    "pba": lambda: policies.pba([7, 4] * SLOTS, size=SIZE),
}


def tally(policy, rows, of):
    """How often each value of `of(op)` was drawn; None is not counted."""
    counts = {}
    for row, count in enumerate(np.bincount(rows.ravel(), minlength=len(policy.ops))):
        value = of(policy.ops[row])
        if count and value is not None:
            counts[value] = counts.get(value, 0) + count
    return counts


def of(name, value=lambda op: op.value):
    """`value(op)` of one op alone."""
    return lambda op: value(op) if op.name == name else None


@pytest.mark.parametrize("name", BUILDERS)
def test_an_image_draws_the_same_in_any_batch(name):
    policy = BUILDERS[name]()
    assert policy.ops[0] == policies.IDENTITY and len(set(policy.ops)) == len(policy.ops)
    assert policy.variant in policies.VARIANTS
    numbers, keys = defaults(policy), jax.random.split(jax.random.key(0), 12)
    draw = jax.jit(jax.vmap(policy.draw, (0, None)))
    whole = draw(keys, numbers)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(whole[order], draw(keys[order], numbers))
    np.testing.assert_array_equal(whole[5], jax.jit(policy.draw)(keys[5], numbers))
    assert len(np.unique(whole)) > 4


def test_no_ops_draw_nothing():
    for policy in (
        policies.randaugment(0, 9, size=SIZE), policies.timm("rand-n0", size=SIZE),
        policies.wei2020(0, 3, size=SIZE),
    ):
        assert policy.stages == 0
        assert policy.draw(jax.random.key(0), defaults(policy)).shape == (0,)


@pytest.mark.parametrize("batch", [2, 300])  # a CPU works on larger ones in blocks
@pytest.mark.parametrize("make", [
    lambda size: policies.randaugment(0, 9, size=size),
    lambda size: policies.randaugment(0, 5, "tpu", size=size),
    lambda size: policies.timm("rand-m9-n0", size=size),
    lambda size: policies.wei2020(0, 3, size=size),
])
def test_no_ops_change_nothing(make, batch):
    images = np.random.default_rng(0).integers(0, 256, (batch, 64, 48, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), batch)
    policy, fill = make((64, 48)), np.array([1, 2, 3], np.uint8)
    got = jax.jit(lambda keys, images: apply_policy(policy, keys, images, fill))(keys, images)
    np.testing.assert_array_equal(got, images)


@pytest.mark.parametrize("name", ["paper", "tpu", "torchvision"])
def test_randaugment_draws_ops_and_signs_uniformly(name):
    policy = BUILDERS[name]()
    rows = draw_many(policy, 20_000)
    counts = list(tally(policy, rows, lambda op: op.name).values())
    assert len(counts) == (16 if name == "tpu" else 14)
    assert chi_square(counts, np.ones(len(counts))) < 5
    for op in SIGNED:
        signs = tally(policy, rows, of(op, lambda one: np.sign(one.value)))
        assert chi_square([signs[1], signs[-1]], [1, 1]) < 5
    share = np.bincount(rows.ravel()) / rows.size
    first, same = rows[:, 0], (share**2).sum()
    for other in range(1, policy.stages):  # the ops of an image are independent
        assert abs((first == rows[:, other]).mean() - same) < 0.005


def test_one_program_draws_all_magnitudes():
    for name, top in (("paper", 30), ("torchvision", 30), ("tpu", 55), ("wei2020", 10)):
        policy = BUILDERS[name]()
        assert policy.hparams["m"].range.high == top
        draw = jax.jit(policy.draw)
        drawn = [draw(jax.random.key(3), {"m": jnp.int32(m)}) for m in range(top + 1)]
        assert draw._cache_size() == 1
        assert len({tuple(rows.tolist()) for rows in drawn}) > 3


@pytest.mark.parametrize("m", [9, 28, 55])
def test_the_traced_magnitude_selects_its_level(m):
    policy = BUILDERS["tpu"]()
    rows = draw_many(policy, 2000, m=np.int32(m))
    assert set(tally(policy, rows, of("rotate"))) == {m / 10 * 30, -m / 10 * 30}


def test_autoaugment_draws_each_sub_policy_with_its_probabilities():
    policy = policies.autoaugment("imagenet_v0", size=(224, 224))
    rows = draw_many(policy, 60_000)
    expected = np.zeros((len(policy.ops),) * 2)
    source = policies.SOURCES["tpu"].levels
    for sub_policy in TABLES["imagenet_v0"].sub_policies:
        # All that can come of one sub-policy: each op applied or not, with either sign.
        ways = []
        for name, probability, level in sub_policy:
            pair = [policy.ops.index(op) for op in source[name](level, (224, 224))]
            ways.append([(0, 1 - probability), *((row, probability / 2) for row in pair)])
        for (first, p), (second, q) in itertools.product(*ways):
            expected[first, second] += p * q / 25
    counts = np.bincount(rows @ [len(policy.ops), 1], minlength=len(policy.ops) ** 2)
    assert chi_square(counts, expected.ravel()) < 5


def test_autoaugments_tables():
    lengths = {name: len(table.sub_policies) for name, table in TABLES.items()}
    assert lengths.pop("cifar10_released") == 95 and set(lengths.values()) == {25}
    released = TABLES["cifar10_released"].sub_policies
    assert sum(one in released for one in TABLES["cifar10"].sub_policies) == 20
    entries = [entry for one in TABLES["svhn"].sub_policies for entry in one]
    assert sum(probability for _, probability, _ in entries) == pytest.approx(32.9)
    for name in TABLES:
        assert policies.autoaugment(name, size=(224, 224)).stages == 2


def test_autoaugment_is_transparent_where_the_code_is():
    cifar = policies.autoaugment("cifar10", size=SIZE)
    assert (cifar.channels, cifar.fill, cifar.cutout_fill) == (4, "mean", (125, 122, 113))
    assert policies.autoaugment("imagenet", size=(224, 224)).channels == 3
    v0 = policies.autoaugment("imagenet_v0", size=(224, 224))
    assert (v0.variant, v0.fill) == ("tpu", 128)
    clean = policies.autoaugment("imagenet_v0", size=(224, 224), levels="tpu_clean")
    assert ("solarize", 256) in {op[:2] for op in clean.ops} - {op[:2] for op in v0.ops}


def test_trivialaugment_is_uniform_over_ops_and_bins():
    policy = BUILDERS["trivial"]()
    rows = draw_many(policy, 40_000)[:, 0]
    assert policy.stages == 1
    assert chi_square(list(tally(policy, rows, lambda op: op.name).values()), np.ones(14)) < 5
    # Bin 0 has no sign; the others are drawn half as often with each.
    angles = tally(policy, rows, of("rotate"))
    assert len(angles) == 61
    assert chi_square(list(angles.values()), [1 if angle == 0 else 0.5 for angle in angles]) < 5


def test_fixmatch_draws_each_strength_in_the_range_of_its_op():
    policy = BUILDERS["fixmatch"]()
    rows = draw_many(policy, 40_000)
    assert policy.stages == 3 and policy.cutout_fill == (125, 123, 114)
    ops, squares = rows[:, :2], rows[:, 2:]
    assert chi_square(list(tally(policy, ops, lambda op: op.name).values()), np.ones(14)) < 5
    ends = {"rotate": (-30, 30), "shear_x": (-0.3, 0.3), "translate_y": (-9.6, 9.6),
            "brightness": (0.05, 0.95), "solarize": (0, 256), "posterize": (4, 7)}
    for name, (low, high) in ends.items():
        counts = tally(policy, ops, of(name))
        values = np.repeat(list(counts), list(counts.values()))
        assert low <= values.min() <= low + (high - low) / 50
        assert high - (high - low) / 50 <= values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < (high - low) / 50
    sides = np.array([policy.ops[row].value for row in squares.ravel()])
    assert {policy.ops[row].name for row in squares.ravel()} == {"cutout_fast"}
    assert 0 < sides.min() < 0.3 and 15.7 < sides.max() < 16 and abs(sides.mean() - 8) < 0.1


def test_timm_draws_probability_filter_and_noise():
    policy = BUILDERS["timm"]()
    rows = draw_many(policy, 40_000)
    applied = (rows > 0).ravel()
    assert chi_square([applied.sum(), (~applied).sum()], [1, 1]) < 5
    filters = tally(policy, rows, lambda op: op.resample if op.name in SIGNED else None)
    assert set(filters) == {"bilinear", "bicubic"}
    assert chi_square(list(filters.values()), [1, 1]) < 5
    angles = [op.value for row in rows.ravel() if (op := policy.ops[row]).name == "rotate"]
    m = np.abs(angles) / 3
    np.testing.assert_allclose(m * 100, np.rint(m * 100), atol=1e-9)
    noise = (m[m < 9.995] - 9) / 0.5  # from 9.995 on, magnitudes are clipped to 10
    assert abs((m == 10).mean() - 0.0233) < 0.01
    for quantile, part in ((-1, 0.1587), (0, 0.5), (1, 0.8413)):
        assert abs((noise < quantile - 0.01).mean() * (1 - 0.0233) - part) < 0.03


def test_timm_hparams_are_traced():
    policy = BUILDERS["timm"]()
    never = draw_many(policy, 500, p=np.float32(0))
    always = draw_many(policy, 500, p=np.float32(1), mstd=np.float32(0), m=np.int32(4))
    assert not never.any() and always.all()
    assert set(tally(policy, always, of("rotate"))) == {12.0, -12.0}
    far = draw_many(policy, 500, p=np.float32(1), m=np.int32(200))
    assert set(tally(policy, far, of("rotate"))) == {30.0, -30.0}
    plain = policies.timm("rand-m9", size=SIZE)
    assert set(plain.hparams) == {"m", "p"} and len(plain.ops) < 500


def test_timm_uniform_magnitudes():
    policy = BUILDERS["timm_uniform"]()
    rows = draw_many(policy, 40_000)
    angles = [op.value for row in rows.ravel() if (op := policy.ops[row]).name == "rotate"]
    m = np.abs(angles) / 3
    counts, _ = np.histogram(m, bins=9, range=(0, 9))
    assert counts.sum() == len(m) and chi_square(counts, np.ones(9)) < 5
    assert draw_many(policy, 100, m=np.int32(0), p=np.float32(1)).all()


def test_wei2020_translates_at_most_as_far_where_asked():
    policy = BUILDERS["wei2020_uniform"]()
    rows = draw_many(policy, 40_000, m=np.int32(2))
    far = tally(policy, rows, of("translate_x", lambda op: abs(op.value)))
    # round(u 6.4): 0 takes half a pixel's share, 6 the 0.9 between 5.5 and 6.4.
    counts = [far.get(by, 0) for by in range(8)]
    assert chi_square(counts, [0.5, 1, 1, 1, 1, 1, 0.9, 0]) < 5
    assert sum(far.values()) == sum(counts)


def walk(order, successes, count):
    """The rule as PBA's code walks it: try in order, stop after `count` have been applied."""
    applied = []
    if count:
        for slot in order:
            if slot in successes:
                applied.append(slot)
                count -= 1
                if count == 0:
                    break
    return applied


def test_pba_applies_the_first_successes_of_a_random_order():
    chances = {1: (3, 2), 8: (10, 9), 16: (5, 7), 29: (8, 0)}  # slot: (tenths, magnitude)
    numbers = np.zeros((SLOTS, 2), np.int32)
    for slot, entry in chances.items():
        numbers[slot] = entry
    policy = policies.pba(size=SIZE)
    outcomes = {}
    for count, p_count in enumerate((0.2, 0.3, 0.5)):
        for hits in itertools.product((False, True), repeat=4):
            successes = {slot for slot, hit in zip(chances, hits, strict=True) if hit}
            p_hits = np.prod([
                chances[slot][0] / 10 if slot in successes else 1 - chances[slot][0] / 10
                for slot in chances
            ])
            for order in itertools.permutations(chances):
                applied = walk(order, successes, count)
                key = tuple(PBA_OPS[slot % 15].lower() for slot in applied)
                outcomes[key] = outcomes.get(key, 0) + p_count * p_hits / 24
    rows = draw_many(policy, 60_000, policy=numbers.ravel())
    names = [op.name.replace("_", "") for op in policy.ops]
    counts = dict.fromkeys(outcomes, 0)
    for first, second in rows.tolist():
        assert first or not second
        counts[tuple(names[row] for row in (first, second) if row)] += 1
    assert sum(outcomes.values()) == pytest.approx(1)
    assert chi_square(list(counts.values()), [outcomes[key] for key in counts]) < 5
    assert set(tally(policy, rows, of("shear_x"))) == {9 * 0.3 / 10, -9 * 0.3 / 10}
    assert set(tally(policy, rows, of("translate_x"))) == {2, -2, 7, -7}


def test_pba_takes_any_policy_with_one_program():
    policy = policies.pba(size=SIZE)
    assert policy.hparams["policy"].default.shape == (60,) and policy.channels == 4
    assert COUNTS.tolist().count(2) == 5
    draw = jax.jit(jax.vmap(policy.draw, (0, None)))
    keys = jax.random.split(jax.random.key(0), 50)
    empty = draw(keys, {"policy": jnp.zeros(60, jnp.int32)})
    full = draw(keys, {"policy": jnp.full(60, 9, jnp.int32)})
    assert not empty.any() and full.any() and draw._cache_size() == 1


def test_squares_lie_where_their_op_says():
    policy = policies.wei2020(1, 3, size=(40, 24))
    ops = (*policy.ops[:1], policies.Op("cutout", 7), policies.Op("erase_square", 5),
           policies.Op("cutout_fast", 4.3), policies.Op("erase_square", 40))
    table = build_table(ops, (40, 24)).squares
    keys = jax.random.split(jax.random.key(0), 40_000)
    place = jax.vmap(lambda key: policies.square_offsets(key, 2)[1])(keys)
    boxes = jax.jit(jax.vmap(
        lambda place, row: policies.box(
            place, *(jnp.asarray(column)[row] for column in table), (40, 24)
        ), (0, None)
    ))
    none, around, inside, fast, all_ = (np.asarray(boxes(place, row)) for row in range(5))
    assert (none[:, 1] == none[:, 0]).all() and (none[:, 3] == none[:, 2]).all()
    assert (all_ == [0, 40, 0, 24]).all()
    # Centres 0..39 give rows c-3..c+3, cut to the image.
    first = np.bincount(around[:, 0], minlength=40)
    assert chi_square(first[:37], [4] + [1] * 36) < 5
    np.testing.assert_array_equal(around[:, 1], np.where(
        around[:, 0] > 0, np.minimum(around[:, 0] + 6, 40), around[:, 1]))
    assert set(around[around[:, 0] == 0, 1]) == {3, 4, 5, 6}
    assert chi_square(np.bincount(inside[:, 2], minlength=20), np.ones(20)) < 5
    assert (inside[:, 3] - inside[:, 2] == 5).all() and (inside[:, 1] <= 40).all()
    # int(max(0, c - 2.15)) with c uniform over 0..24: 0 has 3.15 of 24.
    corner = np.bincount(fast[:, 2], minlength=22)
    assert chi_square(corner, [3.15] + [1] * 20 + [0.85]) < 5
    np.testing.assert_array_equal(fast[:, 3], np.minimum(fast[:, 2] + 5, 24))
