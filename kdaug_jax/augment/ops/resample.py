"""Bilinear and bicubic affine maps, pixel for pixel those of Pillow.

Pillow computes coordinates and weights in double precision and cuts the result off, so where the
exact value is a whole number the roundings decide. They are repeated here by `float64_emulation`.

Each loop below also keeps XLA from fusing what comes before it into what comes after, where it
would be computed anew for every use.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic import float64_emulation as f64
from kdaug_jax.augment.arithmetic.float64_emulation import Float64
from kdaug_jax.augment.arithmetic.packed import pack, unpack
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.kernel import Context, Row
from kdaug_jax.augment.ops.masks import paint


def exact_coefficients(a: float, b: float, c: float, d: float, e: float, f: float) -> np.ndarray:
    """Returns x = a x' + b y' + c, y = d x' + e y' + f at pixel centres, in double precision.

    Args:
      a: input columns per output column.
      b: input columns per output row.
      c: first input column, in pixels.
      d: input rows per output column.
      e: input rows per output row.
      f: first input row, in pixels.

    Returns:
      `u32[6,2]`, the bits of the six float64 numbers, for `affine_bilinear` and `affine_bicubic`.
    """
    return f64.to_bits((a, b, c, d, e, f))


def _scaled_coordinates(coefficients: ArrayLike, length: int) -> Float64:
    """Multiplies the pixel centres along each axis with their coefficients.

    Args:
      coefficients: `u32[6,2]`.
      length: pixels along either axis.

    Returns:
      Float64 `[2,2,length]`: by output column and by output row, of input column and input row.
    """
    bits = jnp.asarray(coefficients, jnp.uint32).reshape(2, 3, 1, 2)
    centres = f64.from_bits(jnp.asarray(f64.to_bits(np.arange(length) + 0.5)[None]))
    factors = f64.from_bits(jnp.stack([bits[:, 0], bits[:, 1]]))
    return lax.map(lambda factor: f64.multiply(factor, centres), factors)


def _places(
    coefficients: ArrayLike, height: int, width: int
) -> tuple[jax.Array, jax.Array, Float64]:
    """Finds what each output pixel is made of.

    Returns:
      `bool[H,W]`, True where it lies inside the image; `i32[2,H,W]`, column and row of the upper
      left of the four nearest input pixels; float64 `[2,H,W]`, the distance from it.
    """

    def spread(numbers: Float64) -> Float64:
        return jax.tree.map(lambda field: jnp.broadcast_to(field, (2, height, width)), numbers)

    scaled = _scaled_coordinates(coefficients, max(height, width))
    by_column = jax.tree.map(lambda field: field[0, :, None, :width], scaled)
    by_row = jax.tree.map(lambda field: field[1, :, :height, None], scaled)
    bits = jnp.asarray(coefficients, jnp.uint32).reshape(2, 3, 1, 1, 2)
    half = f64.from_bits(jnp.asarray(f64.to_bits(-0.5)[None, None, None]))
    constant, half = spread(f64.from_bits(bits[:, 2])), spread(half)
    terms = _stack(spread(by_row), constant, half, half)

    def step(total: Float64, entry: tuple[Float64, jax.Array]) -> tuple[Float64, tuple]:
        term, last = entry
        # Inside the image a coordinate less a half is at least -0.5.
        floor = jnp.where(f64.is_negative(total), -1, f64.truncate(total))
        below = f64.from_int(-floor)
        term = jax.tree.map(lambda *fields: jnp.where(last, *fields), below, term)
        total = f64.add(total, term)
        return total, (total, floor)

    # The fourth sum, of what is before it and minus its own floor, leaves the fraction.
    last = np.array([False, False, False, True])
    distance, (sums, floors) = lax.scan(step, spread(by_column), (terms, last))
    at = jax.tree.map(lambda field: field[1], sums)
    sides = np.array([width, height], np.int32)[:, None, None]
    inside = (~f64.is_negative(at) & (f64.truncate(at) < sides)).all(0)
    return inside, floors[3], distance


def _neighbours(image: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """Gathers `i32[count,count,H,W,C]`, rows then columns around `first`, clamped to the edge."""
    height, width, channels = image.shape
    steps = np.arange(count, dtype=np.int32) - (count // 2 - 1)
    columns = jnp.clip(first[:1] + steps[:, None, None], 0, width - 1)
    rows = jnp.clip(first[1:] + steps[:, None, None], 0, height - 1)
    pixel = rows[:, None] * width + columns[None, :]
    flat = jnp.asarray(image).reshape(height * width, channels)
    return flat.at[pixel].get(mode="promise_in_bounds").astype(jnp.int32)


def _stack(*numbers: Float64) -> Float64:
    return jax.tree.map(lambda *fields: jnp.stack(fields), *numbers)


def _cubic(start: Float64, slopes: Float64, distance: Float64) -> Float64:
    """Evaluates start + d (slopes[0] + d (slopes[1] + d slopes[2])), rounded at each step.

    Args:
      start: float64 `[...]`.
      slopes: float64 `[3,...]`.
      distance: float64 that broadcast with `[...]`.

    Returns:
      Float64 `[...]`.
    """

    def step(value: Float64, below: Float64) -> tuple[Float64, None]:
        return f64.add(below, f64.multiply(distance, value)), None

    linear, quadratic, cubic = _parts(slopes)
    return lax.scan(step, cubic, _stack(quadratic, linear, start))[0]


def _parts(numbers: Float64) -> list[Float64]:
    """Splits float64 `[N,...]` apart along their first axis."""
    return [Float64(*fields) for fields in zip(*numbers, strict=True)]


def _slopes(v: list[Float64]) -> Float64:
    """Returns v2 - v0, 2 (v0 - v1) + v2 - v3 and v1 - v0 - v2 + v3, summed in Pillow's order."""
    zero = f64.from_int(jnp.zeros_like(v[0].upper, jnp.int32))
    # The three sums go side by side. Adding zero changes nothing, nor does doubling early.
    terms = _stack(
        _stack(v[2], -f64.twice(v[1]), v[1]),
        _stack(zero, v[2], -v[2]),
        _stack(zero, -v[3], v[3]),
    )
    start = _stack(-v[0], f64.twice(v[0]), -v[0])
    return lax.scan(lambda total, term: (f64.add(total, term), None), start, terms)[0]


