import functools

import jax
import numpy as np
import pytest

from kdaug_jax import rng
from kdaug_jax.images import threefry
from kdaug_jax.types import Clock
from tests.golden_augment import QUICK

COUNT = 200


@functools.partial(jax.jit, compiler_options=QUICK)
def device_words(seed, epoch, index, draw):
    clock = Clock(seed=seed, epoch=epoch, step=np.int32(0))
    keys = rng.fold(rng.example_keys(clock, "view/x", index), "random_resized_crop")
    keys = rng.redraw(keys, draw)
    return jax.random.key_data(keys), jax.vmap(lambda key: jax.random.bits(key, (4, 10)))(keys)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (1, 3), (2**32 - 1, 299)])
def test_words_are_those_of_jax(seed, epoch):
    random = np.random.default_rng(seed)
    index = random.integers(-1, 1_281_167, COUNT).astype(np.int32)  # -1 stands in rows that fill
    draw = random.integers(0, 4, COUNT).astype(np.int32)
    expected = device_words(np.uint32(seed), np.int32(epoch), index, draw)
    keys = threefry.example_keys(seed, "view/x", epoch, index)
    keys = threefry.redraw(threefry.fold(keys, "random_resized_crop"), draw)
    np.testing.assert_array_equal(keys, expected[0])
    words = threefry.bits(keys, (4, 10))
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, expected[1])


def test_a_single_key_is_folded_like_many():
    key = np.array([0, 2**32 - 1], np.uint32)
    folded = threefry.fold_in(key, 7)
    expected = jax.random.fold_in(rng.root(2**32 - 1), 7)
    np.testing.assert_array_equal(folded, jax.random.key_data(expected))
    np.testing.assert_array_equal(threefry.fold_in(np.stack([key, key]), [7, 7])[1], folded)
