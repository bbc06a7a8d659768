import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.augment.mixing import ONE, boxes
from kdaug_jax.augment.partners import PARTNERS
from kdaug_jax.errors import ArgumentError
from kdaug_jax.runtime import sharding
from kdaug_jax.types import View
from tests.augment.drawn import chi_square

SIZE = (12, 9)
COUNT, DRAWS = 8, 200


def view_of(count, seed=0, valid=None):
    draw = np.random.default_rng(seed)
    label = draw.integers(0, COUNT, count).astype(np.int32)
    return View(
        image=jnp.asarray(draw.integers(0, 256, (count, *SIZE, 3), np.uint8)),
        target=jax.nn.one_hot(label, COUNT, dtype=jnp.float32),
        label=jnp.asarray(label),
        index=jnp.arange(count, dtype=jnp.int32),
        mask=jnp.arange(count) < (count if valid is None else valid),
    )


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


STAGES = {
    "mixup": augment.random_mixup,
    "cutmix": augment.random_cutmix,
    "mixup_or_cutmix": augment.random_mixup_or_cutmix,
}
# Compiling a draw takes seconds, so all tests share these programs.
PROGRAMS = [
    ("mixup", "group"), ("cutmix", "example"), ("mixup_or_cutmix", "group"),
    ("mixup_or_cutmix", "example"),
]


@functools.cache
def program(name, per):
    """`f(keys[DRAWS], view of COUNT rows, traced numbers)`, with derangements."""

    def run(keys, view, numbers):
        return jax.vmap(
            lambda key: STAGES[name](key, view, per=per, partner="derangement", **numbers)
        )(keys)

    return jax.jit(run)


def run(name, per, view, seed=0, **numbers):
    traced = {"probability": 1.0, **numbers}
    if name == "mixup_or_cutmix":
        traced = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch": 0.5, **traced}
    else:
        traced = {"alpha": 1.0, **traced}
    traced = {key: jnp.float32(value) for key, value in traced.items()}
    mixed = program(name, per)(keys_of(DRAWS, seed), view, traced)
    assert program(name, per)._cache_size() == 1
    return mixed


# The deterministic ops.


def test_mixup_is_the_formula_without_rounding():
    view, draw = view_of(6), np.random.default_rng(1)
    partner = draw.permutation(6).astype(np.int32)
    steps = draw.integers(0, ONE + 1, 6)
    lam = (steps / ONE).astype(np.float32)
    pixels = np.asarray(view.image, np.int64)
    weights = steps[:, None, None, None]
    expected = weights * pixels + (ONE - weights) * pixels[partner]  # whole numbers below 2^24
    target = np.asarray(view.target, np.float64)
    expected_target = lam[:, None] * target + (1 - lam[:, None]) * target[partner]

    def one(image, target, at, other, share):
        """The op on a pair, its first row."""
        mixed = augment.mixup(
            jnp.stack([image[at], image[other]]), jnp.stack([target[at], target[other]]),
            jnp.array([1, 0]), share,
        )
        return mixed[0][0], mixed[1][0]

    eager = augment.mixup(view.image, view.target, partner, lam)
    jitted = jax.jit(augment.mixup)(view.image, view.target, partner, lam)
    mapped = jax.vmap(one, (None, None, 0, 0, 0))(
        view.image, view.target, np.arange(6), partner, lam
    )
    for image, mixed in (eager, jitted, mapped):
        assert image.dtype == mixed.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(image, np.float64) * ONE, expected)
        np.testing.assert_array_equal(mixed, expected_target)
    single = augment.mixup(view.image, view.target, partner, 0.25)
    np.testing.assert_array_equal(
        single[0], augment.mixup(view.image, view.target, partner, np.full(6, 0.25, np.float32))[0]
    )


