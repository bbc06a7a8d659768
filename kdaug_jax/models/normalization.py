"""Per-channel statistics that networks normalise pixels with, in pixel units 0..255."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdaug_jax.errors import ConfigError, suggest

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# (mean, std) of the pixels of each training split.
STATISTICS: dict[str, Statistics] = {
    "cifar10": ((125.31, 122.95, 113.87), (62.99, 62.09, 66.70)),
    "cifar100": ((129.30, 124.07, 112.43), (68.17, 65.39, 70.42)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "svhn": ((111.61, 113.16, 120.57), (50.50, 51.26, 50.24)),
}


def statistics(normalize: str | Sequence[Sequence[float]]) -> Statistics:
    """Returns the mean and standard deviation that `normalize` stands for.

    Args:
      normalize: (mean, std), each one number a channel in pixel units 0..255, or a key of
        `STATISTICS`.

    Returns:
      (mean, std) as tuples of equal length.

    Raises:
      ConfigError: the data set is unknown, or the numbers are none to normalise with.
    """
    form = f"(mean, std) of pixels 0..255, or one of {', '.join(STATISTICS)}"
    if isinstance(normalize, str):
        if normalize not in STATISTICS:
            remedy = f"{suggest(normalize, STATISTICS)} Or give (mean, std) of pixels 0..255"
            raise ConfigError("normalize", f"unknown data set '{normalize}'", remedy)
        return STATISTICS[normalize]
    try:
        mean, std = (tuple(float(value) for value in values) for values in normalize)
    except (TypeError, ValueError):
        raise ConfigError("normalize", f"is {normalize!r}", form) from None
    if not mean or len(mean) != len(std):
        what = f"has {len(std)} values, mean {len(mean)}"
        raise ConfigError("normalize.std", what, "one per channel")
    if not all(math.isfinite(value) for value in mean):
        raise ConfigError("normalize.mean", f"is {mean}", "finite values")
    if not all(0.0 < value < math.inf for value in std):
        raise ConfigError("normalize.std", f"is {std}", "every value above 0 and finite")
    if any(mean) and all(0.0 <= value <= 1.0 for value in (*mean, *std)):
        raise ConfigError(
            "normalize", f"mean {mean} and std {std} are of pixels 0..1",
            "multiply both by 255: pixels here are 0..255",
        )
    return mean, std
