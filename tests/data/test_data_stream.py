"""What is read ahead is what lies on the devices, whoever reads it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.data import stream
from kdaug_jax.errors import DataError
from tests.data import made

ROOT = Path(__file__).parents[2]
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
    monkeypatch.setattr(stream, "CHUNK_BYTES", -(-5 * 108 // parts))
    # In order, over the end of an epoch, and from any step, as after a restart.
    steps = (0, 1, 2, 3, 4, 7, 8, 1)
    for source in (split, split.loaded()):
        feed = data.streamed(source, 3, 5)
        same(feed, data.resident(split, 3, 5), steps)
        feed.close()


def test_worker_processes_change_nothing_and_end(split):
    feed = data.streamed(split, 3, 5, workers=2)
    same(feed, data.resident(split, 3, 5), (1, 2, 3))
    feed.close()
    feed.close()
    assert not _children(os.getpid())


def _children(pid):
    """Processes that Python's multiprocessing started for `pid`, its own helper aside."""
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_text()
            except (OSError, IndexError):
                continue
            if parent == pid and "spawn_main" in command:
                children.append(int(entry.name))
    return children


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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(tmp_path, workers):
    directory = made.folder(tmp_path, made.arrays())
    wrong = directory / "train" / "bee" / "005.png"
    wrong.write_bytes(wrong.read_bytes()[:60])
    feed = data.streamed(
        data.load(f"folder:{directory}", SPLITS).splits["train"], 0, 12, workers=workers
    )
    with pytest.raises(DataError) as caught:
        feed.item(0)
    feed.close()
    assert "005.png" in str(caught.value) and "image 5" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_dead_worker_ends_in_one_line(split):
    feed = data.streamed(split, 0, 4, workers=1)
    feed.item(0)
    for child in _children(os.getpid()):
        os.kill(child, signal.SIGKILL)
    with pytest.raises(DataError, match=r"data.workers: a worker process died with exit code -9"):
        for step in range(1, 100):
            feed.item(step)
    feed.close()


PARENT = """
import os, signal, sys, time
from kdaug_jax import data
from tests.data.test_data_stream import SPLITS, _children
if __name__ == "__main__":
    split = data.load("folder:" + sys.argv[1], SPLITS).splits["train"]
    feed = data.streamed(split, 0, 4, workers=1)
    feed.item(0)
    for child in _children(os.getpid()):
        os.kill(child, signal.SIGTERM)
    time.sleep(0.2)
    for step in range(1, 20):
        feed.item(step)
    print(*_children(os.getpid()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_outlive_sigterm_but_not_their_parent(tmp_path):
    """A cluster signals every process of a run, and the run still needs batches to its end."""
    directory = made.folder(tmp_path / "images", made.arrays())
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.run(
        [sys.executable, script, directory], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    (child,) = map(int, parent.stdout.split())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the worker is still there")
