"""The op table: all that policies, the batched engine and the documentation know of an op.

An op is one function beside its kernel, and one row of `OPS`. A row made outside this package,
or a plain function of an image, is named `package.module:attribute` wherever a policy takes names
of ops.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.augment.arithmetic.packed import pack, planes, unpack
from kdaug_jax.augment.ops import (
    colour,
    filters,
    geometry,
    lut,
    masks,
    resample,
    statistics,
    torchvision,
    tpu,
)
from kdaug_jax.augment.ops.blending import blend_lut, blend_values, luma_of
from kdaug_jax.augment.ops.kernel import Arithmetic, Context, Kernel, Row
from kdaug_jax.augment.ops.squares import CLIPPED, INSIDE, REAL, Squares, square
from kdaug_jax.errors import ArgumentError, ConfigError, suggest
from kdaug_jax.registry import is_import, resolve

Size = tuple[int, int]


class Op(NamedTuple):
    """One op at one strength, a host value.

    Attributes:
      name: a key of `OPS`, or `package.module:attribute`.
      value: the strength with its sign, in the unit of the op's row, or None; see `describe_ops`.
      resample: "nearest", "bilinear" or "bicubic", for the geometric ops.
    """

    name: str
    value: float | int | None = None
    resample: str = "nearest"


class Values(NamedTuple):
    """The legal values of an op: their unit, the ends of their range, and whether they are whole.

    Ops from outside map levels onto the range: from `low` to `high`, or, where `low` is negative,
    from 0 to `high` with either sign.
    """

    unit: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False


class Columns(NamedTuple):
    """What an op at one strength writes into its row of an engine's table.

    Attributes:
      kernel: what is computed; None changes nothing.
      lut_source: what makes the lookup table from the image, for `lut.lut_kernel`.
      lut: `u8[256]`, the lookup table where it does not depend on the image.
      matrix: `u32[up to 12]`, the bits of an affine map, in the form that kernel and variant want.
      alpha: `f32[4]`, a factor and the rest to 1, split in two each, see `torchvision.factors`;
        of a function from outside its value, and zeros.
      squares: the square that is erased.
      opaque: whether alpha becomes 255.
    """

    kernel: Kernel | None = None
    lut_source: Kernel | None = None
    lut: Any = None
    matrix: Any = ()
    alpha: Any = (0.0, 0.0, 0.0, 0.0)
    squares: Squares = Squares()
    opaque: bool = False


class OpRow(NamedTuple):
    """One op.

    Attributes:
      function: the deterministic op, `f(image u8[H,W,C], ...) -> u8[H,W,C]`.
      layout: `f(op, size, variant) -> Columns`.
      kernels: those that `layout` may name.
      lut_source: that which `layout` may name: the op first looks at the whole image.
      values: what values are legal; None for an op without a strength.
      geometric: whether pixels move, so that `Op.resample` names a filter.
    """

    function: Callable[..., jax.Array]
    layout: Callable[[Op, Size, str], Columns]
    kernels: tuple[Kernel, ...] = ()
    lut_source: Kernel | None = None
    values: Values | None = None
    geometric: bool = False

    @property
    def has_tpu_form(self) -> bool:
        """Whether the engine for TPUs computes the op in its kernel, whatever its strength."""
        used = (*self.kernels, *((self.lut_source,) if self.lut_source else ()))
        return all(kernel in TPU_FORMS for kernel in used)


def lut_op(
    function: Callable[..., jax.Array], table: Callable[..., np.ndarray],
    values: Values | None = None, opaque: bool = True,
) -> OpRow:
    """Returns the row of an op that is a lookup table of each colour's own value.

    Args:
      function: the op on one image.
      table: `f()` or `f(value)` that returns `u8[256]`, computed on the host.
      values: what values are legal; None for an op without a strength.
      opaque: whether alpha becomes 255.

    Returns:
      A row for `OPS`, or to be named as `package.module:attribute`.
    """

    def layout(op: Op, size: Size, variant: str) -> Columns:
        arguments = () if op.value is None else (op.value,)
        return Columns(lut.lut_kernel, lut=table(*arguments), opaque=opaque)

    return OpRow(function, layout, (lut.lut_kernel,), values=values)


def statistics_op(function: Callable[..., jax.Array], lut_source: Kernel) -> OpRow:
    """Returns the row of an op that is a lookup table made from each image.

    Args:
      function: the op on one image.
      lut_source: `f(packed u32[H,W], row, context) -> u8[3,256]`, see `ops.kernel`.

    Returns:
      A row for `OPS`, or to be named as `package.module:attribute`.
    """

    def layout(op: Op, size: Size, variant: str) -> Columns:
        return Columns(lut.lut_kernel, lut_source, opaque=True)

    return OpRow(function, layout, (lut.lut_kernel,), lut_source)


def stencil_op(
    function: Callable[[jax.Array], jax.Array], packed_function: Callable[[jax.Array], jax.Array]
) -> OpRow:
    """Returns the row of an op without a strength that runs on packed pixels.

    Args:
      function: the op on one image.
      packed_function: `f(packed u32[H,W]) -> u32[H,W]`, see `arithmetic.packed`.

    Returns:
      A row for `OPS`, or to be named as `package.module:attribute`.
    """

    def kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
        return packed_function(packed)

    return OpRow(function, lambda op, size, variant: Columns(kernel), (kernel,))


def geometric_op(
    matrix: Callable[[float, int, int], geometry.Matrix], values: Values,
    function: Callable[..., jax.Array] | None = None,
    *,
    tpu_matrix: Callable[[float, int, int], Any] | None = None,
    whole: Callable[[float, int, int], bool] = lambda value, height, width: False,
) -> OpRow:
    """Returns the row of an affine map, which changes nothing at value 0.

    Args:
      matrix: `f(value, height, width)`, output to input, see `geometry.affine`.
      values: what values are legal.
      function: the op on one image; by default `geometry.affine` with the matrix.
      tpu_matrix: the map of the TPU variants, by default the same.
      whole: `f(value, height, width)`, whether whole pixels move, so that no filter is needed.

    Returns:
      A row for `OPS`, or to be named as `package.module:attribute`.
    """

    def affine(image: jax.Array, value: float, fill: Any, method: str = "nearest") -> jax.Array:
        return geometry.affine(image, matrix(value, *image.shape[:2]), fill, method)

    def layout(op: Op, size: Size, variant: str) -> Columns:
        if op.value == 0:
            return Columns()
        if variant.startswith("tpu"):
            if op.resample != "nearest":
                raise ArgumentError(
                    f"{op.name} is {op.resample} in variant '{variant}'", "must be nearest"
                )
            floats = np.asarray((tpu_matrix or matrix)(op.value, *size), np.float32)
            return Columns(geometry.nearest_kernel, matrix=floats.view(np.uint32))
        if op.resample not in FILTERS:
            raise ArgumentError(
                f"{op.name} has resample '{op.resample}'", suggest(op.resample, FILTERS)
            )
        numbers = matrix(op.value, *size)
        if op.resample == "nearest" or whole(op.value, *size):
            fixed = geometry.affine_coefficients(*numbers)
            return Columns(geometry.nearest_kernel, matrix=fixed.view(np.uint32))
        exact = resample.exact_coefficients(*numbers)
        return Columns(FILTERS[op.resample], matrix=exact.reshape(-1))

    return OpRow(function or affine, layout, (*FILTERS.values(),), values=values, geometric=True)


@functools.cache  # one kernel, however often a function is named
def function_op(function: Callable[..., jax.Array], name: str) -> OpRow:
    """Returns the row of a deterministic function of one image, which is called as it is.

    Args:
      function: `f(image u8[H,W,C]) -> u8[H,W,C]`, or `f(image, level f32[]) -> u8[H,W,C]` with
        the level 0..1 that a policy applies.
      name: of the op, for messages.

    Returns:
      Its row; the kernel unpacks an image, calls the function and packs what it returns.
    """
    levels = len(inspect.signature(function).parameters) > 1

    def kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
        image = unpack(packed, context.channels)
        made = function(image, *((row.alpha[0],) if levels else ()))
        if (getattr(made, "shape", None), getattr(made, "dtype", None)) != (image.shape, jnp.uint8):
            raise ArgumentError(
                f"op {name} returned {_array(made)}", f"must return {_array(image)} as it is given"
            )
        return pack(made)

    def layout(op: Op, size: Size, variant: str) -> Columns:
        return Columns(kernel, alpha=(op.value or 0.0, 0.0, 0.0, 0.0))

    return OpRow(function, layout, (kernel,), values=Values("level", 0, 1) if levels else None)


def _array(value: Any) -> str:
    if not hasattr(value, "dtype"):
        return f"a {type(value).__name__}"
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def _blended(kernel: Kernel, lut_source: Kernel | None = None) -> Callable[..., Columns]:
    def layout(op: Op, size: Size, variant: str) -> Columns:
        alpha = torchvision.factors(op.value)
        if op.value == 1:
            return Columns()
        if lut_source is statistics.contrast_luts and variant == "tpu":
            # Its grey level depends on the size of the image alone.
            level = min(size[0] * size[1] // 256, 255)
            return Columns(lut.lut_kernel, lut=blend_lut(level, *alpha[:2]))
        return Columns(kernel, lut_source, alpha=alpha)

    return layout


def _square(function: Callable[..., jax.Array], kind: int) -> OpRow:
    def layout(op: Op, size: Size, variant: str) -> Columns:
        if op.value > 2 * max(size):
            raise ArgumentError(
                f"{op.name} has side {op.value}", f"must be 0..{2 * max(size)} pixels"
            )
        erases = op.value > 0
        return Columns(masks.erase_kernel, squares=square(kind, op.value)) if erases else Columns()

    return OpRow(function, layout, (masks.erase_kernel,), values=Values("pixels of side", 0))


FILTERS = {
    "nearest": geometry.nearest_kernel,
    "bilinear": resample.bilinear_kernel,
    "bicubic": resample.bicubic_kernel,
}
_FACTOR = Values("factor, 1 changes nothing", 0)
_SHEAR = Values("input pixels per output line, as Pillow's coefficient")
_SHIFT = Values("input minus output pixels: positive values move the content left or up")

OPS: dict[str, OpRow] = {
    "identity": OpRow(colour.identity, lambda op, size, variant: Columns()),
    "invert": lut_op(colour.invert, lut.invert_lut),
    "solarize": lut_op(
        colour.solarize, lut.solarize_lut, Values("threshold, values below it stay", 0, 256)
    ),
    "solarize_add": lut_op(
        colour.solarize_add, lut.solarize_add_lut,
        Values("level added to values below 128", -1024, 1024, whole=True),
    ),
    "posterize": lut_op(colour.posterize, lut.posterize_lut, Values("bits kept", 0, 8, whole=True)),
    "brightness": lut_op(colour.brightness, lut.brightness_lut, _FACTOR, opaque=False),
    "auto_contrast": statistics_op(statistics.auto_contrast, statistics.auto_contrast_luts),
    "equalize": statistics_op(statistics.equalize, statistics.equalize_luts),
    "contrast": OpRow(
        statistics.contrast, _blended(lut.lut_kernel, statistics.contrast_luts),
        (lut.lut_kernel,), statistics.contrast_luts, _FACTOR,
    ),
    "rotate": geometric_op(
        geometry.rotation, Values("degrees, counter-clockwise"), geometry.rotate,
        tpu_matrix=tpu.rotation, whole=geometry.whole_turn,
    ),
    "shear_x": geometric_op(geometry.shear_x_matrix, _SHEAR, geometry.shear_x),
    "shear_y": geometric_op(geometry.shear_y_matrix, _SHEAR, geometry.shear_y),
    "translate_x": geometric_op(geometry.translate_x_matrix, _SHIFT, geometry.translate_x),
    "translate_y": geometric_op(geometry.translate_y_matrix, _SHIFT, geometry.translate_y),
    "color": OpRow(
        colour.color, _blended(colour.color_kernel), (colour.color_kernel,), values=_FACTOR
    ),
    "sharpness": OpRow(
        filters.sharpness, _blended(filters.sharpness_kernel), (filters.sharpness_kernel,),
        values=_FACTOR,
    ),
    "cutout": _square(masks.cutout, CLIPPED),
    "erase_square": _square(masks.erase_square, INSIDE),
    "cutout_fast": _square(masks.erase_square, REAL),
    "smooth": stencil_op(filters.smooth, filters.smooth_packed),
    "blur": stencil_op(filters.blur, filters.blur_packed),
}
IDENTITY = Op("identity")
SQUARES = tuple(name for name, row in OPS.items() if masks.erase_kernel in row.kernels)
# What the kernels and the sources of lookup tables are numbered by; nothing, and given, come
# first, and the filters that geometric ops may use besides "nearest" last.
KERNELS = tuple(dict.fromkeys((
    None, *(row.kernels[0] for row in OPS.values() if row.kernels),
    *(kernel for row in OPS.values() for kernel in row.kernels),
)))
LUT_SOURCES = tuple(dict.fromkeys((None, *(row.lut_source for row in OPS.values()))))
# What of these the engine for TPUs has a form of its own for, by its name in `engine.tpu`.
TPU_FORMS: dict[Kernel, str] = {
    lut.lut_kernel: "lut",
    statistics.contrast_luts: "contrast",
    statistics.auto_contrast_luts: "auto_contrast",
    statistics.equalize_luts: "equalize",
    geometry.nearest_kernel: "nearest",
    resample.bilinear_kernel: "bilinear",
    resample.bicubic_kernel: "bicubic",
    colour.color_kernel: "color",
    filters.sharpness_kernel: "sharpness",
    masks.erase_kernel: "erase",
    OPS["smooth"].kernels[0]: "smooth",
    OPS["blur"].kernels[0]: "blur",
}


def _pixels(row: Row, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    return geometry.nearest_pixels(row.matrix[:6].astype(jnp.int32), height, width)


def _pixels_tpu(row: Row, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    transform = jax.lax.bitcast_convert_type(row.matrix[:6], jnp.float32)
    return tpu.nearest_pixels(transform, height, width)


def _smooth(packed: jax.Array) -> tuple[jax.Array, ...]:
    return planes(filters.smooth_packed(packed))


def _blend(start: Any, values: jax.Array, alpha: jax.Array) -> jax.Array:
    return blend_values(start, values, alpha[0], alpha[1])


_TPU = Arithmetic(
    _pixels_tpu, tpu.grey_of, tpu.mean_level,
    lambda packed: tuple(tpu.smooth_values(plane) for plane in planes(packed)),
    tpu.stretch_lut, _blend,
)
ARITHMETIC = {
    "pillow": Arithmetic(
        _pixels, luma_of, statistics.rounded_mean, _smooth, statistics.stretch_lut, _blend
    ),
    "tpu": _TPU,  # contrast by a level that does not depend on the image is a table
    "tpu_clean": _TPU,
    "torchvision": Arithmetic(
        _pixels, torchvision.grey_of, torchvision.mean_level, _smooth, torchvision.stretch_lut,
        torchvision.blend_values,
    ),
}
VARIANTS = tuple(ARITHMETIC)


def op_row(name: str) -> OpRow:
    """Returns the row of an op.

    Args:
      name: a key of `OPS`, or `package.module:attribute` of an `OpRow` or a function, see
        `function_op`.

    Raises:
      ArgumentError: no such op, or the attribute is neither.
    """
    if name in OPS:
        return OPS[name]
    if not is_import(name):
        raise ArgumentError(f"unknown op '{name}'", suggest(name, OPS))
    try:
        attribute = resolve("ops", "op", name, OPS)
    except ConfigError as error:
        raise ArgumentError(error.what, error.remedy) from error
    if isinstance(attribute, OpRow):
        return attribute
    if not callable(attribute) or inspect.isclass(attribute):
        raise ArgumentError(
            f"op {name} is a {type(attribute).__name__}",
            "must be a function f(image) or f(image, level), or an OpRow",
        )
    return function_op(attribute, name)


def check_op(name: str, size: Size) -> OpRow:
    """Returns the row of an op from outside once its kernels are seen to return packed pixels.

    Args:
      name: see `op_row`.
      size: height and width of the images in pixels.

    Raises:
      ArgumentError: no such op, or one of another dtype or shape.
    """
    row = op_row(name)

    def shaped(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    number, packed = shaped(jnp.int32), shaped(jnp.uint32, *size)
    engine_row = Row(
        number, number, shaped(jnp.int32, 2), shaped(jnp.uint32, 12), shaped(jnp.float32, 4),
        Squares(number, number, number), shaped(bool), shaped(jnp.uint32, 2),
    )
    shared = (shaped(jnp.uint8, 3), shaped(jnp.uint32), shaped(jnp.uint32), shaped(jnp.uint8, 256))
    sources = (row.lut_source,) if row.lut_source else ()
    expected = [packed] * len(row.kernels) + [shaped(jnp.uint8, 3, 256)] * len(sources)
    for kernel, result in zip((*row.kernels, *sources), expected, strict=True):
        made = jax.eval_shape(
            lambda packed, row, shared, kernel=kernel: kernel(
                packed, row, Context(ARITHMETIC["pillow"], 3, *shared)
            ),
            packed, engine_row, shared,
        )
        if (getattr(made, "shape", None), getattr(made, "dtype", None)) != (
            result.shape, result.dtype
        ):
            raise ArgumentError(
                f"op {name}: its kernel returned {_array(made)}", f"must return {_array(result)}"
            )
    return row


def check_value(op: Op, row: OpRow) -> None:
    """Validates the strength of an op.

    Raises:
      ArgumentError: a value of an op that takes none, none of an op that takes one, or a value
        out of range.
    """
    values = row.values
    if values is None:
        if op.value is not None:
            raise ArgumentError(f"{op.name} has value {op.value!r}", "it takes none")
        return
    real = isinstance(op.value, numbers.Real) and math.isfinite(op.value)
    if not real or not values.low <= op.value <= values.high or (
        values.whole and op.value != int(op.value)
    ):
        raise ArgumentError(
            f"{op.name} has value {op.value!r}", f"must be {_range(values)} ({values.unit})"
        )


def _range(values: Values) -> str:
    kind = "a whole number" if values.whole else "a number"
    if math.isfinite(values.high):
        return f"{kind} {values.low:g}..{values.high:g}"
    return kind if math.isinf(values.low) else f"{kind} of {values.low:g} or more"


def describe_ops() -> str:
    """Returns the op table in Markdown, for the documentation."""
    lines = ["| op | value | range | | kernel for TPUs |", "|---|---|---|---|---|"]
    for name, row in OPS.items():
        unit, reach = (row.values.unit, _range(row.values)) if row.values else ("", "")
        kind = "geometric" if row.geometric else "looks at the image" if row.lut_source else ""
        fast = "yes" if row.has_tpu_form else "no"
        lines.append(f"| `{name}` | {unit} | {reach} | {kind} | {fast} |")
    return "\n".join(lines)
