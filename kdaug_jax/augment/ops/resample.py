"""Bilinear and bicubic affine maps, pixel for pixel those of Pillow.

Pillow computes coordinates and weights in double precision and cuts the result off, so where the
exact value is a whole number the roundings decide. They are repeated here by `double`.

Each loop below also keeps XLA from fusing what comes before it into what comes after, where it
would be computed anew for every use.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic import float64_emulation as double
from kdaug_jax.augment.arithmetic.float64_emulation import Double
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.masks import paint


def exact_coefficients(a: float, b: float, c: float, d: float, e: float, f: float) -> np.ndarray:
    """Gives x = a x' + b y' + c, y = d x' + e y' + f at pixel centres, in double precision.

    Args:
      a: input columns per output column.
      b: input columns per output row.
      c: first input column, in pixels.
      d: input rows per output column.
      e: input rows per output row.
      f: first input row, in pixels.

    Returns:
      `u32[6,2]`, the bits of the six doubles, for `affine_bilinear` and `affine_bicubic`.
    """
    return double.words((a, b, c, d, e, f))


def _products(coefficients: ArrayLike, length: int) -> Double:
    """Multiplies the pixel centres along each axis with their coefficients.

    Args:
      coefficients: `u32[6,2]`.
      length: pixels along either axis.

    Returns:
      Doubles `[2,2,length]`: by output column and by output row, of input column and input row.
    """
    bits = jnp.asarray(coefficients, jnp.uint32).reshape(2, 3, 1, 2)
    centres = double.from_words(jnp.asarray(double.words(np.arange(length) + 0.5)[None]))
    factors = double.from_words(jnp.stack([bits[:, 0], bits[:, 1]]))
    return lax.map(lambda factor: double.multiply(factor, centres), factors)


def _places(
    coefficients: ArrayLike, height: int, width: int
) -> tuple[jax.Array, jax.Array, Double]:
    """Finds what each output pixel is made of.

    Returns:
      `bool[H,W]`, True where it lies inside the image; `i32[2,H,W]`, column and row of the upper
      left of the four nearest input pixels; doubles `[2,H,W]`, the distance from it.
    """

    def spread(numbers: Double) -> Double:
        return jax.tree.map(lambda field: jnp.broadcast_to(field, (2, height, width)), numbers)

    products = _products(coefficients, max(height, width))
    by_column = jax.tree.map(lambda field: field[0, :, None, :width], products)
    by_row = jax.tree.map(lambda field: field[1, :, :height, None], products)
    bits = jnp.asarray(coefficients, jnp.uint32).reshape(2, 3, 1, 1, 2)
    half = double.from_words(jnp.asarray(double.words(-0.5)[None, None, None]))
    constant, half = spread(double.from_words(bits[:, 2])), spread(half)
    terms = _stack(spread(by_row), constant, half, half)

    def step(total: Double, entry: tuple[Double, jax.Array]) -> tuple[Double, tuple]:
        term, last = entry
        # Inside the image a coordinate less a half is at least -0.5.
        floor = jnp.where(double.is_negative(total), -1, double.truncate(total))
        below = double.from_int(-floor)
        term = jax.tree.map(lambda other, own: jnp.where(last, other, own), below, term)
        total = double.add(total, term)
        return total, (total, floor)

    # The fourth sum, of what is before it and minus its own floor, leaves the fraction.
    last = np.array([False, False, False, True])
    distance, (sums, floors) = lax.scan(step, spread(by_column), (terms, last))
    at = jax.tree.map(lambda field: field[1], sums)
    sides = np.array([width, height], np.int32)[:, None, None]
    inside = (~double.is_negative(at) & (double.truncate(at) < sides)).all(0)
    return inside, floors[3], distance


def _taps(image: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """Gathers `i32[count,count,H,W,C]`, rows then columns around `first`, clamped to the edge."""
    height, width, channels = image.shape
    steps = np.arange(count, dtype=np.int32) - (count // 2 - 1)
    columns = jnp.clip(first[:1] + steps[:, None, None], 0, width - 1)
    rows = jnp.clip(first[1:] + steps[:, None, None], 0, height - 1)
    pixel = rows[:, None] * width + columns[None, :]
    flat = jnp.asarray(image).reshape(height * width, channels)
    return flat.at[pixel].get(mode="promise_in_bounds").astype(jnp.int32)


def _stack(*numbers: Double) -> Double:
    return jax.tree.map(lambda *fields: jnp.stack(fields), *numbers)


def _cubic(start: Double, slopes: Double, distance: Double) -> Double:
    """Evaluates start + d (slopes[0] + d (slopes[1] + d slopes[2])), rounded at each step.

    Args:
      start: doubles `[...]`.
      slopes: doubles `[3,...]`.
      distance: doubles that broadcast with `[...]`.

    Returns:
      Doubles `[...]`.
    """

    def step(value: Double, below: Double) -> tuple[Double, None]:
        return double.add(below, double.multiply(distance, value)), None

    linear, quadratic, cubic = _parts(slopes)
    return lax.scan(step, cubic, _stack(quadratic, linear, start))[0]


def _parts(numbers: Double) -> list[Double]:
    """Takes doubles `[N,...]` apart along their first axis."""
    return [Double(*fields) for fields in zip(*numbers, strict=True)]


def _slopes(v: list[Double]) -> Double:
    """Gives v2 - v0, 2 (v0 - v1) + v2 - v3 and v1 - v0 - v2 + v3, summed in Pillow's order."""
    zero = double.from_int(jnp.zeros_like(v[0].upper, jnp.int32))
    # The three sums go side by side. Adding zero changes nothing, nor does doubling early.
    terms = _stack(
        _stack(v[2], -double.twice(v[1]), v[1]),
        _stack(zero, v[2], -v[2]),
        _stack(zero, -v[3], v[3]),
    )
    start = _stack(-v[0], double.twice(v[0]), -v[0])
    return lax.scan(lambda total, term: (double.add(total, term), None), start, terms)[0]


