"""What a kernel is: the code that the batched engine runs for an op on one packed image.

A kernel sits in the file of the op that it computes: `filters.smooth_packed` beside
`filters.smooth`. The op table, `table.OPS`, says which op runs which kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from kdaug_jax.augment.ops.squares import Squares

Colours3 = tuple[jax.Array, jax.Array, jax.Array]


class Row(NamedTuple):
    """The numbers of one op for one image, see `engine.Table`, and what is drawn for it.

    Attributes:
      kind: `i32[]`, position in `Table.kernels`.
      source: `i32[]`, position in `Table.lut_sources`.
      lut: `i32[2]`, where the table of red begins, and how far on the next colour's does; of a
        row that is resolved for `lut.lut_kernel` the tables themselves, `u8[3,256]`.
      matrix: `u32[12]`.
      alpha: `f32[4]`.
      squares: `i32[]` each.
      opaque: `bool[]`.
      square_offset: `u32[2]`, see `squares.square_offsets`.
    """

    kind: Any
    source: Any
    lut: Any
    matrix: Any
    alpha: Any
    squares: Squares
    opaque: Any
    square_offset: Any


class Arithmetic(NamedTuple):
    """How a variant computes what variants differ in; colours and levels are `i32[H,W]`.

    Attributes:
      pixels: `f(row, height, width)`, see `geometry.nearest_pixels`.
      grey: `f(red, green, blue)`, the grey levels.
      level: `f(total i32[...], pixels) -> [...]`, the level of contrast: the mean of grey levels.
      smooth: `f(packed u32[H,W])`, the three smoothed colours.
      stretch: `f(low, high) -> u8[256]`, the lookup table of auto contrast.
      blend: `f(start, values, alpha f32[4]) -> i32[...]`, 0..255.
    """

    pixels: Callable[..., tuple[jax.Array, jax.Array]]
    grey: Callable[..., jax.Array]
    level: Callable[[jax.Array, int], jax.Array]
    smooth: Callable[[jax.Array], Colours3]
    stretch: Callable[..., jax.Array]
    blend: Callable[[Any, jax.Array, jax.Array], jax.Array]


class Context(NamedTuple):
    """What is the same for all images of a batch.

    Attributes:
      arithmetic: of the variant.
      channels: of the images while ops are applied, 3 or 4.
      fill: `u8[C]`, colour of what comes in from outside an image.
      packed_fill: `u32[]`, the same, packed.
      packed_erase: `u32[]`, colour of erased squares, packed.
      luts: `u8[N]`, all lookup tables, one after the other; None for sources of lookup tables.
    """

    arithmetic: Arithmetic
    channels: int
    fill: Any
    packed_fill: Any
    packed_erase: Any
    luts: Any = None


# f(packed u32[H,W], row, context) -> u32[H,W]; a source of lookup tables returns u8[3,256].
Kernel = Callable[[jax.Array, Row, Context], jax.Array]
