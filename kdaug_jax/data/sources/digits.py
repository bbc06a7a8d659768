"""scikit-learn's 1,797 handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np

from kdaug_jax.data.dataset import Dataset, split_of_arrays
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import ConfigError

SIZES = {"train": 1200, "validation": 297, "test": 300}
SIDE = 32


def digits(argument: str = "", options: ReadOptions = DEFAULTS) -> Dataset:
    """Returns the digits as RGB images of 32×32 pixels, in a fixed split.

    The 8×8 grey levels 0..16 become 0..255 and every pixel a block of 4×4, so nothing is
    interpolated. The split into 1,200 / 297 / 300 images is stratified by class with seed 0.

    Args:
      argument: must be empty.
      options: unused: the digits are arrays.

    Returns:
      A `Dataset` with the splits "train", "validation" and "test".

    Raises:
      ConfigError: `argument` is not empty.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    if argument:
        raise ConfigError("data.source", f"digits takes no argument, got '{argument}'", "digits")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    label = raw.target.astype(np.int32)
    grey = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    block = SIDE // grey.shape[1]
    image = np.repeat(grey.repeat(block, 1).repeat(block, 2)[..., None], 3, axis=-1)
    rest, test = train_test_split(
        np.arange(len(label)), test_size=SIZES["test"], stratify=label, random_state=0
    )
    train, validation = train_test_split(
        rest, test_size=SIZES["validation"], stratify=label[rest], random_state=0
    )
    members = {"train": train, "validation": validation, "test": test}
    names = tuple(str(name) for name in raw.target_names)
    splits = {
        name: split_of_arrays(image[rows], label[rows], len(names), f"digits ({name})")
        for name, rows in members.items()
    }
    return Dataset(splits, names)