def _between_columns(neighbours: jax.Array, distance: Float64) -> Float64:
    """Interpolates whole numbers `i32[R,4,H,W,C]` between columns: float64 `[R,H,W,C]`."""
    v = [neighbours[:, column] for column in range(4)]
    slopes = jnp.stack([v[2] - v[0], 2 * (v[0] - v[1]) + v[2] - v[3], v[1] - v[0] - v[2] + v[3]])
    return _cubic(f64.from_int(v[1]), f64.from_int(slopes), distance)


def _finish(value: Float64, inside: jax.Array, fill: ArrayLike, channels: int) -> jax.Array:
    """Cuts the fractions off, limits to 0..255, and paints what lies outside the image."""
    pixel = jnp.clip(f64.truncate(value), 0, 255).astype(jnp.uint8)
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
      ArgumentError: the image is not `[H,W,C]`.

    Source: `ImagingTransform`, method AFFINE, filter BILINEAR, of Pillow.
    """
    height, width, channels = check_image(image)
    source = premultiply(image) if channels == 4 else image
    inside, first, distance = _places(coefficients, height, width)
    dx, dy = _parts(jax.tree.map(lambda field: field[..., None], distance))

    def between_columns(neighbours: jax.Array) -> Float64:
        rise = f64.multiply(f64.from_int(neighbours[1] - neighbours[0]), dx)
        return f64.add(f64.from_int(neighbours[0]), rise)

    upper, lower = _parts(lax.map(between_columns, _neighbours(source, first, 2)))

    def step(value: Float64, entry: tuple[Float64, Float64]) -> tuple[Float64, None]:
        factor, term = entry
        return f64.add(f64.multiply(value, factor), term), None

    # The difference of the rows, times the distance, added to the upper one.
    unit = f64.from_int(jnp.ones_like(dy.upper, jnp.int32))
    value = lax.scan(step, lower, (_stack(unit, dy), _stack(-upper, upper)))[0]
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
      ArgumentError: the image is not `[H,W,C]`.

    Source: `ImagingTransform`, method AFFINE, filter BICUBIC (a = -1), of Pillow.
    """
    height, width, channels = check_image(image)
    source = premultiply(image) if channels == 4 else image
    inside, first, distance = _places(coefficients, height, width)
    dx, dy = _parts(jax.tree.map(lambda field: field[..., None], distance))
    lifted = jax.tree.map(lambda field: field[None], dx)
    rows = _parts(_between_columns(_neighbours(source, first, 4), lifted))
    return _finish(_cubic(rows[1], _slopes(rows), dy), inside, fill, channels)


def bilinear_kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Computes `affine_bilinear` of packed pixels."""
    return pack(affine_bilinear(
        unpack(packed, context.channels), row.matrix.reshape(6, 2), context.fill
    ))


def bicubic_kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Computes `affine_bicubic` of packed pixels."""
    return pack(affine_bicubic(
        unpack(packed, context.channels), row.matrix.reshape(6, 2), context.fill
    ))