def _between_columns(taps: jax.Array, distance: Double) -> Double:
    """Interpolates whole numbers `i32[R,4,H,W,C]` between columns: doubles `[R,H,W,C]`."""
    v = [taps[:, column] for column in range(4)]
    slopes = jnp.stack([v[2] - v[0], 2 * (v[0] - v[1]) + v[2] - v[3], v[1] - v[0] - v[2] + v[3]])
    return _cubic(double.from_int(v[1]), double.from_int(slopes), distance)


def _finish(value: Double, inside: jax.Array, fill: ArrayLike, channels: int) -> jax.Array:
    """Cuts the fractions off, limits to 0..255, and paints what lies outside the image."""
    pixel = jnp.clip(double.truncate(value), 0, 255).astype(jnp.uint8)
    painted = paint(pixel, ~inside, fill)
    return unpremultiply(painted) if channels == 4 else painted


def premultiply(image: jax.Array) -> jax.Array:
    """Multiplies the colours of `u8[H,W,4]` by their alpha, as Pillow's "RGBa" does.

    Args:
      image: `u8[H,W,4]`.

    Returns:
      `u8[H,W,4]`, colour * alpha / 255 rounded to nearest; alpha is kept.
    """
    wide = image.astype(jnp.int32)
    product = wide[:, :, :3] * wide[:, :, 3:] + 128
    colours = ((product >> 8) + product) >> 8
    return jnp.concatenate([colours.astype(jnp.uint8), image[:, :, 3:]], axis=2)


def unpremultiply(image: jax.Array) -> jax.Array:
    """Divides the colours of `u8[H,W,4]` by their alpha, which undoes `premultiply` if it can.

    Args:
      image: `u8[H,W,4]`.

    Returns:
      `u8[H,W,4]`, 255 * colour / alpha cut off and limited to 255; alpha 0 keeps its colour.
    """
    wide = image.astype(jnp.int32)
    alpha = wide[:, :, 3:]
    colours = jnp.minimum(255 * wide[:, :, :3] // jnp.maximum(alpha, 1), 255).astype(jnp.uint8)
    colours = jnp.where(alpha == 0, image[:, :, :3], colours)
    return jnp.concatenate([colours, image[:, :, 3:]], axis=2)


def affine_bilinear(image: jax.Array, coefficients: ArrayLike, fill: ArrayLike) -> jax.Array:
    """Maps an image, weighing the four nearest input pixels, or `fill` outside the image.

    Args:
      image: `u8[H,W,C]`; with C = 4 the colours are weighted by alpha.
      coefficients: `u32[6,2]`, from `exact_coefficients`; may be traced.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: the image is not uint8.
      ValueError: the image is not `[H,W,C]`.

    Source: `ImagingTransform`, method AFFINE, filter BILINEAR, of Pillow.
    """
    height, width, channels = check_image(image)
    source = premultiply(image) if channels == 4 else image
    inside, first, distance = _places(coefficients, height, width)
    dx, dy = _parts(jax.tree.map(lambda field: field[..., None], distance))

    def between_columns(taps: jax.Array) -> Double:
        rise = double.multiply(double.from_int(taps[1] - taps[0]), dx)
        return double.add(double.from_int(taps[0]), rise)

    upper, lower = _parts(lax.map(between_columns, _taps(source, first, 2)))

    def step(value: Double, entry: tuple[Double, Double]) -> tuple[Double, None]:
        factor, term = entry
        return double.add(double.multiply(value, factor), term), None

    # The difference of the rows, times the distance, added to the upper one.
    one = double.from_int(jnp.ones_like(dy.upper, jnp.int32))
    value = lax.scan(step, lower, (_stack(one, dy), _stack(-upper, upper)))[0]
    return _finish(value, inside, fill, channels)


def affine_bicubic(image: jax.Array, coefficients: ArrayLike, fill: ArrayLike) -> jax.Array:
    """Maps an image, weighing the 16 nearest input pixels, or `fill` outside the image.

    Args:
      image: `u8[H,W,C]`; with C = 4 the colours are weighted by alpha.
      coefficients: `u32[6,2]`, from `exact_coefficients`; may be traced.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: the image is not uint8.
      ValueError: the image is not `[H,W,C]`.

    Source: `ImagingTransform`, method AFFINE, filter BICUBIC (a = -1), of Pillow.
    """
    height, width, channels = check_image(image)
    source = premultiply(image) if channels == 4 else image
    inside, first, distance = _places(coefficients, height, width)
    dx, dy = _parts(jax.tree.map(lambda field: field[..., None], distance))
    lifted = jax.tree.map(lambda field: field[None], dx)
    rows = _parts(_between_columns(_taps(source, first, 4), lifted))
    return _finish(_cubic(rows[1], _slopes(rows), dy), inside, fill, channels)
