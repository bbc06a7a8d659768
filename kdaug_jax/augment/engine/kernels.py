"""What each kind of work does to one image, given the numbers of its row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdaug_jax.augment.arithmetic.packed import pack, planes, unpack, with_colours
from kdaug_jax.augment.engine import rows
from kdaug_jax.augment.engine.rows import Table
from kdaug_jax.augment.ops import filters, statistics, torchvision, tpu
from kdaug_jax.augment.ops.blending import blend, luma_of
from kdaug_jax.augment.ops.geometry import nearest_pixels, take_pixels
from kdaug_jax.augment.ops.lut import apply_lut_words
from kdaug_jax.augment.ops.masks import in_box
from kdaug_jax.augment.ops.resample import affine_bicubic, affine_bilinear
from kdaug_jax.augment.policies.squares import Squares, box

Colour3 = tuple[jax.Array, jax.Array, jax.Array]


class Row(NamedTuple):
    """The numbers of one op for one image, see `rows.Table`, and what is drawn for it.

    Attributes:
      lut: `i32[2]`, where the table of red begins, and how far on the next colour's does.
      place: `u32[2]`, see `policies.places`.
    """

    kind: Any
    source: Any
    lut: Any
    matrix: Any
    alpha: Any
    squares: Squares
    opaque: Any
    place: Any


class Colours(NamedTuple):
    """The colours of a batch `u8[B,H,W,C]`.

    Attributes:
      fill: `u8[C]`, of what comes in from outside an image.
      erase: `u8[C]`, that squares are erased with.
      clear: `u8[C]`, or None. With it images take on an alpha channel for as long as ops are
        applied, so C is 3 and `fill` and `erase` are `u8[4]`; what is transparent in the end
        becomes this.
    """

    fill: Any
    erase: Any
    clear: Any = None


def look_up(table: Table, numbers: jax.Array, places: jax.Array) -> Row:
    """Takes the rows `i32[...]` of a table, with the places `u32[...,2]` drawn for them."""
    fields = ("kind", "source", "matrix", "alpha", "squares", "opaque")
    columns = {field: getattr(table, field) for field in fields}
    taken = jax.tree.map(lambda column: jnp.asarray(column)[numbers], columns)
    given = 256 * jnp.asarray(table.which)[numbers]
    return Row(**taken, lut=jnp.stack([given, jnp.zeros_like(given)], axis=-1), place=places)


Kernel = Callable[[jax.Array, Row], jax.Array]


class Kernels(NamedTuple):
    """What is done to one image.

    Attributes:
      luts: `u8[256 L]`, the given tables, one after the other.
      tables: `{source: f(words u32[H,W], row) -> u8[3,256]}`, of those made from images.
      ops: of all tables `u8[N]` gives `{kind: f(words u32[H,W], row) -> u32[H,W]}`; "none" is
        not among them.
    """

    luts: jax.Array
    tables: dict[int, Kernel]
    ops: Callable[[jax.Array], dict[int, Kernel]]


class _Arithmetic(NamedTuple):
    """How a variant does what not all variants do alike; colours and levels are `i32[H,W]`."""

    pixels: Callable[..., tuple[jax.Array, jax.Array]]
    grey: Callable[..., jax.Array]
    level: Callable[[jax.Array], jax.Array]
    smooth: Callable[[jax.Array], Colour3]
    stretch: Callable[..., jax.Array]
    blend: Callable[[Any, jax.Array, jax.Array], jax.Array]


def _pixels(row: Row, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    return nearest_pixels(row.matrix[:6].astype(jnp.int32), height, width)


def _pixels_tpu(row: Row, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    transform = jax.lax.bitcast_convert_type(row.matrix[:6], jnp.float32)
    return tpu.nearest_pixels(transform, height, width)


def _smooth(words: jax.Array) -> Colour3:
    return planes(filters.smooth_words(words))


def _blend(start: Any, values: jax.Array, alpha: jax.Array) -> jax.Array:
    return blend(start, values, alpha[0], alpha[1])


_PILLOW = _Arithmetic(
    _pixels, luma_of, statistics.rounded_mean, _smooth, statistics.stretch_lut, _blend
)
_TPU = _Arithmetic(
    _pixels_tpu, tpu.grey_of, tpu.mean_level,
    lambda words: tuple(tpu.smooth_values(plane) for plane in planes(words)),
    tpu.stretch_lut, _blend,
)
ARITHMETIC = {
    "pillow": _PILLOW,
    "tpu": _TPU,  # contrast by a level that does not depend on the image is a table
    "tpu_clean": _TPU,
    "torchvision": _Arithmetic(
        _pixels, torchvision.grey_of, torchvision.mean_level, _smooth, torchvision.stretch_lut,
        torchvision.blend,
    ),
}


def kernels(table: Table, colours: Colours) -> Kernels:
    """Gives the functions that the rows of a table need.

    Args:
      table: the rows.
      colours: of the fills.

    Returns:
      Those of the sources and kinds that occur; for words see `ops.words`.
    """
    own = ARITHMETIC[table.variant]
    channels = len(colours.fill)
    fill, erase = pack(colours.fill), pack(colours.erase)

    def moved(words: jax.Array, row: Row) -> jax.Array:
        return take_pixels(words, *own.pixels(row, *words.shape), fill)

    def blended(starts: Colour3, words: jax.Array, row: Row) -> jax.Array:
        return with_colours(words, tuple(
            own.blend(start, plane, row.alpha)
            for start, plane in zip(starts, planes(words), strict=True)
        ))

    def interpolated(affine: Callable[..., jax.Array]):
        return lambda words, row: pack(
            affine(unpack(words, channels), row.matrix.reshape(6, 2), colours.fill)
        )

    def contrast(words: jax.Array, row: Row) -> jax.Array:
        level = own.level(own.grey(*planes(words)))[None]
        lut = own.blend(level, jnp.arange(256).astype(jnp.uint8), row.alpha)
        return jnp.broadcast_to(lut, (3, 256))

    tables = {
        rows.AUTO_CONTRAST: lambda words, row: statistics.colour_luts(
            words, statistics.extremes, own.stretch
        ),
        rows.EQUALIZE: lambda words, row: statistics.colour_luts(
            words, lambda plane: (statistics.counts(plane),), statistics.equalize_lut
        ),
        rows.CONTRAST: contrast,
    }

    def ops(luts: jax.Array) -> dict[int, Kernel]:
        made = {
            rows.TABLE: lambda words, row: apply_lut_words(words, luts, row.lut, row.opaque),
            rows.NEAREST: moved,
            rows.COLOR: lambda words, row: blended((own.grey(*planes(words)),) * 3, words, row),
            rows.SHARPNESS: lambda words, row: blended(own.smooth(words), words, row),
            rows.ERASE: lambda words, row: _erased(words, row, erase),
            rows.SMOOTH: lambda words, row: filters.smooth_words(words),
            rows.BLUR: lambda words, row: filters.blur_words(words),
            rows.BILINEAR: interpolated(affine_bilinear),
            rows.BICUBIC: interpolated(affine_bicubic),
        }
        return {kind: made[kind] for kind in made if kind in table.kind}

    return Kernels(
        jnp.asarray(table.luts).reshape(-1),
        {source: tables[source] for source in tables if source in table.source},
        ops,
    )


def _erased(words: jax.Array, row: Row, colour: jax.Array) -> jax.Array:
    """Erases the square of a row, at the place that was drawn for it."""
    top, bottom, left, right = box(row.place, *row.squares, words.shape)
    return jnp.where(in_box(*words.shape, top, bottom, left, right), colour, words)
