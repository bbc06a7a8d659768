"""What is read ahead depends on the plan alone, and nothing is left behind, however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax.data import stream
from kdaug_jax.data.dataset import ArrayReader
from kdaug_jax.data.stream import BatchPlan, Stream, choose_workers
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.images import crew, crops, memory
from tests.data.pictures import (
    BATCH,
    Pictures,
    Unloadable,
    children,
    pictures,
    plan_of,
    split_of,
)

ROOT = Path(__file__).parents[2]


def expected(reader, plan, number):
    rows, stored, outputs = plan(number)
    images = {"": reader.read(rows)} if stored else {}
    for name, (crop, steps) in outputs.items():
        images[name] = np.stack([
            crops.cut(reader.image(row), step, crop.methods)
            for row, of_image in zip(rows, steps, strict=True) for step in of_image
        ])
    return images


def assert_same(images, others):
    assert images.keys() == others.keys()
    for name in images:
        np.testing.assert_array_equal(images[name], others[name])
        assert images[name].dtype == others[name].dtype


@contextlib.contextmanager
def nothing_left():
    """What a stream starts and opens is gone after the block."""

    def present():
        descriptors = set()
        for entry in os.scandir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the one that lists
                descriptors.add(os.readlink(entry.path))
        return set(threading.enumerate()), set(children()), descriptors, set(os.listdir("/dev/shm"))

    before = present()
    yield
    for left, known in zip(present(), before, strict=True):
        assert left <= known


def running(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.parametrize("workers, pixels", [(0, 1), (0, 3 << 20), (1, 3 << 20), (3, 1)])
def test_the_bytes_are_those_of_the_plan(workers, pixels, monkeypatch):
    """Threads, one process and several, parts of one image and parts of a batch."""
    monkeypatch.setattr(stream, "PART_PIXELS", pixels)
    reader = pictures()
    plan = plan_of(reader)
    for start in (0, 5):
        with contextlib.closing(Stream(split_of(reader), plan, start, workers)) as images:
            for number in range(start, start + 5):
                assert_same(images.next(), expected(reader, plan, number))


@pytest.mark.parametrize("workers", [0, 1])
def test_stored_images_come_alone_or_beside_crops(workers):
    reader = pictures(sizes=((20, 30),))
    for names in ("", "x"):
        plan = plan_of(reader, names, stored=True)
        images = Stream(split_of(reader), plan, 2, workers, end=4)
        for number in (2, 3):
            assert_same(images.next(), expected(reader, plan, number))


def test_images_in_memory_are_cut_by_threads_whatever_is_asked():
    reader = pictures(sizes=((20, 30),))
    plan = plan_of(reader, "xz", stored=True)
    arrays = ArrayReader(reader.read(np.arange(40)))
    with contextlib.closing(Stream(split_of(arrays), plan, 0, 3)) as images:
        assert not children()
        assert_same(images.next(), expected(reader, plan, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_is_decoded_once_for_all_its_crops(workers, tmp_path):
    log = tmp_path / "rows"
    reader = pictures(log=str(log))

    def plan(number):
        rows = np.arange(BATCH) + BATCH * number
        # As an evaluation fills up its last batch.
        return plan_of(reader, batch=BATCH)(0)._replace(rows=np.where(rows < 10, rows, 0))

    images = Stream(split_of(reader), plan, 0, workers, end=2)
    for _ in range(2):
        images.next()
    rows = sorted(map(int, log.read_text().split()))
    assert rows[1:] == [*range(10)] or len(rows) <= 10 + 3  # row 0 again once a part


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_may_be_shorter_than_the_first_but_not_longer_or_another(workers):
    reader = pictures()
    long, short = plan_of(reader), plan_of(reader, batch=2)
    others = {
        1: short, 2: plan_of(reader, batch=BATCH + 1), 3: plan_of(reader, "x"),
        4: plan_of(reader, draws=1),
    }
    images = Stream(split_of(reader), lambda step: others.get(step, long)(step), 0, workers, end=2)
    assert_same(images.next(), expected(reader, long, 0))
    assert_same(images.next(), expected(reader, short, 1))
    for number in (2, 3, 4):
        with nothing_left(), pytest.raises(ValueError, match="the outputs of the first"):
            Stream(
                split_of(reader), lambda step, number=number: (long, others[number])[step](step),
                0, workers,
            )


def test_a_plan_must_make_sense():
    reader = pictures()
    with pytest.raises(ValueError, match="cannot be stacked"):
        Stream(split_of(reader), plan_of(reader, stored=True), 0, 0)
    with pytest.raises(ValueError, match="without images"):
        Stream(split_of(reader), plan_of(reader, ""), 0, 0)

    def flat(number):
        rows, stored, outputs = plan_of(reader, "x")(number)
        return BatchPlan(rows, stored, {"x": (outputs["x"][0], outputs["x"][1][:, 0])})

    def small(number):
        rows, stored, outputs = plan_of(reader, "x")(number)
        crop, steps = outputs["x"]
        return BatchPlan(rows, stored, {"x": (crop._replace(size=(9, 9)), steps)})

    with nothing_left():
        with pytest.raises(ValueError, match=r"steps of 'x' have shape \(7, 1, 6\)"):
            Stream(split_of(reader), flat, 0, 0)
        with pytest.raises(ValueError, match=r"of 'x' do not end with the size \(9, 9\)"):
            Stream(split_of(reader), small, 0, 0)


def test_a_process_without_rows_gets_nothing():
    reader = pictures()
    images = Stream(split_of(reader), plan_of(reader, batch=0), 0, 1, end=2)
    for _ in range(2):
        assert {name: len(array) for name, array in images.next().items()} == dict(x=0, y=0, z=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_end_leaves_nothing(workers):
    reader = pictures()
    with nothing_left():
        images = Stream(split_of(reader), plan_of(reader), 3, workers, end=5)
        for _ in range(2):
            images.next()
    with pytest.raises(ValueError, match="has ended"):
        images.next()
    images.close()
    with nothing_left():
        Stream(split_of(reader), plan_of(reader), 5, workers, end=5)
    with nothing_left():  # in the middle of work
        images = Stream(split_of(reader), plan_of(reader), 0, workers)
        images.close()
        images.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_corrupt_image_of_a_batch_is_named_when_its_turn_comes(workers, monkeypatch):
    monkeypatch.setattr(stream, "PART_PIXELS", 1)
    reader = pictures(faults={15: "slow", 16: "corrupt", 18: "corrupt"})

    def plan(number):
        return plan_of(pictures())(0)._replace(rows=np.arange(BATCH) + BATCH * number)

    with nothing_left():
        images = Stream(split_of(reader), plan, 0, workers)
        images.next()
        images.next()
        with pytest.raises(DataError, match=r"^16.png: image 16 is damaged; replace or remove it$"):
            images.next()
    with pytest.raises(ValueError, match="has ended"):
        images.next()


@pytest.mark.parametrize("workers, kind", [(0, ZeroDivisionError), (2, RuntimeError)])
def test_a_bug_of_a_reader_keeps_its_traceback(workers, kind):
    reader = pictures(faults={row: "bug" for row in range(40)})
    with nothing_left(), pytest.raises(kind, match="at ") as caught:
        Stream(split_of(reader), plan_of(reader), 0, workers).next()
    if workers:
        assert "ZeroDivisionError in a worker process" in str(caught.value)
        assert 'raise ZeroDivisionError(f"at {row}")' in caught.value.__notes__[0]


def test_a_dead_worker_ends_in_one_line():
    message = (
        "data.workers: a worker process died with exit code -9; check that memory suffices, and "
        "run again to go on from the last checkpoint"
    )
    reader = pictures(faults={row: "kill" for row in range(40)})
    with nothing_left(), pytest.raises(DataError) as caught:
        Stream(split_of(reader), plan_of(reader), 0, 2).next()
    assert str(caught.value) == message
    reader = pictures()
    with nothing_left():  # one that waits for work
        images = Stream(split_of(reader), plan_of(reader), 0, 2)
        images.next()
        time.sleep(0.2)
        os.kill(children()[0], signal.SIGKILL)
        with pytest.raises(DataError) as caught:
            for _ in range(100):
                images.next()
    assert str(caught.value) == message


def test_readers_that_no_other_process_can_have_are_refused(monkeypatch):
    class Local(Pictures):
        pass

    sizes = pictures().sizes
    with nothing_left(), pytest.raises(DataError) as caught:
        Stream(split_of(Local(sizes)), plan_of(pictures()), 0, 1)
    assert str(caught.value).startswith(
        "data.workers: Local cannot be sent to worker processes ("
    ) and str(caught.value).endswith("; set data.workers=0 to read in threads")
    with nothing_left(), pytest.raises(DataError) as caught:
        Stream(split_of(Unloadable(sizes)), plan_of(pictures()), 0, 2).next()
    assert str(caught.value) == (
        "data.workers: a worker process cannot load the reader of the images (ValueError: invalid "
        "literal for int() with base 10: 'nothing'); set data.workers=0 to read in threads"
    )
    monkeypatch.setattr(crew, "available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        Stream(split_of(pictures()), plan_of(pictures()), 0, 1)
    assert str(caught.value) == (
        "data.workers: worker processes need Linux 5.3 or later; set data.workers=0 to use threads"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_that_lie_on_devices_are_not_written_again(workers):
    """On the CPU backend arrays may keep lying where NumPy's did."""
    reader = pictures()
    plan = plan_of(reader)
    with contextlib.closing(Stream(split_of(reader), plan, 0, workers)) as images:
        kept = [jax.device_put(images.next(), may_alias=True) for _ in range(8)]
    for number, arrays in enumerate(kept):
        assert_same(jax.tree.map(np.asarray, arrays), expected(reader, plan, number))


