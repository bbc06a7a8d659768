"""FixMatch's strong augmentation as multi-level logit distillation has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.augment.policies.levels import ENHANCE, FIXED, SHEAR, TRANSLATE, Levels, each
from kdaug_jax.augment.policies.policy import (
    Policy,
    Rows,
    below,
    count_hparam,
    plain,
    signed,
    whole,
)

# Strengths of an op: the middles of so many equal parts of its range.
BINS = 64
# The largest square that is erased, as a share of the image's width.
LARGEST = 0.5


def _ops() -> Levels:
    """Returns the ops at a share of their range in (0, 1), and of the sign that is drawn."""
    return {
        "Identity": lambda share, size: plain("identity"),
        **{name: op for name, op in FIXED.items() if name != "Invert"},
        **each(ENHANCE, lambda op, share, size: plain(op, 0.05 + 0.9 * share)),
        "Posterize": lambda share, size: plain("posterize", int(4 + 4 * share)),
        "Rotate": lambda share, size: signed("rotate", 30 * share),
        **each(SHEAR, lambda op, share, size: signed(op, 0.3 * share)),
        "Solarize": lambda share, size: plain("solarize", int(np.ceil(256 * share))),
        **each(TRANSLATE, lambda op, share, size: signed(op[0], 0.3 * share * size[op[1]])),
    }


def fixmatch(
    n: int = 2, *, size: tuple[int, int], counts: Mapping[str, int] | None = None
) -> Policy:
    """Applies n ops, each at a strength that is uniform over the op's range, and erases a square.

    The ops are uniform over 14, with replacement: enhancing factors of 0.05..0.95, 4..7 bits,
    rotations of 30 degrees, shears of 0.3 and translations of 0.3 of the side either way,
    thresholds 0..256, and three without strength. The square's side is uniform over 0..0.5 of the
    width and its colour (125, 123, 114). There is no magnitude.

    Args:
      n: how many ops before the square.
      size: height and width of the images in pixels.
      counts: `{"n": most}` to trace n, 0..most: an image then takes `most` + 1 stages, those after
        the square the identity.

    Returns:
      A policy without traced hyper-parameters, or with `n`, `i32[]`, of `counts`.

    Raises:
      ArgumentError: n is out of range.

    Source: Sohn et al. 2020 (FixMatch), Table 12; the strong view of Jin et al. 2023, "Multi-Level
    Logit Distillation". A strength is one of 64 there are of each op, and not any number.
    """
    swept = counts or {}
    most = whole("n", swept.get("n", n), 0, 100)
    shares = (np.arange(BINS) + 0.5) / BINS
    rows = Rows()
    index = rows([[op(share, size) for share in shares] for op in _ops().values()])
    squares = rows([plain("cutout_fast", LARGEST * share * size[1])[0] for share in shares])
    return Policy(
        rows.ops, _draw(index, squares, most), most + 1,
        {name: count_hparam(most) for name in swept}, fill="black", cutout_fill=(125, 123, 114),
    )


def _draw(index: np.ndarray, squares: np.ndarray, most: int) -> Callable[..., jax.Array]:
    def draw(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        n = hparams.get("n", most)
        op = below(key, "op", len(index), (most,))
        strength = below(key, "strength", BINS, (most + 1,))
        sign = below(key, "sign", 2, (most,))
        taken = jnp.asarray(index)[op, strength[:most], sign]
        square = jnp.asarray(squares)[strength[n]]
        stage = jnp.arange(most + 1)
        after = jnp.where(stage == n, square, 0)
        return jnp.where(stage < n, jnp.append(taken, jnp.int32(0)), after)

    return draw
