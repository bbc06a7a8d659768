"""Ops as rows of a table of numbers, built on the host in double precision.

A row says which kind of work an op is and holds all numbers that it needs, so the device only
looks rows up. There are few kinds: what differs between invert and posterize is a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.augment.ops import lut, torchvision, tpu
from kdaug_jax.augment.ops.blending import blend_lut
from kdaug_jax.augment.ops.geometry import Matrix, affine_coefficients, rotation
from kdaug_jax.augment.ops.resample import exact_coefficients
from kdaug_jax.augment.policies.policy import SQUARES, VARIANTS, Op
from kdaug_jax.augment.policies.squares import Squares, squares
from kdaug_jax.errors import ArgumentError, suggest

# Kinds of work. What an image costs differs by a factor of fifty between them.
KINDS = (
    "none", "table", "nearest", "color", "sharpness", "erase", "smooth", "blur", "bilinear",
    "bicubic",
)
(
    NONE, TABLE, NEAREST, COLOR, SHARPNESS, ERASE, SMOOTH, BLUR, BILINEAR, BICUBIC,
) = range(len(KINDS))
# Where the table of an image comes from: it is one of the given ones, or made from the image.
SOURCES = ("given", "auto_contrast", "equalize", "contrast")
GIVEN, AUTO_CONTRAST, EQUALIZE, CONTRAST = range(len(SOURCES))


class Table(NamedTuple):
    """Rows of ops, R in all.

    Attributes:
      kind: `i32[R]`, in `KINDS`.
      source: `i32[R]`, in `SOURCES`; "given" where no table is needed.
      which: `i32[R]`, which of `luts`.
      matrix: `u32[R,12]`, the bits of an affine map, in the form that its kind and variant want.
      alpha: `f32[R,4]`, a factor and the rest to 1, split in two each, see `torchvision.factors`.
      squares: `i32[R]` each, what erased squares are like.
      luts: `u8[L,256]`.
      opaque: `bool[R]`, whether alpha becomes 255.
      variant: whose arithmetic, in `policies.VARIANTS`.
      size: height and width of the images in pixels.
    """

    kind: np.ndarray
    source: np.ndarray
    which: np.ndarray
    matrix: np.ndarray
    alpha: np.ndarray
    squares: Squares
    luts: np.ndarray
    opaque: np.ndarray
    variant: str
    size: tuple[int, int]


class _Row(NamedTuple):
    kind: int = NONE
    source: int = GIVEN
    which: Any = 0  # the table itself, until all are collected
    matrix: Any = ()
    alpha: Any = (0.0, 0.0, 0.0, 0.0)
    opaque: bool = False


def _static(make: Callable[..., np.ndarray], opaque: bool = True):
    def row(op: Op, size: tuple[int, int], variant: str) -> _Row:
        arguments = () if op.value is None else (op.value,)
        return _Row(TABLE, which=make(*arguments), opaque=opaque)

    return row


def _blended(kind: int, source: int = GIVEN):
    def row(op: Op, size: tuple[int, int], variant: str) -> _Row:
        alpha = torchvision.factors(op.value)
        if op.value == 1:
            return _Row()
        if (source, variant) == (CONTRAST, "tpu"):
            # Its grey level depends on the size of the image alone.
            level = min(size[0] * size[1] // 256, 255)
            return _Row(TABLE, which=blend_lut(level, *alpha[:2]))
        return _Row(kind, source, alpha=alpha)

    return row


def _plain(kind: int, source: int = GIVEN):
    return lambda op, size, variant: _Row(kind, source, opaque=source != GIVEN)


def _moved(matrix: Callable[[float, tuple[int, int]], Matrix]):
    def row(op: Op, size: tuple[int, int], variant: str) -> _Row:
        if op.value == 0:
            return _Row()
        turn = op.name == "rotate"
        if variant.startswith("tpu"):
            if op.resample != "nearest":
                raise ArgumentError(
                    f"{op.name} is {op.resample} in variant '{variant}'", "must be nearest"
                )
            whole = tpu.rotation(op.value, *size) if turn else matrix(op.value, size)
            return _Row(NEAREST, matrix=np.asarray(whole, np.float32).view(np.uint32))
        whole = turn and (op.value % 180 == 0 or (op.value % 90 == 0 and size[0] == size[1]))
        found = matrix(op.value, size)
        if op.resample == "nearest" or whole:  # Pillow moves whole pixels then
            return _Row(NEAREST, matrix=affine_coefficients(*found).view(np.uint32))
        kinds = {"bilinear": BILINEAR, "bicubic": BICUBIC}
        if op.resample not in kinds:
            raise ArgumentError(
                f"{op.name} has resample '{op.resample}'", suggest(op.resample, ["nearest", *kinds])
            )
        return _Row(kinds[op.resample], matrix=exact_coefficients(*found).reshape(-1))

    return row


def _erased(op: Op, size: tuple[int, int], variant: str) -> _Row:
    if not 0 <= op.value <= 2 * max(size):
        raise ArgumentError(f"{op.name} has side {op.value}", f"must be 0..{2 * max(size)} pixels")
    return _Row(ERASE) if op.value > 0 else _Row()


OPS: dict[str, Callable[[Op, tuple[int, int], str], _Row]] = {
    "identity": _plain(NONE),
    "invert": _static(lut.invert_lut),
    "solarize": _static(lut.solarize_lut),
    "solarize_add": _static(lut.solarize_add_lut),
    "posterize": _static(lut.posterize_lut),
    "brightness": _static(lut.brightness_lut, opaque=False),
    "contrast": _blended(TABLE, CONTRAST),
    "color": _blended(COLOR),
    "sharpness": _blended(SHARPNESS),
    "auto_contrast": _plain(TABLE, AUTO_CONTRAST),
    "equalize": _plain(TABLE, EQUALIZE),
    "rotate": _moved(lambda degrees, size: rotation(degrees, *size)),
    "shear_x": _moved(lambda v, size: (1, v, 0, 0, 1, 0)),
    "shear_y": _moved(lambda v, size: (1, 0, 0, v, 1, 0)),
    "translate_x": _moved(lambda p, size: (1, 0, p, 0, 1, 0)),
    "translate_y": _moved(lambda p, size: (1, 0, 0, 0, 1, p)),
    **dict.fromkeys(SQUARES, _erased),
    "smooth": _plain(SMOOTH),
    "blur": _plain(BLUR),
}


def build_table(ops: Sequence[Op], size: tuple[int, int], variant: str = "pillow") -> Table:
    """Builds the table of some ops for images of one size.

    Args:
      ops: the rows.
      size: height and width of the images in pixels.
      variant: whose arithmetic, see `policies.VARIANTS`.

    Returns:
      Its rows, in the order of `ops`.

    Raises:
      ValueError: (what is wrong, what would be right): unknown op or variant, or a value that an
        op does not take.
    """
    if variant not in VARIANTS:
        raise ArgumentError(f"unknown variant '{variant}'", suggest(variant, VARIANTS))
    rows, luts = [], {}
    for op in ops:
        if op.name not in OPS:
            raise ArgumentError(f"unknown op '{op.name}'", suggest(op.name, OPS))
        row = OPS[op.name](op, size, variant)
        if (row.kind, row.source) == (TABLE, GIVEN):
            table = np.asarray(row.which, np.uint8).tobytes()
            row = row._replace(which=luts.setdefault(table, len(luts)))
        rows.append(row)
    matrix = np.zeros((len(rows), 12), np.uint32)
    for number, row in enumerate(rows):
        matrix[number, : len(row.matrix)] = row.matrix
    tables = np.frombuffer(b"".join(luts) or bytes(range(256)), np.uint8).reshape(-1, 256)
    return Table(
        kind=np.array([row.kind for row in rows], np.int32),
        source=np.array([row.source for row in rows], np.int32),
        which=np.array([row.which for row in rows], np.int32),
        matrix=matrix,
        alpha=np.array([row.alpha for row in rows], np.float32).reshape(-1, 4),
        squares=squares(ops),
        luts=tables,
        opaque=np.array([row.opaque for row in rows], bool),
        variant=variant,
        size=size,
    )
