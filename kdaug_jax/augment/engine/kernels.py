"""What each kind of work does to one image, given the numbers of its row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdaug_jax.augment.engine import rows
from kdaug_jax.augment.engine.rows import Table
from kdaug_jax.augment.ops import filters, lut, statistics, torchvision, tpu
from kdaug_jax.augment.ops.blending import blend, luma
from kdaug_jax.augment.ops.geometry import affine_nearest
from kdaug_jax.augment.ops.masks import in_box, paint
from kdaug_jax.augment.ops.resample import affine_bicubic, affine_bilinear
from kdaug_jax.augment.policies.squares import Squares, box


class Row(NamedTuple):
    """The numbers of one op for one image, see `rows.Table`, and what is drawn for it.

    Attributes:
      place: `u32[2]`, see `policies.places`.
    """

    kind: Any
    which: Any
    matrix: Any
    alpha: Any
    squares: Squares
    opaque: Any
    place: Any


class Colours(NamedTuple):
    """What comes in from outside an image, and what squares are erased with: `u8[C]` each."""

    fill: Any
    erase: Any


def look_up(table: Table, numbers: jax.Array, places: jax.Array) -> Row:
    """Takes the rows `i32[...]` of a table, with the places `u32[...,2]` drawn for them."""
    fields = ("kind", "which", "matrix", "alpha", "squares", "opaque")
    columns = {field: getattr(table, field) for field in fields}
    return Row(**jax.tree.map(lambda column: jnp.asarray(column)[numbers], columns), place=places)


class _Arithmetic(NamedTuple):
    """How a variant does what not all variants do alike."""

    affine: Callable[[jax.Array, jax.Array, Any], jax.Array]
    grey: Callable[[jax.Array], jax.Array]
    level: Callable[[jax.Array], jax.Array]
    smooth: Callable[[jax.Array], jax.Array]
    stretch: Callable[[jax.Array], jax.Array]
    blend: Callable[[Any, jax.Array, jax.Array], jax.Array]


def _nearest(image: jax.Array, words: jax.Array, fill: Any) -> jax.Array:
    return affine_nearest(image, words.astype(jnp.int32), fill)


def _nearest_tpu(image: jax.Array, words: jax.Array, fill: Any) -> jax.Array:
    return tpu.affine_nearest(image, jax.lax.bitcast_convert_type(words, jnp.float32), fill)


def _blend(start: Any, image: jax.Array, alpha: jax.Array) -> jax.Array:
    return blend(start, image, alpha[0], alpha[1])


_PILLOW = _Arithmetic(
    _nearest, luma, statistics.mean_luma, filters.smooth, statistics.auto_contrast_lut, _blend
)
_TPU = _Arithmetic(
    _nearest_tpu, tpu.grey, tpu.contrast_level, tpu.smooth, tpu.auto_contrast_lut, _blend
)
ARITHMETIC = {
    "pillow": _PILLOW,
    "tpu": _TPU,
    "tpu_clean": _TPU._replace(level=lambda image: tpu.contrast_level(image, clean=True)),
    "torchvision": _Arithmetic(
        _nearest, torchvision.grey, torchvision.mean_grey, filters.smooth,
        torchvision.auto_contrast_lut, torchvision.blend,
    ),
}


def kernels(table: Table, colours: Colours) -> dict[int, Callable[[jax.Array, Row], jax.Array]]:
    """Gives the function of each kind that a table has.

    Args:
      table: the rows.
      colours: of the fills.

    Returns:
      `{kind: f(image u8[H,W,C], row) -> u8[H,W,C]}`, `NONE` first.
    """
    own = ARITHMETIC[table.variant]

    def blended(start: jax.Array, image: jax.Array, row: Row) -> jax.Array:
        return _with_alpha(own.blend(start, image[:, :, :3], row.alpha), image)

    made = {
        rows.NONE: lambda image, row: image,
        rows.LUT: lambda image, row: _through(image, jnp.asarray(table.luts)[row.which], row),
        rows.STATISTICS: lambda image, row: _through(image, _measured(image, row, own), row),
        rows.NEAREST: lambda image, row: own.affine(image, row.matrix[:6], colours.fill),
        rows.COLOR: lambda image, row: blended(own.grey(image)[:, :, None], image, row),
        rows.SHARPNESS: lambda image, row: blended(own.smooth(image[:, :, :3]), image, row),
        rows.ERASE: lambda image, row: _erased(image, row, colours.erase),
        rows.FILTER: lambda image, row: jax.lax.cond(
            row.which == rows.BLUR, filters.blur, filters.smooth, image
        ),
        rows.BILINEAR: lambda image, row: affine_bilinear(
            image, row.matrix.reshape(6, 2), colours.fill
        ),
        rows.BICUBIC: lambda image, row: affine_bicubic(
            image, row.matrix.reshape(6, 2), colours.fill
        ),
    }
    present = {rows.NONE, *table.kind.tolist()}
    return {kind: kernel for kind, kernel in made.items() if kind in present}


def _with_alpha(colours: jax.Array, image: jax.Array) -> jax.Array:
    if image.shape[2] == 3:
        return colours
    return jnp.concatenate([colours, image[:, :, 3:]], axis=2)


def _through(image: jax.Array, table: jax.Array, row: Row) -> jax.Array:
    """Applies a table `u8[256]` or `u8[3,256]` to the colours of an image."""
    moved = lut.apply_lut(image[:, :, :3], table)
    if image.shape[2] == 4:
        alpha = jnp.where(row.opaque, jnp.uint8(255), image[:, :, 3:])
        moved = jnp.concatenate([moved, alpha], axis=2)
    return moved


def _measured(image: jax.Array, row: Row, own: _Arithmetic) -> jax.Array:
    """Makes the table `u8[3,256]` of an op that looks at the whole image first."""

    def stretched():
        return jax.vmap(own.stretch)(statistics.histogram(image[:, :, :3]))

    def spread():
        return jax.vmap(statistics.equalize_lut)(statistics.histogram(image[:, :, :3]))

    def contrast():
        level = own.level(image)[None]
        table = own.blend(level, jnp.arange(256).astype(jnp.uint8), row.alpha)
        return jnp.broadcast_to(table, (3, 256))

    return jax.lax.switch(row.which, [stretched, spread, contrast])


def _erased(image: jax.Array, row: Row, colour: jax.Array) -> jax.Array:
    """Erases the square of a row, at the place that was drawn for it."""
    height, width, _ = image.shape
    top, bottom, left, right = box(row.place, *row.squares, (height, width))
    return paint(image, in_box(height, width, top, bottom, left, right), colour)
