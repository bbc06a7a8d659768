"""The corruptions of ImageNet-C, CIFAR-10-C and CIFAR-100-C.

Source: D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", ICLR 2019; https://github.com/hendrycks/robustness@8190fe3.
"""

from __future__ import annotations

from kdaug_jax.errors import ConfigError, suggest

# The mean corruption error is over these fifteen.
BENCHMARK = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)
# Published beside them, for choosing: not part of the mean.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)


def corruptions(extra: bool = False) -> tuple[str, ...]:
    """Returns the names of the 15 corruptions of the benchmark; with `extra` all 19."""
    return BENCHMARK + EXTRA if extra else BENCHMARK


def chosen_corruption(source: str, path: str, given: dict[str, str]) -> tuple[str, int]:
    """Returns the corruption and the severity that a source's argument names.

    Args:
      source: its name, for messages.
      path: its argument without options, for messages.
      given: the options, such as `{"corruption": "fog", "severity": "3"}`.

    Returns:
      The name of a corruption and 1..5.

    Raises:
      ConfigError: one of the two is missing or unknown.
    """
    example = f"{source}:{path}?corruption=fog&severity=3"
    names = corruptions(extra=True)
    for option, values in (("corruption", names), ("severity", SEVERITIES)):
        if option not in given:
            raise ConfigError(
                "data.source", f"{source}:{path} needs {option}=, one of "
                + ", ".join(map(str, values)), f"write {example}",
            )
    name, severity = given["corruption"], given["severity"]
    if name not in names:
        raise ConfigError(
            "data.source", f"{source} has no corruption '{name}'", suggest(name, names)
        )
    if severity not in map(str, SEVERITIES):
        raise ConfigError("data.source", f"{source} has no severity '{severity}'", "1 to 5")
    return name, int(severity)
