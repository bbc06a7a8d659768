"""Which form of a convolution runs when: pure functions of shapes, dtype and platform.

XLA's CPU backend has no fast code for depthwise and strided convolutions, for results larger than
their input, for few channels, and for long sums in filter gradients. There the result and both
gradients take a form that it has fast code for. For all other platforms and types, and for what is
small, everything is `lax.conv_general_dilated`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError

PLAIN = "plain"  # lax.conv_general_dilated and its own gradients
DEPTHWISE = "depthwise"  # sums of shifted images
POINTWISE = "pointwise"  # products of matrices
TRANSPOSED = "transposed"  # the same, after their left factor is transposed
PADDED = "padded"  # in an array of its own before
CROPPED = "cropped"  # before, where padding is negative
COLUMN_PAIRS = "column pairs"  # two columns side by side become channels
ROWS = "rows"  # the rows that a kernel meets become channels
FLIPPED = "flipped"  # a convolution with the flipped kernel, in a form of its own
PHASES = "phases"  # such a convolution for each phase of the stride
PARTS = "parts"  # of the batch, one after another
PADDED_PARTS = "padded parts"

# Numbers of x and of y up to which XLA's form is kept: little can be won, and it compiles faster.
SMALL = 1 << 16
# Pointwise convolutions of more groups would be too many small products.
MOST_GROUPS = 8
# A left factor with at most so many rows is multiplied faster once it is transposed.
FEW_ROWS = 1024
# XLA's library for convolutions refuses those that have no more inputs and outputs than this.
FEW_CHANNELS = 16
# Gradients by the kernel are computed in so many parts of the batch, each of which stays in the
# cache; jax 0.12 is faster without.
NUM_PARTS = 4 if jax.__version_info__ < (0, 12) else 1
# The batch and the side from which on that is faster.
MANY_IMAGES, MANY_ROWS = 32, 16


class Convolution(NamedTuple):
    """Settings of a convolution.

    Attributes:
      stride: step in both directions.
      padding: pixels before and after, of rows and of columns; below zero they are cut off.
      groups: number of groups of channels.
    """

    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int


class Forms(NamedTuple):
    """The form of each pass.

    Attributes:
      result: of the convolution itself.
      by_image: of the gradient by its input.
      by_kernel: of the gradient by its kernel.
    """

    result: str = PLAIN
    by_image: str = PLAIN
    by_kernel: str = PLAIN


def choose(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution, dtype: Any,
    platform: str,
) -> Forms:
    """Chooses the form of each pass of a convolution.

    Args:
      image: shape `[B,H,W,C_in]` of the input.
      kernel: shape `[k,k,C_in/groups,C_out]`.
      settings: of the convolution.
      dtype: of both.
      platform: what the program is compiled for: "cpu", "gpu" or "tpu".

    Returns:
      Their names.
    """
    if platform != "cpu" or dtype != jnp.float32:
        return Forms()
    result = result_shape(image, kernel, settings)
    if max(_count(image), _count(result)) <= SMALL:
        return Forms()
    return fast_forms(image, kernel, settings)


def fast_forms(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> Forms:
    """Returns the forms of `choose` on a CPU for float32, whatever the size.

    Args:
      image: shape `[B,H,W,C_in]` of the input.
      kernel: shape `[k,k,C_in/groups,C_out]`.
      settings: of the convolution.

    Returns:
      Their names.
    """
    if _is_depthwise(image, kernel, settings):
        return Forms(DEPTHWISE, DEPTHWISE, DEPTHWISE)
    if _is_pointwise(kernel, settings):
        if settings.groups > MOST_GROUPS:
            return Forms()
        rows = _count(result_shape(image, kernel, settings)[:3])
        return Forms(POINTWISE, POINTWISE, TRANSPOSED if rows <= FEW_ROWS else POINTWISE)
    if settings.groups > 1:
        return Forms()
    return Forms(
        dense_result(image, kernel, settings), _dense_by_image(image, kernel, settings),
        _dense_by_kernel(image, kernel, settings),
    )


def dense_result(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> str:
    """Chooses the form of a convolution without groups, which may be part of a gradient.

    Args:
      image: shape `[B,H,W,C_in]` of the input.
      kernel: shape `[h,w,C_in,C_out]`.
      settings: of the convolution.

    Returns:
      Its name.
    """
    channels, features = kernel[2:]
    if _in_column_pairs(image, kernel, settings) and max(channels, features) >= 8:
        return COLUMN_PAIRS
    if _is_negative(settings):
        return CROPPED
    if settings.stride == 1 and channels <= 4 and features <= FEW_CHANNELS:
        return ROWS
    return PADDED if _grows(image, kernel, settings) else PLAIN


def _dense_by_image(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> str:
    if settings.stride == 2:
        return PHASES
    if settings.stride > 2:
        return PLAIN
    result = result_shape(image, kernel, settings)
    inner = dense_result(result, flipped_shape(kernel), flipped(kernel, settings))
    return PLAIN if inner == PLAIN else FLIPPED


def _dense_by_kernel(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> str:
    grows = _grows(image, kernel, settings)
    many = image[0] >= MANY_IMAGES and image[1] >= MANY_ROWS and kernel[3] > FEW_CHANNELS
    if many and NUM_PARTS > 1 and image[0] % NUM_PARTS == 0:
        return PADDED_PARTS if grows else PARTS
    return PADDED if grows else PLAIN


def check(
    forms: Forms, image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> Forms:
    """Returns forms that were asked for by name after validation.

    Args:
      forms: of the three passes.
      image: shape `[B,H,W,C_in]` of the input.
      kernel: shape `[k,k,C_in/groups,C_out]`.
      settings: of the convolution.

    Raises:
      ArgumentError: a name is unknown, or its form cannot compute this convolution.
    """
    dense = settings.groups == 1
    pointwise = _is_pointwise(kernel, settings)
    depthwise = _is_depthwise(image, kernel, settings)
    unit = dense and settings.stride == 1
    pairs = dense and _in_column_pairs(image, kernel, settings)
    negative = _is_negative(settings)
    split = dense and image[0] % NUM_PARTS == 0
    able = {
        "result": {
            PLAIN: True, DEPTHWISE: depthwise, POINTWISE: pointwise, COLUMN_PAIRS: pairs,
            ROWS: unit and not negative, CROPPED: dense, PADDED: dense and not negative,
        },
        "by_image": {
            PLAIN: True, DEPTHWISE: depthwise, POINTWISE: pointwise, FLIPPED: unit,
            PHASES: dense and settings.stride == 2,
        },
        "by_kernel": {
            PLAIN: True, DEPTHWISE: depthwise, POINTWISE: pointwise, TRANSPOSED: pointwise,
            PADDED: dense and not negative, PARTS: split, PADDED_PARTS: split and not negative,
        },
    }
    for place, name in forms._asdict().items():
        if not able[place].get(name, False):
            fitting = [form for form, fits in able[place].items() if fits]
            what = "does not compute" if name in able[place] else "is no form of"
            raise ArgumentError(
                f"'{name}' {what} {place} of an image {list(image)}, a kernel {list(kernel)}, "
                f"stride {settings.stride} and {settings.groups} groups",
                f"choose {' or '.join(fitting)}",
            )
    return forms


def result_shape(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> tuple[int, ...]:
    """Returns the shape `[B,H',W',C_out]` of a convolution's result."""
    sides = (
        (length + before + after - side) // settings.stride + 1
        for length, side, (before, after) in zip(
            image[1:3], kernel, settings.padding, strict=False
        )
    )
    return image[0], *sides, kernel[3]


