"""What is read ahead is what lies on the devices, whoever reads it."""

import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.data import stream
from tests.data import made

SPLITS = {"train": "train", "validation": "test", "test": "test"}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Twelve PNGs read from the disk."""
    directory = made.folder(tmp_path_factory.mktemp("folder"), made.arrays())
    return data.load(f"folder:{directory}", SPLITS).splits["train"]


def batch(feed, step):
    constants = tuple(np.asarray(array) for array in feed.constants)
    made = feed.batch(constants, feed.item(step))
    return tuple(np.asarray(array) for array in (made.image, made.label, made.index, made.mask))


def same(feed, other, steps):
    for step in steps:
        for array, expected in zip(batch(feed, step), batch(other, step), strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype


@pytest.mark.parametrize("parts", [1, 3])
def test_streamed_batches_are_resident_ones(split, parts, monkeypatch):
    monkeypatch.setattr(stream, "PART_PIXELS", -(-5 // parts) * 36)
    # In order, over the end of an epoch, and from any step, as after a restart.
    steps = (0, 1, 2, 3, 4, 7, 8, 1)
    for source in (split, split.loaded()):
        feed = data.streamed(source, 3, 5)
        same(feed, data.resident(split, 3, 5), steps)
        feed.close()


def test_worker_processes_change_nothing(split):
    feed = data.streamed(split, 3, 5, workers=2)
    same(feed, data.resident(split, 3, 5), (1, 2, 3))
    feed.close()
    feed.close()


def test_a_process_of_several_reads_its_own_rows(split):
    whole, rows = data.resident(split, 3, 6), np.array([1, 2, 5])
    for make in (data.resident, data.streamed):
        feed = make(split, 3, 6, rows)
        for step in (0, 1, 2):
            expected = [array[rows] for array in batch(whole, step)]
            for array, part in zip(batch(feed, step), expected, strict=True):
                np.testing.assert_array_equal(array, part)
        feed.close()


def test_size_decides_what_stays_on_the_devices(split):
    bytes_ = len(split) * 6 * 6 * 3
    assert split.size_bytes == bytes_
    assert len(data.make_feed(split, 0, 4, device_bytes=bytes_).constants) == 3
    assert data.make_feed(split, 0, 4, device_bytes=bytes_ - 1).constants == ()


def test_evaluation_reads_ahead_what_is_not_in_memory(split):
    for rows in (slice(None), np.array([0, 3, 4])):
        pairs = zip(
            data.eval_batches(split, 5, rows), data.eval_batches(split.loaded(), 5, rows),
            strict=True,
        )
        for streamed, loaded in pairs:
            for field in ("image", "label", "index", "mask"):
                np.testing.assert_array_equal(getattr(streamed, field), getattr(loaded, field))


