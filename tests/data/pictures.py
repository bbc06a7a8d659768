"""A reader of pictures of many sizes that worker processes load without JAX, and plans for it."""

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image

from kdaug_jax.errors import DataError
from kdaug_jax.images import crops, threefry
from kdaug_jax.images.batches import BatchPlan, CropPlan

SIZES = ((30, 20), (17, 41), (64, 48), (1, 9), (33, 33))  # height, width
BATCH = 7
CROPPED = dict(size=12, method="bilinear", scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
VIEWS = {
    "x": [crops.Crop("random_resized_crop", CROPPED)],
    "y": [
        crops.Crop("resize_shorter", dict(side=9, method="bicubic")),
        crops.Crop("crop_random", dict(size=5)),
    ],
    "z": [crops.Crop("efficientnet_crop", dict(size=8, padding=0))],
}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Picture `row` is noise of seed `row`; rows of `faults` do what their word says."""

    sizes: np.ndarray
    size: tuple[int, int] | None = None
    faults: dict[int, str] = dataclasses.field(default_factory=dict)
    log: str = ""

    def image(self, row):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{row}\n")
        match self.faults.get(row):
            case "corrupt":
                raise DataError(f"{row}.png", f"image {row} is damaged", "replace or remove it")
            case "bug":
                raise ZeroDivisionError(f"at {row}")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(0.2)
        pixels = np.random.RandomState(row).randint(0, 256, (*self.sizes[row], 3), np.uint8)
        return Image.fromarray(pixels)

    def read(self, rows):
        return np.stack([np.asarray(self.image(int(row))) for row in rows])

    def take(self, rows):
        raise NotImplementedError


def pictures(count=40, sizes=SIZES, **more):
    shown = np.array([sizes[row % len(sizes)] for row in range(count)], np.int32)
    return Pictures(shown, size=sizes[0] if len(sizes) == 1 else None, **more)


class Unloadable(Pictures):
    """Another process cannot make it."""

    def __reduce__(self):
        return int, ("nothing",)


def split_of(reader):
    from kdaug_jax.data.dataset import ArrayReader, Split  # which worker processes do not import

    count = len(reader.image if isinstance(reader, ArrayReader) else reader.sizes)
    return Split(reader, np.zeros(count, np.int32), np.arange(count, dtype=np.int32))


def steps_of(name, rows, sizes, draw):
    keys = threefry.redraw(threefry.example_keys(0, name, 0, rows), np.full(len(rows), draw))
    words = crops.words_of(VIEWS[name], lambda stage: threefry.fold(keys, str(stage)))
    return crops.plan(VIEWS[name], words, sizes[rows])


def plan_of(reader, names="xyz", stored=False, draws=2, batch=BATCH):
    """Rows drawn anew for each batch, each with two crops of each view."""

    def plan(number):
        rows = np.random.RandomState(number).randint(0, len(reader.sizes), batch, np.int32)
        outputs = {}
        for name in names:
            steps = [steps_of(name, rows, reader.sizes, draw) for draw in range(draws)]
            size, dtype = crops.output(VIEWS[name])
            crop = CropPlan(draws, crops.methods(VIEWS[name]), size, dtype)
            outputs[name] = crop, np.stack(steps, 1)
        return BatchPlan(rows, stored, outputs)

    return plan


def children(parent=None):
    """Numbers of the worker processes of a process."""
    parent, workers = parent or os.getpid(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            started_by = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (entry / "cmdline").read_text() if entry.name.isdigit() else ""
            if started_by == parent and "kdaug_jax.images.worker" in command:
                workers.append(int(entry.name))
    return sorted(workers)
