import jax
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.augment import wei2020

FILL = np.array([9, 8, 7], np.uint8)
# Every pixel differs from every other and from the fill.
IMAGE = np.stack([*np.mgrid[100:108, 100:108], np.full((8, 8), 200)], axis=-1).astype(np.uint8)
LEVELS = range(wei2020.MAX_LEVEL + 1)
rows_of = jax.jit(jax.vmap(augment.affine_nearest, (None, 0, None)))
drawn = jax.jit(
    jax.vmap(augment.randaugment, (0, None, None, None, None, None)), static_argnums=(2, 4)
)


def randaugment(seed, n, m):
    """1,000 draws; all tests share the two programs of n = 1 and n = 2."""
    keys = jax.random.split(jax.random.key(seed), 1000)
    return np.asarray(drawn(keys, IMAGE, n, np.int32(m), "wei2020", FILL))


def visible(height, width):
    """Fraction of visible pixels, `[ops,levels,signs]`, of all rows of a table."""
    table = wei2020.table(height, width)
    white = np.full((height, width, 1), 255, np.uint8)
    flat = table.coefficients.reshape(-1, 6)
    seen = np.asarray(rows_of(white, flat, np.zeros(1, np.uint8))) > 0
    seen = seen.mean((1, 2, 3)).reshape(table.coefficients.shape[:3])
    side = table.side[..., None].astype(float)
    return seen - np.minimum(side, height) * np.minimum(side, width) / (height * width)


def test_the_table_holds_what_the_paper_says_of_32_pixels():
    table = wei2020.table(32, 32)
    assert table.coefficients.shape == (5, 11, 2, 6) and table.side.shape == (5, 11)
    assert table.coefficients.dtype == table.side.dtype == np.int32
    pixels = (table.coefficients[2, :, 0, 2] - (1 << 15)) >> 16
    assert pixels.tolist() == [0, 3, 6, 10, 13, 16, 19, 22, 26, 29, 32]
    assert table.side[4].tolist() == pixels.tolist() and not table.side[:4].any()
    shears = table.coefficients[0, :-1, 0, 1] / 65536
    expected = [0, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 5 / 3, 2.5, 5]
    np.testing.assert_allclose(shears, expected, atol=1e-5)
    np.testing.assert_array_equal(
        table.coefficients[:, :, 0, :][0, :-1, 1], -table.coefficients[0, :-1, 1, 1]
    )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 24)])
def test_each_op_leaves_its_share_of_the_image(height, width):
    fraction = visible(height, width)
    for level in LEVELS:
        m = level / wei2020.MAX_LEVEL
        # Half a line of the shorter side is what rounding to pixels may cost.
        np.testing.assert_allclose(fraction[:4, level], 1 - m, atol=0.5 / min(height, width) + 0.01)
        square = (m * min(height, width)) ** 2 / (height * width) if level < 10 else 1
        np.testing.assert_allclose(fraction[4, level], 1 - square, atol=0.03)
    assert (fraction[:, 0] == 1).all() and (fraction[:, -1] == 0).all()


@pytest.mark.parametrize("n", [1, 2])
def test_level_0_changes_nothing_and_the_last_level_leaves_nothing(n):
    assert (randaugment(0, n, 0) == IMAGE).all()
    assert (randaugment(0, n, wei2020.MAX_LEVEL) == FILL).all()


def test_ops_signs_and_squares_are_uniform():
    level, side = 5, 4
    table = wei2020.table(8, 8)
    moved = np.asarray(rows_of(IMAGE, table.coefficients[:4, level].reshape(-1, 6), FILL))
    known = {one.tobytes(): number for number, one in enumerate(moved)}
    assert len(known) == 8
    for top in range(5):
        for left in range(5):
            square = augment.erase_square(IMAGE, top, left, side, FILL)
            known[np.asarray(square).tobytes()] = 8 + 5 * top + left
    results = np.concatenate([randaugment(seed, 1, level) for seed in range(5)])
    counts = np.bincount([known[one.tobytes()] for one in results], minlength=33)
    expected = np.array([500] * 8 + [40] * 25)
    # Chi-square of 32 degrees stays under 63 but once in 1,000.
    assert ((counts - expected) ** 2 / expected).sum() < 63


def test_the_second_op_is_drawn_apart_from_the_first():
    # One pixel there and back loses only an edge of 8 pixels. For each of the two translations
    # that happens in (1/5)^2 / 2 of all cases, together 0.04; never, if both draws were one.
    twice = randaugment(3, 2, 1)
    back = (twice[:, 1:-1, 1:-1] == IMAGE[1:-1, 1:-1]).all((1, 2, 3))
    back &= (twice == FILL).all(-1).sum((1, 2)) == 8
    assert 0.02 < back.mean() < 0.07


def test_the_magnitude_is_traced():
    randaugment(6, 2, 1)
    before = drawn._cache_size()
    randaugment(6, 2, 7)
    assert drawn._cache_size() == before


def test_check_and_limits():
    stage = augment.STAGES["randaugment"]
    stage.check({"n": 2, "m": 9, "space": "wei2020"}, (32, 32))
    assert stage.limits({"n": 2, "m": 9, "space": "wei2020"}) == {"m": (0, 10)}
    with pytest.raises(ValueError, match="did you mean wei2020") as error:
        stage.check({"n": 2, "m": 9, "space": "wei202"}, (32, 32))
    assert len(error.value.args) == 2
    with pytest.raises(ValueError, match="at least 0"):
        stage.check({"n": -1, "m": 9, "space": "wei2020"}, (32, 32))
