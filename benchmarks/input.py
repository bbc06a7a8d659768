"""What feeding the step costs, beside copying the same bytes and beside what Pillow must do.

`assembly`: a batch of `streamed` images that lie in memory, put together in the order of an epoch,
against copying as many bytes from one array into another; the target is at least 0.3 of the speed
of copying. `png` and `jpeg`: images read from a folder and decoded by the threads of `streamed`,
against a loop over the same files that does no more than Pillow must.

The others are of JPEGs of 500×375 that are cropped while they are decoded; what is held against a
target are the CPU-seconds of all threads and processes. `crop`: `random_resized_crop(224)`, drawing
included, by one thread, by the threads of a stream and by worker processes, against a loop over
Pillow with the boxes given, and against decoding alone. `two crops` of one decode against those of
two decodes. `inception_crop` of decoded images against Pillow's bicubic of the same boxes.
`copying`: what a copy of the crops costs beside making them.

Each prints one JSON line; `ratio` is the median over the rounds of the first side's seconds to the
second's. A table of the crops, and of the cores that networks need, goes to stderr.

    python benchmarks/input.py
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import input_crops
import numpy as np
from PIL import Image

from kdaug_jax import data

# (side in pixels, images, turns in one): sets that no cache holds, turns long enough to time.
IN_MEMORY = ((32, 30_000, 100), (224, 600, 4))
FILES = (("png", 32, 2048), ("jpeg", 224, 256))
TARGET = round(1 / 0.3, 2)
SPLITS = {"train": "train", "validation": "train", "test": "train"}


def photographs(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """Cuts pieces from the two photographs that come with scikit-learn, 640×427."""
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    random = np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        cut = int(random.integers(min(width, 200), 400)) if width < 400 else width
        tall = cut * height // width
        left = int(random.integers(picture.width - cut))
        top = int(random.integers(picture.height - tall))
        piece = picture.crop((left, top, left + cut, top + tall))
        yield np.asarray(piece.resize((width, height), Image.Resampling.BICUBIC))


class Streamed:
    """Takes batches from a streamed feed, one after another."""

    def __init__(self, split: data.Split, batch: int):
        self.feed, self.position = data.streamed(split, 0, batch), 0

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self.feed.item(self.position)
            self.position += 1


def copying(image: np.ndarray, batch: int) -> Callable[[int], None]:
    """Copies whole batches that lie one behind another."""
    target, position = np.empty_like(image[:batch]), 0

    def run(steps: int) -> None:
        nonlocal position
        for _ in range(steps):
            np.copyto(target, image[position : position + batch])
            position = (position + batch) % (len(image) - batch)

    return run


def decoding(files: list[Path], batch: int) -> Callable[[int], None]:
    """Decodes files with Pillow alone."""
    position = 0

    def run(steps: int) -> None:
        nonlocal position
        for _ in range(steps * batch):
            with Image.open(files[position]) as image:
                np.asarray(image.convert("RGB"))
            position = (position + 1) % len(files)

    return run


def measure(name: str, ours: Streamed, other: Callable[[int], None], options) -> dict:
    """Lets the two take turns and adds images a second, and a second of a core."""
    sides = {"ours": ours, "other": other}
    for run in sides.values():
        run(options.steps)  # fills what is read ahead
    result, _ = common.compare(
        name, {side: functools.partial(common.timed, run) for side, run in sides.items()}, options,
        ("numpy", "Pillow"),
    )
    ours.feed.close()
    for field in ("wall", "cpu"):
        result[f"images_per_{field}_second"] = {
            side: round(options.batch / seconds)
            for side, seconds in result[f"{field}_seconds"].items()
        }
    return result


def main() -> int:
    """Measures all cases and returns the exit status, which does not depend on the target."""
    options = common.parse(__doc__, rounds=10, steps=20)
    for side, count, turns in IN_MEMORY:
        image = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        label = np.zeros(count, np.int32)
        base = data.from_arrays({"train": (image, label)})
        split = base.splits["train"]
        longer = argparse.Namespace(**{**vars(options), "steps": turns * options.steps})
        result = measure(
            f"assembly of {side}x{side}", Streamed(split, options.batch),
            copying(image, options.batch), longer,
        )
        common.report(result, TARGET)
    for kind, side, count in FILES:
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory, "train", "photographs")
            place.mkdir(parents=True)
            for number, pixels in enumerate(photographs(side, side, count)):
                Image.fromarray(pixels).save(place / f"{number:05d}.{kind}", quality=90)
            split = data.load(f"folder:{directory}", SPLITS).splits["train"]
            result = measure(
                f"{kind} of {side}x{side}", Streamed(split, options.batch),
                decoding(sorted(place.iterdir()), options.batch), options,
            )
        common.report(result, None)
    crops = argparse.Namespace(**{**vars(options), "steps": max(options.steps // 10, 1)})
    input_crops.measure(crops, photographs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
