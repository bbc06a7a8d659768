"""The corruptions of ImageNet-C, CIFAR-10-C and CIFAR-100-C, and how their errors are averaged."""

from __future__ import annotations

from collections.abc import Mapping

from kdaug_jax.errors import ConfigError, suggest

# The corruptions of the -C sets in the order of their paper, the fifteen of which the mean
# corruption error is made first.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)

# AlexNet's top-1 error on ImageNet-C in percent, over the five severities: D. Hendrycks,
# T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
# ICLR 2019, by which the error of each corruption is divided.
ALEXNET_ERRORS = {
    "gaussian_noise": 88.6, "shot_noise": 89.4, "impulse_noise": 92.3, "defocus_blur": 82.0,
    "glass_blur": 82.6, "motion_blur": 78.6, "zoom_blur": 79.8, "snow": 86.7, "frost": 82.7,
    "fog": 81.9, "brightness": 56.5, "contrast": 85.3, "elastic_transform": 64.6,
    "pixelate": 71.8, "jpeg_compression": 60.7,
}  # fmt: skip


def corruptions(extra: bool = False) -> tuple[str, ...]:
    """Returns the names of the 15 corruptions of the benchmark; with `extra` all 19."""
    return CORRUPTIONS + EXTRA_CORRUPTIONS if extra else CORRUPTIONS


def check_corruption(source: str, path: str, given: Mapping[str, str]) -> tuple[str, str]:
    """Validates the options of a -C set.

    Args:
      source: its name.
      path: its directory as it was written.
      given: the options.

    Returns:
      The corruption and the severity, "1" to "5".

    Raises:
      ConfigError: one is missing or unknown.
    """
    known = corruptions(extra=True)
    if set(given) != {"corruption", "severity"}:
        raise ConfigError(
            "data.source", f"{source} needs a corruption and a severity",
            f"write {source}:{path}?corruption=fog&severity=3, with a severity of 1 to 5 and a "
            f"corruption of {', '.join(known)}",
        )
    if given["corruption"] not in known:
        what = f"{source} has no corruption '{given['corruption']}'"
        raise ConfigError("data.source", what, suggest(given["corruption"], known))
    if given["severity"] not in map(str, SEVERITIES):
        raise ConfigError(
            "data.source", f"{source} has no severity '{given['severity']}'", "1 to 5 are known"
        )
    return given["corruption"], given["severity"]