def test_cutmix_pastes_the_box_and_counts_its_area():
    view, partner = view_of(3), np.array([1, 2, 0], np.int32)
    box = np.array([[2, 7, 0, 3], [0, 12, 0, 9], [5, 5, 4, 9]], np.int32)
    image, target = np.asarray(view.image), np.asarray(view.target)
    expected, lam = image.copy(), []
    for row, (top, bottom, left, right) in enumerate(box):
        expected[row, top:bottom, left:right] = image[partner[row], top:bottom, left:right]
        lam.append(1 - (bottom - top) * (right - left) / 108)
    lam = np.array(lam)[:, None]
    assert lam.ravel().tolist() == [1 - 15 / 108, 0, 1]
    for op in (augment.cutmix, jax.jit(augment.cutmix)):
        mixed, mixed_target = op(view.image, view.target, partner, box)
        assert mixed.dtype == jnp.uint8
        np.testing.assert_array_equal(mixed, expected)
        np.testing.assert_allclose(
            mixed_target, lam * target + (1 - lam) * target[partner], atol=1e-7
        )
    one_box, _ = augment.cutmix(view.image, view.target, partner, box[0])
    np.testing.assert_array_equal(one_box[0], expected[0])
    np.testing.assert_array_equal(one_box[2, 2:7, :3], image[0, 2:7, :3])


# What is drawn.


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_is_beta_distributed(alpha):
    level = np.zeros((COUNT, *SIZE, 3), np.uint8)
    view = view_of(COUNT).replace(
        image=jnp.asarray(level), target=jnp.eye(COUNT, dtype=jnp.float32)
    )
    made = [run("mixup_or_cutmix", "example", view, seed, switch=0.0, mixup_alpha=alpha)
            for seed in range(10)]
    lam = np.concatenate([np.einsum("dii->di", one.target).ravel() for one in made])
    np.testing.assert_array_equal(lam * ONE, np.rint(lam * ONE))
    reference = np.random.default_rng(0).beta(alpha, alpha, 16_000)
    for p in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs((lam < np.quantile(reference, p)).mean() - p) < 0.02
    np.testing.assert_allclose(lam.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.03)


