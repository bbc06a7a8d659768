"""The stages that the view language can name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from kdaug_jax.augment import mixing, policies
from kdaug_jax.augment.ops import crop, masks, resized_crop, resizing
from kdaug_jax.augment.policies import Policy
from kdaug_jax.augment.policies.policy import named
from kdaug_jax.augment.stage import Size, Stage
from kdaug_jax.errors import ArgumentError


def randaugment(
    n: int | str,
    m: int | None = None,
    space: str = "paper",
    ops: Sequence[str] | None = None,
    translate_const: float | None = None,
    cutout_const: float | None = None,
    *,
    size: Size,
) -> Policy:
    """Applies n ops in turn at magnitude m, or what a config string of timm says.

    Args:
      n: how many ops, or a config string such as "rand-m9-mstd0.5-inc1".
      m: the magnitude, not for config strings.
      space: see `policies.randaugment`, also for the other arguments.
      ops: names of ops to draw from, None for all.
      translate_const: of the TPU spaces.
      cutout_const: of the TPU spaces.
      size: height and width of the images in pixels.

    Returns:
      A policy with the traced number `m`.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    if isinstance(n, str):
        if (m, space, ops, translate_const, cutout_const) != (None, "paper", None, None, None):
            raise ArgumentError("a config string is given with other arguments", "give it alone")
        return policies.timm(n, size=size)
    if m is None:
        raise ArgumentError("argument 'm' is missing", "randaugment(n, m), as randaugment(2, 9)")
    return policies.randaugment(
        n, m, space, size=size, ops=ops, translate_const=translate_const,
        cutout_const=cutout_const,
    )


def center_crop_stage(
    key: jax.Array, image: jax.Array, size: int, padding: int = 32, method: str = "bicubic"
) -> jax.Array:
    """`center_crop` as a stage; see there.

    Args:
      key: `key[]`, not used.
      image: `u8[H,W,C]`.
      size: side of the result in pixels.
      padding: see `center_crop`.
      method: see `center_crop`.

    Returns:
      `u8[size,size,C]`; the input is `u8[H,W,C]`.
    """
    del key
    return resized_crop.center_crop(image, size, padding, method)


def efficientnet_crop_stage(
    key: jax.Array, image: jax.Array, size: int, padding: int = 32
) -> jax.Array:
    """`efficientnet_crop` as a stage; see there.

    Args:
      key: `key[]`, not used.
      image: `u8[H,W,C]`.
      size: side of the result in pixels.
      padding: see `efficientnet_crop`.

    Returns:
      `f32[size,size,C]`; the input is `u8[H,W,C]`.
    """
    del key
    return resized_crop.efficientnet_crop(image, size, padding)


def _square(arguments: Mapping[str, Any], size: Size) -> Size:
    del size
    return arguments["size"], arguments["size"]


def check_crop(arguments: Mapping[str, Any], size: Size) -> None:
    """Refuses a result without pixels, an unknown filter, and ranges or a middle that are none.

    Args:
      arguments: what a user wrote for a stage that crops and resizes.
      size: height and width of the images in pixels.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    if arguments["size"] < 1:
        raise ArgumentError(f"got size={arguments['size']}", "must be at least 1 pixel")
    if "method" in arguments:
        named("method", arguments["method"], resizing.FILTERS)
    if "scale" in arguments:
        resized_crop.check_ranges(arguments["scale"], arguments["ratio"])
    if "padding" in arguments:
        resized_crop.middle(*size, arguments["size"], arguments["padding"])


STAGES: dict[str, Stage] = {
    "pad_crop": Stage(crop.random_pad_crop, check=crop.check_pad_crop),
    "flip": Stage(crop.random_flip),
    "cutout": Stage(masks.random_cutout, check=masks.check_cutout),
    "random_resized_crop": Stage(
        resized_crop.random_resized_crop, check=check_crop, size=_square
    ),
    "inception_crop": Stage(resized_crop.inception_crop, check=check_crop, size=_square),
    "center_crop": Stage(center_crop_stage, check=check_crop, size=_square),
    "efficientnet_crop": Stage(
        efficientnet_crop_stage, check=check_crop, size=_square, floats=True
    ),
    "mixup": Stage(mixing.random_mixup, form="group", check=mixing.check_mixing, floats=True),
    "cutmix": Stage(mixing.random_cutmix, form="group", check=mixing.check_mixing),
    "mixup_or_cutmix": Stage(
        mixing.random_mixup_or_cutmix, form="group", check=mixing.check_mixing, floats=True
    ),
    "autoaugment": Stage(policies.autoaugment, form="policy"),
    "randaugment": Stage(randaugment, form="policy"),
    "trivialaugment_wide": Stage(policies.trivialaugment_wide, form="policy"),
    "wei2020": Stage(policies.wei2020, form="policy"),
    "pba": Stage(policies.pba, form="policy"),
    "schedule": Stage(policies.schedule, form="policy"),
}
