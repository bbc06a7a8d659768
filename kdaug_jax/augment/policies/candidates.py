"""Strengths of RandAugment to be drawn once for a run, as A2-Aug does for its views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdaug_jax.errors import ArgumentError


def randaugment_candidates(
    seed: int,
    count: int,
    ops: Sequence[int] = (1, 2, 3),
    magnitudes: Sequence[int] = (3, 6, 9, 12, 15, 18, 21, 24, 27, 30),
) -> tuple[tuple[int, int], ...]:
    """Draws pairs (n, m) from a grid, none twice: one for each view, kept for the whole run.

    The paper samples "N augmentations" of RandAugment's space of about 10^2 and says no more; this
    grid of 30 is a reading. A config writes them into its views, which the run prints and records.

    Args:
      seed: of the draw.
      count: how many pairs, at most as many as the grid has.
      ops: values of n.
      magnitudes: values of m.

    Returns:
      Pairs in the order they were drawn.

    Raises:
      ArgumentError: what is wrong, and what to write.

    Source: Li et al. 2021 (A2-Aug), section 4.1.
    """
    grid = [(int(n), int(m)) for n in ops for m in magnitudes]
    if not 1 <= count <= len(grid):
        raise ArgumentError(f"got count={count}", f"must be 1..{len(grid)}")
    chosen = np.random.default_rng(seed).permutation(len(grid))[:count]
    return tuple(grid[number] for number in chosen)
