"""What a streamed run leaves in its process: nothing, however it ends."""

import contextlib
import io
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdaug_jax.errors import DataError, Preempted
from kdaug_jax.training import loop, staging
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images of several sizes."""
    root, random = tmp_path_factory.mktemp("set"), np.random.RandomState(0)
    for split in ("train", "validation", "test"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(12):
                height, width = random.randint(9, 14, 2)
                pixels = random.randint(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number:02d}.png")
    return root


def train(place, directory):
    config = tiny_config(
        data=dict(source=f"folder:{place}", batch_size=8, workers=2),
        views={"x": "random_resized_crop(8)"}, eval=dict(view="center_crop(8)"),
    )
    return loop.train(config, directory, stream=io.StringIO())


def children():
    """Numbers of the child processes."""
    numbers = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended
            numbers += (task / "children").read_text().split()
    return numbers


def held():
    """Threads, child processes and open descriptors of this process, and shared memory."""
    descriptors = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            descriptors.append(os.readlink(entry).partition(":")[0])
    return set(threading.enumerate()), children(), sorted(descriptors), set(os.listdir("/dev/shm"))


def test_nothing_is_left_after_the_end_an_error_or_sigterm(place, tmp_path, monkeypatch):
    train(place, tmp_path / "first")  # compiles, and starts what lasts as long as the process
    before = held()
    assert not before[1]
    train(place, tmp_path / "end")
    assert held() == before
    stage, seen = staging.Staging.stage, []

    def staging_with(event):
        def stage_and(self, step, count):
            stage(self, step, count)
            if step == 4:
                seen.append(len(children()))
                event()
        return stage_and

    damaged = place / "validation" / "bee" / "03.png"
    content = damaged.read_bytes()
    monkeypatch.setattr(
        staging.Staging, "stage", staging_with(lambda: damaged.write_bytes(content[:60]))
    )
    with pytest.raises(DataError, match="03.png: image 15 is damaged"):
        train(place, tmp_path / "error")
    damaged.write_bytes(content)
    assert held() == before
    monkeypatch.setattr(
        staging.Staging, "stage", staging_with(lambda: os.kill(os.getpid(), signal.SIGTERM))
    )
    with pytest.raises(Preempted, match="step 4 is saved; run again to go on"):
        train(place, tmp_path / "sigterm")
    assert held() == before
    assert seen == [2, 2]  # workers were running