def rand_bbox(lam, cy, cx, height, width):
    """The box as published, in double; a drawn lambda and centre given."""
    ratio = np.sqrt(1.0 - lam)
    cut_h, cut_w = int(height * ratio), int(width * ratio)
    return [
        np.clip(cy - cut_h // 2, 0, height), np.clip(cy + cut_h // 2, 0, height),
        np.clip(cx - cut_w // 2, 0, width), np.clip(cx + cut_w // 2, 0, width),
    ]


draw_boxes = jax.jit(boxes, static_argnums=2)


@pytest.mark.parametrize("size", [(12, 9), (28, 224)])
def test_boxes_are_those_of_the_published_code(size):
    special = [0, 1, ONE // 4, ONE // 2, 3 * ONE // 4, ONE - 1, ONE]
    share = [*special, *np.random.default_rng(0).integers(0, ONE + 1, 300)]
    found = np.asarray(draw_boxes(jax.random.key(0), np.array(share, np.int32), size))
    assert found.dtype == np.int32
    for lam, box in zip(np.array(share) / ONE, found, strict=True):
        published = [rand_bbox(lam, c, c, *size) for c in range(max(size))]
        for axis, side in enumerate(size):
            spans = [tuple(one[2 * axis:][:2]) for one in published[:side]]
            assert tuple(box[2 * axis:][:2]) in spans


def test_centres_of_boxes_are_uniform():
    share = np.full(20_000, ONE - ONE // 16, np.int32)  # a quarter of each side of 32 pixels
    found = np.asarray(draw_boxes(jax.random.key(1), share, (32, 32)))
    for axis in range(2):
        # Centres 0..31 start 4 lines before, or at the border.
        starts = np.bincount(found[:, 2 * axis])
        assert chi_square(starts, [5] + [1] * 27) < 5
        np.testing.assert_array_equal(
            found[:, 2 * axis + 1] - found[:, 2 * axis] < 8,
            (found[:, 2 * axis + 1] < 8) | (found[:, 2 * axis] > 24),
        )
    assert abs(np.corrcoef(found[:, 0], found[:, 2])[0, 1]) < 0.03


@pytest.mark.parametrize("name, per", PROGRAMS)
def test_targets_tell_what_was_mixed(name, per):
    level = (np.arange(COUNT) * 30).astype(np.uint8)  # constant images show the shares
    view = view_of(COUNT).replace(
        image=jnp.asarray(np.broadcast_to(level[:, None, None, None], (COUNT, *SIZE, 3))),
        target=jnp.eye(COUNT, dtype=jnp.float32),
    )
    mixed = run(name, per, view)
    target = np.asarray(mixed.target)
    np.testing.assert_allclose(target.sum(-1), 1, atol=1e-6)
    shown = np.asarray(mixed.image, np.float64).mean((2, 3, 4))
    np.testing.assert_allclose(shown, target @ (30.0 * np.arange(COUNT)), atol=1e-3)
    np.testing.assert_array_equal(mixed.label, np.broadcast_to(view.label, (DRAWS, COUNT)))
    np.testing.assert_array_equal(mixed.index[0], view.index)
    own = np.einsum("dii->di", target).round(6)
    alike = np.array([len(np.unique(row)) == 1 for row in own])
    assert alike.all() if per == "group" else alike.mean() < 0.3
    assert mixed.image.dtype == (jnp.uint8 if name == "cutmix" else jnp.float32)


@pytest.mark.parametrize("name, per", PROGRAMS)
def test_probability_is_traced_and_exact_at_both_ends(name, per):
    view = view_of(COUNT)
    never, half, always = (run(name, per, view, probability=p) for p in (0, 0.5, 1))
    np.testing.assert_array_equal(never.image, np.broadcast_to(view.image, never.image.shape))
    np.testing.assert_array_equal(never.target, np.broadcast_to(view.target, never.target.shape))

    def mixed(made):
        return (np.asarray(made.image) != np.asarray(view.image)).any((2, 3, 4))

    assert mixed(always).mean() > 0.85  # some boxes have no area
    share = mixed(half).mean() / mixed(always).mean()
    assert 0.4 < share < 0.6
    both = mixed(half).all(1) | ~mixed(half).any(1)
    assert both.all() if per == "group" else both.mean() < 0.3


def test_switch_chooses_between_the_two():
    view = view_of(COUNT)
    whole = [np.asarray(run("mixup_or_cutmix", "group", view, switch=p).image) for p in (0, 0.5, 1)]
    # What is cut consists of stored pixels, which are whole numbers.
    cut = [(images == np.floor(images)).all((1, 2, 3, 4)) for images in whole]
    assert cut[0].mean() < 0.02 and cut[2].all() and 0.4 < cut[1].mean() < 0.6
    # Where both are drawn, each image is the one that its sure switch would give.
    same = [(images == whole[1]).all((1, 2, 3, 4)) for images in whole]
    np.testing.assert_array_equal(same[2], cut[1])
    np.testing.assert_array_equal(same[0], ~cut[1])


# Partners.


@pytest.mark.parametrize("name", PARTNERS)
@pytest.mark.parametrize("count, valid", [(8, 8), (7, 7), (8, 5), (8, 2), (8, 1), (4, 0), (2, 2)])
def test_partners_stay_among_the_valid(name, count, valid):
    mask = np.isin(np.arange(count), np.random.default_rng(count).permutation(count)[:valid])
    draw = jax.jit(jax.vmap(PARTNERS[name], (0, None)))
    found = np.asarray(draw(keys_of(50), mask))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(count), (50, 1)))
    assert (found[:, ~mask] == np.flatnonzero(~mask)).all()
    assert np.isin(found[:, mask], np.flatnonzero(mask)).all()
    alone = (found == np.arange(count))[:, mask]
    if name == "derangement":
        assert alone.any() == (valid == 1)
    if name == "flip":
        np.testing.assert_array_equal(
            found[:, mask], np.tile(np.flatnonzero(mask)[::-1], (50, 1))
        )


@pytest.mark.parametrize("name, number", [("permutation", 24), ("derangement", 9)])
def test_permutations_and_derangements_are_uniform(name, number):
    draw = jax.jit(jax.vmap(PARTNERS[name], (0, None)))
    found = np.asarray(draw(keys_of(20_000), np.ones(4, bool)))
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == number and chi_square(counts, np.ones(number)) < 5


@pytest.mark.parametrize("name, per", PROGRAMS)
def test_rows_that_fill_the_batch_up_neither_give_nor_take(name, per):
    view = view_of(COUNT, valid=5)
    other = view.replace(image=view.image.at[5:].set(0), target=view.target.at[5:].set(0.0))
    mixed, blank = run(name, per, view), run(name, per, other)
    np.testing.assert_array_equal(
        mixed.image[:, 5:], np.broadcast_to(view.image[5:], mixed.image[:, 5:].shape)
    )
    np.testing.assert_array_equal(mixed.image[:, :5], blank.image[:, :5])
    np.testing.assert_array_equal(mixed.target[:, :5], blank.target[:, :5])


def test_a_mixed_view_can_be_mixed_again():
    view, partner = view_of(4), np.array([1, 0, 3, 2])
    once = augment.mixup(view.image, view.target, partner, 0.3)
    twice = augment.mixup(*once, partner[::-1], 0.6)
    twice = augment.cutmix(*twice, partner, np.array([0, 5, 2, 7]))
    assert twice[0].dtype == jnp.float32
    np.testing.assert_allclose(twice[1].sum(-1), 1, atol=1e-6)


def test_partners_are_drawn_without_asking_other_devices():
    mesh = sharding.make_mesh(4, 8)
    draw = functools.partial(augment.random_cutmix, partner="derangement")
    program = jax.jit(sharding.within(mesh, draw))
    key, view = jax.random.key(0), view_of(8)
    spread = program.lower(key, sharding.put_batch(mesh, jax.tree.map(np.asarray, view))).compile()
    # The mask is gathered once; in a loop nothing is asked for.
    asked = re.findall(r" = (\w+)\[[^ ]* (all-\w+)\(", spread.as_text())
    assert ("u8", "all-gather") in asked and ("pred", "all-reduce") not in asked
    assert len(asked) <= 3


def test_mixing_by_hand_refuses_what_would_mix_something_else():
    view, partner = view_of(4), np.array([1, 0, 3, 2])
    box = np.array([0, 5, 2, 7])
    for mix, how in ((augment.mixup, 0.5), (augment.cutmix, box)):
        with pytest.raises(ArgumentError, match=r"\[B,C\], as jax.nn.one_hot makes of class num"):
            mix(view.image, view.label, partner, how)
        with pytest.raises(ArgumentError, match=r"targets \[4, 8\] and partners \[3\]; must be"):
            mix(view.image, view.target, partner[:3], how)
        with pytest.raises(ArgumentError, match="got a partner that is no row; must be 0..3"):
            mix(view.image, view.target, partner - 1, how)
    for share in (1.5, -0.1):
        with pytest.raises(ArgumentError, match=f"lam = {share}; must be 0..1"):
            augment.mixup(view.image, view.target, partner, share)
    for outside in ([0, 99, 0, 4], [4, 0, 0, 4], [-1, 3, 0, 4]):
        with pytest.raises(ArgumentError, match="got a box that does not lie in images of 9×12"):
            augment.cutmix(view.image, view.target, partner, np.array(outside))
    with pytest.raises(ArgumentError, match="got a box of float.*; must be whole pixels"):
        augment.cutmix(view.image, view.target, partner, np.array([0, 0.5, 0, 0.5], np.float32))


@pytest.mark.parametrize("options, message", [
    (dict(probability=50.0), "probability=50.0; must be a number 0..1"),
    (dict(alpha=-1.0), "alpha = -1.0; must be more than 0"),
])
def test_drawn_mixing_refuses_numbers_out_of_range(options, message):
    for mix in (augment.random_mixup, augment.random_cutmix):
        with pytest.raises(ArgumentError, match=message):
            mix(jax.random.key(0), view_of(4), **options)