def flipped(kernel: tuple[int, ...], settings: Convolution) -> Convolution:
    """Returns the convolution of stride 1 that is the gradient of one by its input."""
    (top, bottom), (left, right) = settings.padding
    height, width = kernel[0] - 1, kernel[1] - 1
    padding = (height - top, height - bottom), (width - left, width - right)
    return Convolution(1, padding, settings.groups)


def flipped_shape(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a kernel whose inputs and outputs have changed places."""
    return kernel[0], kernel[1], kernel[3], kernel[2]


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def _is_depthwise(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> bool:
    return settings.groups > 1 and settings.groups == image[3] == kernel[3]


def _is_pointwise(kernel: tuple[int, ...], settings: Convolution) -> bool:
    return kernel[:2] == (1, 1) and settings.padding == ((0, 0), (0, 0))


def _in_column_pairs(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> bool:
    same = settings.stride == 1 and settings.padding == ((1, 1), (1, 1))
    few = max(kernel[2:]) <= FEW_CHANNELS and min(kernel[2:]) < FEW_CHANNELS
    return same and few and kernel[:2] == (3, 3) and image[2] % 2 == 0


def _is_negative(settings: Convolution) -> bool:
    return any(pixels < 0 for pair in settings.padding for pixels in pair)


def _grows(image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution) -> bool:
    result = result_shape(image, kernel, settings)
    return result[1] > image[1] or result[2] > image[2]