@pytest.mark.parametrize("workers", [0, 1])
def test_more_tasks_than_a_socket_takes_do_not_lock_up(workers, monkeypatch):
    monkeypatch.setattr(stream, "PART_PIXELS", 1)
    reader = pictures(700, sizes=((2, 2),))

    def plan(number):
        del number
        return BatchPlan(np.arange(700), True, {})

    images = Stream(split_of(reader), plan, 0, workers, end=2)
    read = [images.next()[""] for _ in range(2)]
    np.testing.assert_array_equal(read[0], read[1])
    np.testing.assert_array_equal(read[0][699], np.asarray(reader.image(699)))


def test_workers_load_neither_jax_nor_what_the_program_has():
    reader = pictures()
    with contextlib.closing(Stream(split_of(reader), plan_of(reader), 0, 2)) as images:
        images.next()
        for worker in children():
            assert "jaxlib" not in Path(f"/proc/{worker}/maps").read_text()


def test_choice_of_workers():
    split = split_of(pictures())
    chosen = {count: choose_workers(-1, split, count) for count in (1, 4, 5, 16, 112)}
    assert chosen == {1: 0, 4: 0, 5: 4, 16: 15, 112: 111}
    assert choose_workers(3, split, 1) == 3 and choose_workers(0, split, 112) == 0
    assert choose_workers(3, split_of(ArrayReader(np.zeros((2, 1, 1, 3), np.uint8))), 112) == 0

    class OfTheProgram(Pictures):
        __module__ = "__main__"

    assert choose_workers(-1, split_of(OfTheProgram(pictures().sizes)), 112) == 0


