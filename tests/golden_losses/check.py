"""Compares the package's losses, metrics and quantisers with a folder of golden files.

Each file of the folder names its `family` and holds inputs, settings (`cfg_*`) and what a reference
computed from them, with gradients (`grad_*`). Every key that differs is
printed. Files of unknown families fail.

Values are compared with rtol 2e-5 and atol 1e-6, gradients with rtol 1e-3 and atol 1e-5 of the
largest, whole numbers exactly, with the reference's float64 run where the file has one. Matrices on
the way to a loss may differ by 1e-5 of their largest number: float32 runs of the reference do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.golden_losses import FAMILIES
from tests.golden_losses.common import File


def differs(key: str, computed: np.ndarray, expected: np.ndarray) -> str:
    """Returns how a value differs from the reference; empty when it does not."""
    computed, expected = np.asarray(computed), np.asarray(expected)
    if computed.shape != expected.shape:
        return f"has shape {computed.shape} instead of {expected.shape}"
    if computed.dtype.kind in "iub":
        wrong = int(np.sum(computed != expected))
        return f"{wrong} of {computed.size} differ" if wrong else ""
    rtol, atol = 2e-5, 1e-6
    if key.startswith("grad_"):
        rtol, atol = 1e-3, 1e-5 * float(np.abs(expected).max(initial=0.0))
    elif expected.ndim > 1:
        atol = max(atol, 1e-5 * float(np.abs(expected).max(initial=0.0)))
    error = np.abs(computed.astype(np.float64) - expected)
    # Written so that NaN differs.
    wrong = ~(error <= atol + rtol * np.abs(expected))
    if not wrong.any():
        return ""
    return f"{int(wrong.sum())} of {wrong.size} differ, the largest by {error[wrong].max():.3g}"


def check_file(path: Path) -> list[str]:
    """Returns a line for each difference of a file."""
    with np.load(path) as stored:
        file = File({key: stored[key] for key in stored.files})
    name = str(file.arrays.get("family", "(none)"))
    if name not in FAMILIES:
        return [f"unknown family '{name}'"]
    try:
        computed = FAMILIES[name](file)
    except Exception as error:  # one broken file must not hide the others
        return [f"{type(error).__name__}: {error}"]
    lines = []
    for key in file.results:
        what = "is not computed"
        if key.removesuffix("_f64") in computed:
            what = differs(key, computed[key.removesuffix("_f64")], file.expected(key))
        if what:
            lines.append(f"{key}: {what}")
    return lines if file.results else ["holds nothing to compare"]


def check(directory: str | Path) -> tuple[int, int]:
    """Checks every `.npz` file of a folder.

    Args:
      directory: the folder.

    Returns:
      How many files passed and how many failed.
    """
    passed = failed = 0
    for path in sorted(Path(directory).glob("*.npz")):
        lines = check_file(path)
        for line in lines:
            print(f"{path.name}: {line}", flush=True)
        passed, failed = passed + (not lines), failed + bool(lines)
    return passed, failed
