"""Images that stay on the devices: the same pixels in every form, and the bytes that they take."""

import jax
import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.data.storage import fetch, row_bytes, store


@pytest.mark.parametrize("platform, dtype", [
    ("cpu", np.uint8), ("gpu", np.uint8), ("tpu", np.int32),
])
@pytest.mark.parametrize("size", [(32, 32), (5, 7), (1, 1), (13, 11)])
def test_what_is_fetched_is_what_was_stored(platform, dtype, size):
    images = np.random.RandomState(0).randint(0, 256, (6, *size, 3), dtype=np.uint8)
    stored, rows = store(images, platform), np.array([5, 0, 3, 3], np.int32)
    assert stored.dtype == dtype and stored.nbytes == 6 * row_bytes(size, platform)
    fetched = jax.jit(fetch, static_argnums=2)(stored, rows, size)
    np.testing.assert_array_equal(fetched, images[rows])


def test_a_tpu_stores_whole_tiles():
    assert row_bytes((32, 32), "cpu") == 3072 and row_bytes((32, 32), "tpu") == 3072
    assert row_bytes((28, 28), "gpu") == 2352 and row_bytes((28, 28), "tpu") == 2560


def test_the_limit_counts_what_is_really_stored():
    split = data.load("synthetic:5x5,4,40", {"train": "train"}).splits["train"]
    for platform, each in (("cpu", 75), ("tpu", 512)):
        for spare, resident in ((0, True), (-1, False)):
            feed = data.make_feed(
                split, 0, 4, device_bytes=40 * each + spare, platform=platform
            )
            assert bool(feed.constants) == resident
            feed.close()
