"""What the variants of arithmetic differ in, as the kernel computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdaug_jax.augment.arithmetic import float64_emulation as f64
from kdaug_jax.augment.arithmetic.packed import planes
from kdaug_jax.augment.engine.tpu.filters import beside, inner, smooth_words, window
from kdaug_jax.augment.engine.tpu.rows import SCALES
from kdaug_jax.augment.engine.tpu.tiles import (
    LANES,
    ROWS,
    TILE,
    Layout,
    Memory,
    rows_of,
    take_lanes,
)
from kdaug_jax.augment.ops import torchvision, tpu
from kdaug_jax.augment.ops.blending import split, split_alpha
from kdaug_jax.augment.ops.kernel import Arithmetic, Colours3
from kdaug_jax.augment.ops.table import ARITHMETIC

Numbers3 = tuple[jax.Array, jax.Array, jax.Array]  # `i32[]` each, of the three colours


class Variant(NamedTuple):
    """The arithmetic of a variant in the kernel.

    Attributes:
      arithmetic: what the other implementations compute with; its `level` and `blend` are used.
      grey: `f(colours i32[8,128] each, constants) -> i32[8,128]`.
      smooth: `f(layout, memory, group)`, the three smoothed colours, `i32[8,lanes]` each.
      stretch: `f(values i32[8,128], low, high, shared) -> i32[8,128]`: a tile of tables, see
        `luts`, of auto contrast, where `high` is above `low`.
      scales: `i32[N]`, what `stretch` reads from `shared`, by the difference of high and low.
      constants: `u32[8,128]`, what `grey` takes lanes of.
      float_maps: whether coordinates are float32 pixels, rounded, instead of 16.16 fixed point.
    """

    arithmetic: Arithmetic
    grey: Callable[..., jax.Array]
    smooth: Callable[[Layout, Memory, Any], Colours3]
    stretch: Callable[..., jax.Array]
    scales: np.ndarray
    constants: np.ndarray
    float_maps: bool = False


def of_colours(numbers: Any) -> jax.Array:
    """Spreads a number `[]` of each colour over its two rows of a tile of tables, see `luts`."""
    red, green, blue = (jnp.full(TILE, number) for number in numbers)
    rows = rows_of()
    return jnp.where(rows < 2, red, jnp.where(rows < 4, green, blue))


def _smooth(layout: Layout, memory: Memory, group: Any) -> Colours3:
    return planes(smooth_words(layout, memory, group))


def _smooth_tpu(layout: Layout, memory: Memory, group: Any) -> Colours3:
    """Sums float32 products in the order of `tpu.smooth_values`."""
    rows = [planes(row) for row in window(layout, memory, group, 1)]
    inside, smoothed = inner(layout, group, 1), []
    factors = [split_alpha(np.float32(times) / np.float32(13)) for times in (1, 5)]
    for colour in range(3):
        total = None
        for number, row in enumerate(rows):
            plane = row[colour].astype(jnp.float32)
            edge, centre = (hi * plane + lo * plane for hi, lo in factors)
            products = (beside(edge, 1), centre if number == 1 else edge, beside(edge, -1))
            for product in products:
                total = product if total is None else product + total
        smoothed.append(jnp.where(inside, total.astype(jnp.int32), rows[1][colour]))
    return tuple(smoothed)


def _stretch_pillow(values: jax.Array, low: Numbers3, high: Numbers3, shared: Any) -> jax.Array:
    """Computes v * scale + (-low * scale) in double precision and cuts it off."""

    def word(number: int) -> jax.Array:
        words = [shared[SCALES + 2 * (h - lo) + number] for lo, h in zip(low, high, strict=True)]
        return of_colours(words).astype(jnp.uint32)

    scale = f64.Float64(word(0), word(1))
    offset = f64.multiply(f64.from_int(-of_colours(low)), scale)
    stretched = f64.truncate(f64.add(f64.multiply(f64.from_int(values), scale), offset))
    return jnp.clip(stretched, 0, 255)


def _scale(low: Numbers3, high: Numbers3, shared: Any) -> jax.Array:
    """Looks the float32 scale of each colour up: `f32[8,128]`."""
    words = [shared[SCALES + h - lo] for lo, h in zip(low, high, strict=True)]
    return lax.bitcast_convert_type(of_colours(words), jnp.float32)


def _stretch_tpu(values: jax.Array, low: Numbers3, high: Numbers3, shared: Any) -> jax.Array:
    return tpu.stretch(values, of_colours(low), split(_scale(low, high, shared)))


def _stretch_torchvision(
    values: jax.Array, low: Numbers3, high: Numbers3, shared: Any
) -> jax.Array:
    scale = split(_scale(low, high, shared))
    return torchvision.stretch(values, of_colours(low), scale)


def _grey_tpu(colours: Colours3, constants: Any) -> jax.Array:
    """Looks the parts of a grey level up by the lanes' own gather, see `tpu.grey_of`."""
    parts = []
    for colour, plane in enumerate(colours):
        lower, upper = (
            jnp.broadcast_to(constants[row : row + 1, :], TILE)
            for row in (2 * colour, 2 * colour + 1)
        )
        lanes = plane & (LANES - 1)
        word = jnp.where(plane < LANES, take_lanes(lower, lanes), take_lanes(upper, lanes))
        parts.append(lax.bitcast_convert_type(word, jnp.float32))
    return tpu.grey_of_parts(*parts)


def _pillow_scales() -> np.ndarray:
    """Returns the words of 255 / d for d = 0..255, `i32[512]`; the first is not used."""
    return f64.to_bits(255.0 / np.maximum(np.arange(256), 1)).reshape(-1).view(np.int32)


def _tpu_parts() -> np.ndarray:
    """Returns the tables of `tpu.grey_of` in lanes, `u32[8,128]`."""
    return np.pad(tpu.grey_parts().view(np.uint32).reshape(6, LANES), ((0, ROWS - 6), (0, 0)))


_NOTHING = np.zeros(TILE, np.uint32)


def _grey_of(arithmetic: Arithmetic) -> Callable[..., jax.Array]:
    return lambda colours, constants: arithmetic.grey(*colours)


def _tpu_variant(name: str) -> Variant:
    return Variant(
        ARITHMETIC[name], _grey_tpu, _smooth_tpu, _stretch_tpu, tpu.SCALES.view(np.int32),
        _tpu_parts(), float_maps=True,
    )


VARIANTS: dict[str, Variant] = {
    "pillow": Variant(
        ARITHMETIC["pillow"], _grey_of(ARITHMETIC["pillow"]), _smooth, _stretch_pillow,
        _pillow_scales(), _NOTHING,
    ),
    "tpu": _tpu_variant("tpu"),
    "tpu_clean": _tpu_variant("tpu_clean"),
    "torchvision": Variant(
        ARITHMETIC["torchvision"], _grey_of(ARITHMETIC["torchvision"]), _smooth,
        _stretch_torchvision, torchvision.SCALES.view(np.int32), _NOTHING,
    ),
}
