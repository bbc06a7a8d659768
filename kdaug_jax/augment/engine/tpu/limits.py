"""Which rows of a table the kernel computes, and why it does not compute the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdaug_jax.augment.engine.rows import Table, build_table
from kdaug_jax.augment.engine.tpu import interpolation
from kdaug_jax.augment.engine.tpu.geometry import NEAR
from kdaug_jax.augment.engine.tpu.kernel import VMEM_BYTES, images_together, vmem_bytes
from kdaug_jax.augment.engine.tpu.rows import FIXED, FORMS, affine_maps, forms_of
from kdaug_jax.augment.engine.tpu.tiles import LANES, ROWS, Layout
from kdaug_jax.augment.ops.table import Op

REACH = 1 << 14  # pixels: coordinates and all sums of them stay below 2^31 in 16.16 fixed point
# Columns of long rows that eight rows of 128 lanes may come from, of 3 x 128: the first tile may
# begin 127 columns early, and both ends are judged to 2 pixels and, of filters, to 10.
SPAN = (NEAR - 1) * LANES - 22
NO_FORM = "has no form in the kernel"


def problems(table: Table) -> list[str | None]:
    """Returns, for each row of a table, why the kernel does not compute it; None if it does."""
    layout, forms = Layout(*table.size), forms_of(table)
    used = frozenset(FORMS[form] for form in forms if form >= 0)
    everything = _table_problem(table, layout, used)
    if everything:
        return [everything] * len(forms)
    maps = affine_maps(table)
    floats = maps.numbers.dtype == np.float32
    numbers = maps.numbers.astype(np.float64) / (1 if floats else FIXED)
    texts: list[str | None] = []
    for form, entries, two_passes in zip(forms, numbers, maps.two_passes, strict=True):
        text = NO_FORM if form < 0 else None
        if form >= 0 and FORMS[form] in ("shift", "nearest", *interpolation.REACH):
            text = _map_problem(entries, bool(two_passes), layout, floats=floats)
            if FORMS[form] in interpolation.REACH:
                text = text or _filter_problem(entries, layout, FORMS[form])
        texts.append(text)
    return texts


def _table_problem(table: Table, layout: Layout, forms: frozenset[str]) -> str | None:
    """Says why the images of a table do not fit the kernel."""
    size = f"{layout.width}×{layout.height}"
    needed = vmem_bytes(layout, forms, len(table.luts), images_together(layout, ROWS))
    if needed > VMEM_BYTES:
        return (
            f"takes {needed >> 20} MiB of vector memory for images of {size}, "
            f"more than {VMEM_BYTES >> 20} MiB"
        )
    return None


def _map_problem(
    numbers: np.ndarray, two_passes: bool, layout: Layout, *, floats: bool
) -> str | None:
    """Says why two passes do not give an affine map.

    Args:
      numbers: `f64[6]`, a to f in pixels, in the order of the passes, so that |a| >= |d|.
      two_passes: whether more than whole rows move.
      layout: of the images.
      floats: whether coordinates are rounded float32 numbers.
    """
    a, b, c, d, e, f = (float(number) for number in numbers)
    reach = max(
        max(abs(p * x + q * y + r) for p, q, r in ((a, b, c), (d, e, f)))
        for x in (0, layout.side) for y in (0, layout.side)
    )
    if reach >= REACH:
        return f"maps images of {layout.width}×{layout.height} beyond {REACH} pixels"
    if not two_passes:
        return None
    # Two pixels at most take a column, and they lie in neighbouring rows. A step of one row only
    # is a step of one row after rounding, where all coordinates are exact.
    exact = all(number * 256 == np.floor(number * 256) for number in (d, e, f))
    most = 1.0 if exact or not floats else 0.999
    least = 0.51 if floats else 0.5
    if abs(a) < least or abs(d) > most:
        return "turns or scales images more than two passes can"
    if layout.side // LANES > NEAR:
        along = (LANES - 1) * abs(a) + (ROWS - 1) * abs(b)
        across = ((LANES - 1) * abs(a * e - b * d) + (ROWS - 1) * abs(d)) / abs(a)
        if max(along, across) > SPAN:
            return f"moves images above {NEAR * LANES} pixels too far within 128 pixels"
    return None


def _filter_problem(numbers: np.ndarray, layout: Layout, method: str) -> str | None:
    """Says why the planes of a filter do not hold all neighbours, of a map that takes two passes.

    Args:
      numbers: `f64[6]`, see `_map_problem`.
      layout: of the images.
      method: "bilinear" or "bicubic".
    """
    tolerance, around = interpolation.TOLERANCE, 2 * interpolation.REACH[method]
    if (2 * layout.side + 1) / (2 * FIXED) > tolerance:
        return f"is {method} for images above 1000 pixels"
    # Pixels that need a column follow each other; from the first to the last rows run this far.
    pixels = np.floor((around + 4 * tolerance) / abs(numbers[0]))
    if pixels * abs(numbers[3]) + 4 * tolerance >= around:
        return f"turns or scales images more than {method} planes hold"
    return None


def slow_ops(ops: Sequence[Op], size: tuple[int, int], variant: str = "pillow") -> list[str]:
    """Returns a line for each op that a TPU computes outside the kernel, and why.

    Images that draw such an op take the form `loop`, whose gathers of elements a TPU makes one by
    one: about a thousandth of the kernel's speed. The others stay in the kernel.

    Args:
      ops: the rows of a policy, see `policies.Policy`.
      size: height and width of the images in pixels.
      variant: of the policy.

    Returns:
      Lines such as "mine:op has no form in the kernel"; none where all ops are fast.
    """
    texts: dict[str, str] = {}
    rows = zip(ops, problems(build_table(ops, size, variant)), strict=True)
    for op, text in rows:
        if text is not None and op.name != "identity":
            at = "" if op.value is None or text == NO_FORM else f" {op.value:g}"
            texts.setdefault(op.name, f"{op.name}{at} {text}")
    return list(texts.values())

