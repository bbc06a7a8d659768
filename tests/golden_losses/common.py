"""Reading golden files: layouts, settings, and losses with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# `family(file) -> {key: value}` for every key of the file that is not an input.
Family = Callable[["File"], dict[str, Any]]


class File(Mapping):
    """One golden file; remembers which keys were read, so that the rest must be computed."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays, self.read = dict(arrays), set()

    def __getitem__(self, key: str) -> np.ndarray:
        self.read.add(key)
        array = self.arrays[key]
        if array.dtype == np.int64:
            return array.astype(np.int32)
        return array.astype(np.float32) if array.dtype == np.float64 else array

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def listed(self, name: str) -> list[str]:
        """Names `name_0, name_1, ...` as far as they go."""
        names = []
        while f"{name}_{len(names)}" in self.arrays:
            names.append(f"{name}_{len(names)}")
        return names

    def setting(self, name: str) -> Any:
        """A setting as a plain Python value."""
        self.read.add(f"cfg_{name}")
        return self.arrays[f"cfg_{name}"].item()

    @property
    def results(self) -> list[str]:
        """The keys that are to be computed."""
        skip = self.read | {"family"}
        return [
            key for key in self.arrays
            if key not in skip and not key.startswith("cfg_") and not key.endswith("_f64")
        ] + [
            key for key in self.arrays
            if key.endswith("_f64") and key.removesuffix("_f64") not in self.arrays
        ]

    def expected(self, key: str) -> np.ndarray:
        """The float64 run where the file has one, else the float32 run."""
        return self.arrays[f"{key}_f64" if f"{key}_f64" in self.arrays else key]


def nhwc(array: Any) -> jax.Array:
    """Turns `[B,C,H,W]` into `[B,H,W,C]`; leaves vectors alone."""
    array = jnp.asarray(array)
    return jnp.moveaxis(array, 1, -1) if array.ndim == 4 else array


def differentiate(
    file: File, names: list[str], loss: Callable[..., Any], **others: Any
) -> dict[str, Any]:
    """Returns the loss, its further results, and the gradients by the arrays in `names`.

    Args:
      file: the golden file.
      names: keys of the arrays; feature maps are still in the layout of the file.
      loss: `loss(*arrays, **others) -> value` or `(value, {key: array})`.
      **others: arrays that no gradient is taken by.
    """

    def run(arrays, others):
        result = loss(*(arrays[name] for name in names), **others)
        return result if isinstance(result, tuple) else (result, {})

    arrays = {name: jnp.asarray(file[name]) for name in names}
    (value, more), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(arrays, others)
    return {"loss": value, **more, **{f"grad_{name}": grads[name] for name in names}}
