"""What feeding the step costs: batches against copying their bytes, decoding against bare Pillow.

`assembly`: a batch of `streamed` images that lie in memory, put together in the order of an epoch,
against copying as many bytes from one array into another. `png` and `jpeg`: images read from a
folder and decoded by the threads of `streamed`, against a loop over the same files that does no
more than Pillow must. Each prints one JSON line; `ratio` is the median over the rounds of ours to
the other's seconds. The target is for `assembly`: at least 0.3 of the speed of copying.

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
import numpy as np
from PIL import Image

from kdaug_jax import data

# (side in pixels, images, turns in one): sets that no cache holds, turns long enough to time.
IN_MEMORY = ((32, 30_000, 100), (224, 600, 4))
FILES = (("png", 32, 2048), ("jpeg", 224, 256))
TARGET = round(1 / 0.3, 2)
SPLITS = {"train": "train", "validation": "train", "test": "train"}


def photographs(side: int, count: int) -> Iterator[np.ndarray]:
    """Cuts squares from the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    random = np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        cut = int(random.integers(min(side, 200), 400))
        left = int(random.integers(picture.width - cut))
        top = int(random.integers(picture.height - cut))
        square = picture.crop((left, top, left + cut, top + cut))
        yield np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


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
        ("grain", "numpy", "Pillow"),
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
            for number, pixels in enumerate(photographs(side, count)):
                Image.fromarray(pixels).save(place / f"{number:05d}.{kind}", quality=90)
            split = data.load(f"folder:{directory}", SPLITS).splits["train"]
            result = measure(
                f"{kind} of {side}x{side}", Streamed(split, options.batch),
                decoding(sorted(place.iterdir()), options.batch), options,
            )
        common.report(result, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