def test_choice_of_workers_without_linux(monkeypatch):
    monkeypatch.setattr(stream, "available", lambda: False)
    assert choose_workers(-1, split_of(pictures()), 112) == 0


PARENT = """
import os, signal, sys, time
from kdaug_jax.data.stream import Stream
from tests.data.pictures import children, pictures, plan_of, split_of
reader = pictures()
images = Stream(split_of(reader), plan_of(reader), 0, 2)
for number in (signal.SIGTERM, signal.SIGINT):  # before they are ready, and after
    for child in children():
        os.kill(child, number)
    for _ in range(5):
        images.next()
print(*children(), flush=True)
while True:
    images.next()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_outlive_signals_but_not_their_parent(number):
    """A cluster signals every process of a run, and the run still needs batches to its end."""
    shared = set(os.listdir("/dev/shm"))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with parent:
        workers = list(map(int, parent.stdout.readline().split()))
        assert len(workers) == 2 and all(map(running, workers))
        parent.send_signal(number)
    for _ in range(100):
        if not any(map(running, workers)):
            break
        time.sleep(0.05)
    assert not any(map(running, workers))
    assert set(os.listdir("/dev/shm")) <= shared


def test_arrays_that_are_dumped_are_shared(tmp_path):
    value = {"long": np.arange(100_000), "short": np.zeros((2, 0)), "text": "é"}
    descriptor = memory.dump(value)
    again = memory.load(descriptor)
    assert again["text"] == "é" and again["short"].shape == (2, 0)
    np.testing.assert_array_equal(again["long"], value["long"])
    assert not again["long"].flags.owndata and not again["long"].flags.writeable
    with pytest.raises(OSError):
        os.close(descriptor)  # closed already


def resident_kilobytes(process):
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1])
    raise AssertionError("no resident memory")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat(workers):
    reader = pictures()
    plans = [plan_of(reader)(number) for number in range(20)]
    with contextlib.closing(
        Stream(split_of(reader), lambda number: plans[number % 20], 0, workers)
    ) as images:
        memory_at = []
        for number in range(5001):
            images.next()
            if number in (1000, 5000):
                memory_at.append({
                    process: (resident_kilobytes(process), len(os.listdir(f"/proc/{process}/fd")))
                    for process in (os.getpid(), *children())
                })
    before, after = memory_at
    assert before.keys() == after.keys() and len(before) == 1 + workers
    for process in before:
        assert after[process][0] <= 1.05 * before[process][0] + 2048
        assert after[process][1] == before[process][1]
