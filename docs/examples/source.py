"""A data source of your own: coloured stripes, made as arrays.

A source is a function of a text that returns a `kdaug_jax.data.Dataset`. With this file beside the
config file, or in the current directory, the config names it as `module:function:ARGUMENT`:

    config.data.source = "source:stripes:256"
"""

import numpy as np

from kdaug_jax import data
from kdaug_jax.errors import ConfigError

CLASSES = ("horizontal", "vertical")
SIDE = 16


def stripes(argument: str) -> data.Dataset:
    """Makes noisy images of horizontal and vertical stripes.

    Args:
      argument: the number of training images; validation and test have a quarter of it each.
    """
    if not argument.isdecimal() or int(argument) < 8:
        # Told in one line; any other exception than these of kdaug_jax.errors keeps its traceback.
        raise ConfigError("data.source", f"stripes of '{argument}'", "write source:stripes:256")
    random = np.random.default_rng(0)
    count = int(argument)
    splits = {}
    for name, size in {"train": count, "validation": count // 4, "test": count // 4}.items():
        label = np.arange(size) % 2  # class numbers, one an image
        stripe = np.where(np.arange(SIDE) // 4 % 2, 64, 192)
        rows = np.broadcast_to(stripe[:, None, None], (SIDE, SIDE, 3))
        image = np.where(label[:, None, None, None], rows.transpose(1, 0, 2), rows)
        image = image + random.integers(-32, 32, image.shape)
        splits[name] = image.astype(np.uint8), label  # u8[N,H,W,3], pixels 0..255
    return data.from_arrays(splits, CLASSES)


if __name__ == "__main__":
    dataset = data.load(
        "source:stripes:256", {"train": "train", "validation": "validation", "test": "test"}
    )
    info = data.describe(dataset)
    print(f"{len(dataset.splits['train'])} images of {info.size[1]}×{info.size[0]} pixels, "
          f"classes {', '.join(dataset.class_names)}, mean {info.mean}")
