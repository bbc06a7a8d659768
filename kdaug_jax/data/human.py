"""Human label distributions of a split, such as CIFAR-10H's."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from kdaug_jax.data.sources.arrays import UNREADABLE
from kdaug_jax.errors import DataError
from kdaug_jax.files import expanded, open_file, read_npz, reason


def read_human(file: str | Path, classes: int, rows: int) -> np.ndarray:
    """Reads how often people chose each class.

    Args:
      file: a NumPy file (`.npy`, or `.npz` with one array) of counts or shares `[N,C]`, by position
        in the base split, as CIFAR-10H's `cifar10h-counts.npy` is.
      classes: C of the data.
      rows: how many positions the split needs, at most N.

    Returns:
      `f32[N,C]`, shares; each row sums to 1.

    Raises:
      DataError: the file cannot be read, or does not fit.
    """
    path = expanded("eval.human", file, DataError)
    try:
        with open_file(path, "array") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                loaded = np.lib.format.read_array(file, allow_pickle=False)
            else:
                arrays = list(read_npz(path).values())
                loaded = arrays[0] if len(arrays) == 1 else np.zeros(0)
    except (*UNREADABLE, MemoryError) as error:
        raise DataError(
            "eval.human", f"{path} cannot be read ({reason(error)})", "give a .npy file of numbers"
        ) from None
    if loaded.ndim != 2 or loaded.shape[1] != classes or loaded.dtype.kind not in "iuf":
        raise DataError(
            "eval.human", f"{path} holds {loaded.dtype}{list(loaded.shape)}",
            f"counts or shares [N,{classes}] are wanted",
        )
    if len(loaded) < rows:
        raise DataError(
            "eval.human", f"{path} has {len(loaded):,} rows", f"the split needs {rows:,}"
        )
    counts = loaded.astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    if not np.isfinite(counts).all() or (counts < 0).any() or (total == 0).any():
        raise DataError(
            "eval.human", f"{path} has rows with negative or infinite counts, or with 0 only",
            "give counts of at least 0, not all 0 in a row",
        )
    return (counts / total).astype(np.float32)
