"""The stages that the view language can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from kdaug_jax.augment import mixing, policies
from kdaug_jax.augment.ops import crop, masks, plain_crop, resized_crop, resizing
from kdaug_jax.augment.policies import Policy
from kdaug_jax.augment.stage import Size, Stage
from kdaug_jax.errors import ArgumentError
from kdaug_jax.images import crops


def randaugment(
    n: int | str,
    m: int | None = None,
    space: str = "paper",
    ops: Sequence[str] | None = None,
    translate_const: float | None = None,
    cutout_const: float | None = None,
    *,
    size: Size,
    counts: Mapping[str, int] | None = None,
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
      counts: see `policies.randaugment`.

    Returns:
      A policy with the traced number `m`, and `n` of `counts`.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    if isinstance(n, str):
        if (m, space, ops, translate_const, cutout_const) != (None, "paper", None, None, None):
            raise ArgumentError("a config string is given with other arguments", "give it alone")
        if counts:
            raise ArgumentError(
                f"n is the config string {n!r}, whose count of ops is compiled into the program",
                "sweep n of randaugment(n, m), or train a run for each config string",
            )
        return policies.timm(n, size=size)
    if m is None:
        raise ArgumentError("argument 'm' is missing", "randaugment(n, m), as randaugment(2, 9)")
    return policies.randaugment(
        n, m, space, size=size, ops=ops, translate_const=translate_const,
        cutout_const=cutout_const, counts=counts,
    )


def center_crop_stage(
    key: jax.Array, image: jax.Array, size: int, padding: int = 32, method: str = "bicubic"
) -> jax.Array:
    """Cuts a square fraction out of the middle and resizes it; see `augment.center_crop`.

    Args:
      key: `key[]`, not used.
      image: `u8[H,W,C]`.
      size: side of the result in pixels.
      padding: pixels of the result's scale that are left out, on both sides together; 0 for the
        largest square.
      method: "bilinear" or "bicubic", both Pillow's.

    Returns:
      `u8[size,size,C]`; the input is `u8[H,W,C]`.
    """
    del key
    return resized_crop.center_crop(image, size, padding, method)


def efficientnet_crop_stage(
    key: jax.Array, image: jax.Array, size: int, padding: int = 32
) -> jax.Array:
    """Cuts and resizes the middle as EfficientNet's evaluation does, to float32 pixels.

    Args:
      key: `key[]`, not used.
      image: `u8[H,W,C]`.
      size: side of the result in pixels.
      padding: pixels of the result's scale that are left out, on both sides together.

    Returns:
      `f32[size,size,C]`; the input is `u8[H,W,C]`.
    """
    del key
    return resized_crop.efficientnet_crop(image, size, padding)


def resize_stage(
    key: jax.Array, image: jax.Array, height: int, width: int, method: str = "bilinear"
) -> jax.Array:
    """Resizes images to one size, whatever their proportion; see `augment.resize`.

    Args:
      key: `key[]`, not used.
      image: `u8[H,W,C]`.
      height: of the result in pixels.
      width: of the result in pixels.
      method: "bilinear" or "bicubic", both Pillow's.

    Returns:
      `u8[height,width,C]`; the input is `u8[H,W,C]`.
    """
    del key
    return resizing.resize(image, (height, width), method)


def resize_shorter_stage(
    key: jax.Array, image: jax.Array, side: int, method: str = "bilinear"
) -> jax.Array:
    """Resizes images so that their shorter side has a given length; see `augment.resize_shorter`.

    Args:
      key: `key[]`, not used.
      image: `u8[H,W,C]`.
      side: shorter side of the result in pixels.
      method: "bilinear" or "bicubic", both Pillow's.

    Returns:
      `u8[side,W',C]` or `u8[H',side,C]`; the input is `u8[H,W,C]`.
    """
    del key
    return plain_crop.resize_shorter(image, side, method)


def crop_center_stage(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Cuts a square out of the middle, without resizing; see `augment.crop_center`.

    Args:
      key: `key[]`, not used.
      image: `u8[H,W,C]`.
      size: side of the square in pixels; smaller images are padded with zeros.

    Returns:
      `u8[size,size,C]`; the input is `u8[H,W,C]`.
    """
    del key
    return plain_crop.crop_center(image, size)


def _host_stage(
    kind: str, apply: Callable[..., jax.Array], floats: bool = False, draws: bool = False
) -> Stage:
    """Returns the row of a stage that the host can carry out too, as `CROPS[kind]` says."""

    def check(arguments: Mapping[str, Any], size: Size | None) -> None:
        crops.check(crops.Crop(kind, arguments), size)

    size = crops.CROPS[kind].size
    return Stage(apply, check=check, size=size, floats=floats, host=kind, draws=draws)


STAGES: dict[str, Stage] = {
    "pad_crop": Stage(crop.random_pad_crop, check=crop.check_pad_crop, draws=True),
    "flip": Stage(crop.random_flip, draws="probability"),
    "cutout": Stage(masks.random_cutout, check=masks.check_cutout, draws=True),
    "random_resized_crop": _host_stage(
        "random_resized_crop", resized_crop.random_resized_crop, draws=True
    ),
    "inception_crop": _host_stage("inception_crop", resized_crop.inception_crop, draws=True),
    "center_crop": _host_stage("center_crop", center_crop_stage),
    "efficientnet_crop": _host_stage("efficientnet_crop", efficientnet_crop_stage, floats=True),
    "resize": _host_stage("resize", resize_stage),
    "resize_shorter": _host_stage("resize_shorter", resize_shorter_stage),
    "crop_center": _host_stage("crop_center", crop_center_stage),
    "crop_random": _host_stage("crop_random", plain_crop.crop_random, draws=True),
    "mixup": Stage(mixing.random_mixup, form="group", check=mixing.check_mixing, floats=True),
    "cutmix": Stage(mixing.random_cutmix, form="group", check=mixing.check_mixing),
    "mixup_or_cutmix": Stage(
        mixing.random_mixup_or_cutmix, form="group", check=mixing.check_mixing, floats=True
    ),
    "autoaugment": Stage(policies.autoaugment, form="policy"),
    "randaugment": Stage(randaugment, form="policy", counts=("n",)),
    "fixmatch": Stage(policies.fixmatch, form="policy", counts=("n",)),
    "trivialaugment_wide": Stage(policies.trivialaugment_wide, form="policy"),
    "wei2020": Stage(policies.wei2020, form="policy", counts=("n",)),
    "pba": Stage(policies.pba, form="policy", drawn_as="schedule"),
    "schedule": Stage(policies.schedule, form="policy"),
}
