"""The kernel: a grid over images, each of which is computed in vector memory, op after op.

An image branches on its own ops, so nothing is sorted, gathered or put back, and no image pays for
the ops of another. Rows of the op table are numbers in scalar memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kdaug_jax.augment.arithmetic.packed import pack
from kdaug_jax.augment.engine.kernels import Colours
from kdaug_jax.augment.engine.rows import Table
from kdaug_jax.augment.engine.tpu import filters, geometry, interpolation, luts, pixels, rows
from kdaug_jax.augment.engine.tpu.rows import ERASE, FILL, FORM, FORMS, Op
from kdaug_jax.augment.engine.tpu.tiles import (
    LANES,
    MARGIN,
    ROWS,
    TILE,
    Layout,
    Memory,
    for_groups,
    group_rows,
    round_up,
)
from kdaug_jax.augment.engine.tpu.variants import VARIANTS, Variant

# Words of vector memory that the images of one step of the grid take; small images come in eights.
WORDS = 1 << 15
SCALAR_WORDS = 1 << 17  # 512 KiB, half of a chip's scalar memory, for what differs between images
TABLE_WORDS = 1 << 16  # of a table that lies there as it is; of longer ones each op has its row
IN_LUTS = ("lut", "contrast", "auto_contrast", "equalize")
VMEM_BYTES = 64 << 20  # for images whose memory exceeds what a compiler grants by itself
GRANTED_BYTES = 14 << 20


class Call(NamedTuple):
    """What a kernel is made for.

    Attributes:
      layout: of the images.
      variant: whose arithmetic.
      forms: which of `rows.FORMS` occur.
      stages: ops of an image.
      together: images of a step of the grid.
      squares: whether squares are erased.
      channels: of the images.
    """

    layout: Layout
    variant: Variant
    forms: frozenset[str]
    stages: int
    together: int
    squares: bool
    channels: int = 3


def apply_rows(
    packed: jax.Array,
    op_ids: jax.Array,
    square_offsets: jax.Array,
    table: Table,
    colours: Colours,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Applies some rows in turn to each image of a batch.

    Args:
      packed: `u32[B,H,W]`, see `arithmetic.packed`.
      op_ids: `i32[B,S]`, rows of the table, R in all; R, and rows without a form, change nothing.
      square_offsets: `u32[B,S,2]`, see `squares.square_offsets`.
      table: the rows.
      colours: of the fills.
      interpret: True to run the kernel as XLA operations of any platform, for tests.

    Returns:
      `u32[B,H,W]`.
    """
    batch, height, width = packed.shape
    layout, variant = Layout(height, width), VARIANTS[table.variant]
    forms = frozenset(FORMS[form] for form in rows.forms_of(table) if form >= 0)
    squares = rows.has_squares(table)
    call = Call(
        layout, variant, forms, op_ids.shape[1], images_together(layout, batch), squares,
        len(colours.fill),
    )
    packed_colours = (pack(colour).astype(jnp.int32) for colour in (colours.fill, colours.erase))
    shared = jnp.concatenate([jnp.stack([*packed_colours]), jnp.asarray(variant.scales)])
    boxes = (
        rows.boxes(table, op_ids, square_offsets) if squares else jnp.zeros(2, jnp.int32)
    )
    numbers, op_ids = jnp.asarray(rows.numbers_of(table)), op_ids.reshape(-1)
    if len(numbers) > TABLE_WORDS:
        numbers = numbers.reshape(-1, rows.COLUMNS)[op_ids].reshape(-1)
        op_ids = jnp.arange(len(op_ids), dtype=jnp.int32)
    return run(
        call, shared, numbers, op_ids, boxes, packed,
        jnp.asarray(rows.luts_of(table)), jnp.asarray(variant.constants), interpret=interpret,
    )


