"""Random images of any size, for trying a config without its data."""

from __future__ import annotations

import re

import numpy as np

from kdaug_jax.data.dataset import Dataset, split_of_arrays
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import ConfigError


def synthetic(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Returns noisy images of one random pattern for each class.

    Args:
      argument: "HEIGHTxWIDTH,CLASSES,SIZE", such as "32x32,10,256"; SIZE is the number of
        training images, validation and test hold a quarter of it each.
      options: unused: the images are arrays.

    Returns:
      A `Dataset` with the splits "train", "validation" and "test"; the same for the same argument.

    Raises:
      ConfigError: `argument` is not of that form.
    """
    match = re.fullmatch(r"(\d{1,18})x(\d{1,18}),(\d{1,18}),(\d{1,18})", argument.replace(" ", ""))
    if not match or min(map(int, match.groups())) < 1 or int(match[4]) < int(match[3]):
        raise ConfigError(
            "data.source",
            f"synthetic needs height, width, classes and size, got '{argument}'",
            "synthetic:32x32,10,256, with at least one image a class",
        )
    height, width, classes, size = map(int, match.groups())
    random = np.random.RandomState(0)
    pattern = random.randint(64, 192, (classes, -(-height // 4), -(-width // 4), 3))
    pattern = pattern.repeat(4, 1).repeat(4, 2)[:, :height, :width]
    splits = {}
    quarter = max(size // 4, classes)
    for name, count in {"train": size, "validation": quarter, "test": quarter}.items():
        label = np.arange(count, dtype=np.int32) % classes
        noise = random.randint(-64, 64, (count, height, width, 3))
        image = (pattern[label] + noise).astype(np.uint8)
        splits[name] = split_of_arrays(image, label, classes, f"synthetic ({name})")
    return Dataset(splits, tuple(f"class {number}" for number in range(classes)))