def images_a_call(table: Table, stages: int) -> int:
    """Returns how many images of some stages fit scalar memory, for a table of rows."""
    long = (len(table.kind) + 1) * rows.COLUMNS > TABLE_WORDS
    words = 3 + (rows.COLUMNS if long else 0)  # the number of a row, a box, and the row
    return max(1, SCALAR_WORDS // (words * stages))


def images_together(layout: Layout, batch: int) -> int:
    """Returns how many images are computed in a step of the grid: what divides the batch."""
    most = max(1, min(8, WORDS // (layout.rows * layout.lanes)))
    return next(count for count in range(most, 0, -1) if batch % count == 0)


def memory_of(layout: Layout, forms: frozenset[str]) -> list[Any]:
    """Returns the shapes of the scratch memory, in the order of `Memory`."""
    side, square = layout.side, (LANES, LANES)
    plane = (round_up(layout.height, LANES) + 2 * MARGIN, side)
    planes = max(2, *(
        interpolation.planes_needed(form) if form in forms else 0 for form in interpolation.REACH
    ))
    image = (layout.rows, layout.lanes)
    shapes = [image, (side, side), *[plane] * planes, *[square] * planes, TILE]
    return [pltpu.VMEM(shape, jnp.uint32) for shape in shapes]


def vmem_bytes(layout: Layout, forms: frozenset[str], luts: int = 0, together: int = 1) -> int:
    """Returns how much vector memory a kernel takes.

    Args:
      layout: of the images.
      forms: which of `rows.FORMS` occur.
      luts: number of given lookup tables.
      together: images of a step of the grid.
    """
    scratch = sum(int(np.prod(memory.shape)) for memory in memory_of(layout, forms))
    # What the grid moves in and out has two buffers each.
    images = 4 * together * layout.rows * layout.lanes
    return 4 * (scratch + images + 2 * LANES * round_up(luts, 8) + 2 * TILE[0] * TILE[1])


def run(
    call: Call,
    shared: jax.Array,
    numbers: jax.Array,
    op_ids: jax.Array,
    boxes: jax.Array,
    words: jax.Array,
    luts: jax.Array,
    constants: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Runs the kernel over a batch.

    Args:
      call: what it is made for.
      shared: `i32[N]`, fill, erase and the scales of the variant.
      numbers: `i32[(R+1) COLUMNS]`, see `rows.numbers_of`.
      op_ids: `i32[BS]`.
      boxes: `i32[2BS]`, see `rows.boxes`; anything where no squares are erased.
      words: `u32[B,H,W]`.
      luts: `u32[L,128]`, see `rows.luts_of`.
      constants: `u32[8,128]`, of the variant.
      interpret: see `apply_rows`.

    Returns:
      `u32[B,H,W]`.
    """
    layout = call.layout
    block = pl.BlockSpec((call.together, *layout), lambda step, *scalars: (step, 0, 0))

    def everything(array: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda step, *scalars: (0, 0))

    needed = vmem_bytes(layout, call.forms, len(luts), call.together)
    return pl.pallas_call(
        functools.partial(_kernel, call),
        out_shape=jax.ShapeDtypeStruct(words.shape, words.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(len(words) // call.together,),
            in_specs=[block, everything(luts), everything(constants)],
            out_specs=block,
            scratch_shapes=memory_of(layout, call.forms),
        ),
        # Steps do not depend on each other: chips with two cores share them.
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            vmem_limit_bytes=VMEM_BYTES if needed > GRANTED_BYTES else None,
        ),
        interpret=interpret,
        name="augment",
    )(shared, numbers, op_ids, boxes, words, luts, constants)


def _kernel(
    call: Call, shared: Any, numbers: Any, op_ids: Any, boxes: Any, words: Any, luts: Any,
    constants: Any, out: Any, *scratch: Any,
) -> None:
    step = pl.program_id(0)  # not within a loop: interpreters do not know it there
    memory, layout = _memory(luts, constants, shared, scratch), call.layout
    width, image = slice(layout.width), memory.image

    def augment(number, carry):
        def enter(rows) -> None:
            image[rows, width] = words[number, rows, :]

        def leave(rows) -> None:
            out[number, rows, :] = image[rows, width]

        _for_rows(layout, enter)

        def stage(place, carry):
            at = (step * call.together + number) * call.stages + place
            box = (boxes[2 * at], boxes[2 * at + 1]) if call.squares else (0, 0)
            _stage(call, memory, Op(numbers, op_ids[at], box))
            return carry

        lax.fori_loop(0, call.stages, stage, 0)
        _for_rows(layout, leave)
        return carry

    lax.fori_loop(0, call.together, augment, 0)


def _for_rows(layout: Layout, body: Callable[[Any], None]) -> None:
    """Calls `body(rows)` for slices of all rows of the image: eight each, and what is left."""
    groups = layout.height // ROWS
    for_groups(layout._replace(height=ROWS * groups), lambda group: body(group_rows(group)))
    if layout.height % ROWS:
        body(slice(ROWS * groups, layout.height))


def _memory(luts: Any, constants: Any, shared: Any, scratch: tuple[Any, ...]) -> Memory:
    image, turned, *others, lut = scratch
    planes, blocks = others[: len(others) // 2], others[len(others) // 2 :]
    return Memory(image, turned, tuple(planes), tuple(blocks), lut, luts, constants, shared)


def _stage(call: Call, memory: Memory, op: Op) -> None:
    """Applies one op."""
    layout, variant, form = call.layout, call.variant, op.integer(FORM)

    def case(name: str, compute: Callable[[], None]) -> None:
        if name in call.forms:
            pl.when(form == FORMS.index(name))(compute)

    def color(position: int) -> jax.Array:
        return memory.shared[position].astype(jnp.uint32)

    case("lut", lambda: luts.given(memory, op))
    case("contrast", lambda: luts.contrast(layout, variant, memory, op))
    case("auto_contrast", lambda: luts.auto_contrast(layout, variant, memory))
    case("equalize", lambda: luts.equalize(layout, memory))
    if call.forms & set(IN_LUTS):
        first, last = FORMS.index(IN_LUTS[0]), FORMS.index(IN_LUTS[-1])
        pl.when((form >= first) & (form <= last))(lambda: luts.look_up(layout, memory, op))
    affine = geometry.float_map if variant.float_maps else geometry.fixed_map
    case("shift", lambda: geometry.shift(layout, memory, op, affine(op), color(FILL)))
    case("nearest", lambda: geometry.move(layout, memory, op, affine(op), color(FILL)))
    for method in interpolation.REACH:
        case(method, functools.partial(
            interpolation.move, layout, memory, op, affine(op), color(FILL), method, call.channels
        ))
    case("color", lambda: pixels.color(layout, variant, memory, op))
    case("sharpness", lambda: pixels.sharpness(layout, variant, memory, op))
    case("erase", lambda: pixels.erase(layout, memory, op, color(ERASE)))
    case("smooth", lambda: filters.replace_by(layout, memory, filters.smooth_words))
    case("blur", lambda: filters.replace_by(layout, memory, filters.blur_words))
