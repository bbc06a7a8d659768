"""Fits weights by their names elsewhere into the variables of one of our networks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.models.foreign import opened, safetensors_file, torch_file
from kdaug_jax.models.foreign.layouts import blocks_by_stage, layout_of, plain_names, unknown_prefix
from kdaug_jax.models.foreign.safetensors_file import State, below, shown
from kdaug_jax.models.variables import flatten, mismatches, unflatten
from kdaug_jax.models.weights import rename, same_name, to_torch
from kdaug_jax.runtime.console import write_lines

# Of parameters, and of running means and variances, of pixels 0..255 and their squares.
_LARGEST_WEIGHT, _LARGEST_STATISTIC = 1e6, 1e15
# Types that `cast` converts to float32.
_FLOATS = ("float16", "bfloat16", "float64")


def read_state(
    path: Path, key: str = "", trusted: bool = False
) -> tuple[State, dict[str, str]]:
    """Reads weights by name from a safetensors file or one of PyTorch.

    Args:
      path: the file.
      key: where they lie inside the file; see `torch_file.read`.
      trusted: whether the bytes are known to be right, so that no checksum is needed.

    Returns:
      Arrays by the names of the file, and its metadata.

    Raises:
      CheckpointError: it cannot be read, is not of the kind that its suffix names, or holds no
        such entry.
    """
    if path.is_dir() or not path.exists():
        raise CheckpointError(str(path), "is not a file", "name a .safetensors or .pth file")
    kind = opened.kind_of(path)
    if kind == "npz":
        raise CheckpointError(
            str(path), "holds arrays of NumPy, not weights of PyTorch",
            "name a .safetensors or .pth file",
        )
    if kind == "torch":
        if path.suffix == ".safetensors":
            raise CheckpointError(
                str(path), "is a pickle of PyTorch, not a safetensors file",
                "rename it to .pth",
            )
        return torch_file.read(path, key, trusted), {}
    state, metadata = safetensors_file.read(path)
    if key and not safetensors_file.below(state, key):
        first = ", ".join(dict.fromkeys(shown(name.partition(".")[0]) for name in state))
        raise CheckpointError(
            str(path), f"holds no weights under '{key}' (its names begin with {first[:200]})",
            "name another --entry, or leave it out",
        )
    return (safetensors_file.below(state, key) if key else state), metadata


def convert(
    state: Mapping[str, np.ndarray],
    where: str,
    arch: str,
    *,
    num_classes: int = 0,
    size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    cast: bool = False,
    say: Callable[[str], None] = write_lines,
) -> tuple[dict[str, Any], int]:
    """Returns the variables of a network from weights by their names elsewhere.

    Args:
      state: arrays by name.
      where: the file's name, for messages.
      arch: the network, see `kdaug_jax.models.names()`.
      num_classes: what the classifier must have; 0 for any number.
      size: (height, width) of the images; by default the network's usual one.
      options: of the architecture.
      cast: whether other floating types may become float32.
      say: prints a line if a prefix of all names is left out, or if the names hold the network
        several times, as raw and averaged weights.

    Returns:
      `{"params", "batch_stats"}` and the number of classes.

    Raises:
      ConfigError: there is no such network.
      CheckpointError: names, shapes or types are not the network's, listed by name, or hold it
        several times, of which none is told to be an average of another; or a value is
        not finite, or a variance negative.
    """
    narrow, wide = (_shapes(arch, count, size, options or {}) for count in (1, 2))
    expected, of_classifier = _as_theirs(narrow), _as_theirs(wide)
    roots = {name.partition(".")[0] for name in expected} | {"_conv_stem", "_blocks", "_fc"}
    counts = blocks_by_stage(narrow)
    named = plain_names(dict(state), counts, roots)
    if prefix := unknown_prefix(state, roots):
        say(f"{where}: all names begin with '{shown(prefix)}', which is left out")
    sets = _sets(named, counts, roots, expected)
    if len(sets) > 1:
        taken, *others = sorted(sets, key=_is_averaged)
        if not all(map(_is_averaged, others)):
            raise CheckpointError(
                where, f"holds the network {len(sets)} times, under "
                + " and ".join(f"'{shown(name)}'" for name in sets if name),
                f"say which one: --entry={shown(others[0])}",
            )
        say(f"{where}: holds the network {len(sets)} times; the weights "
            + (f"of '{shown(taken)}'" if taken else "without a prefix") + " are taken, and not "
            + " nor ".join(f"those of --entry={shown(other)}" for other in others))
        named = sets[taken]
    arrays = _spelled_alike(where, named)
    count = _classes(arrays, expected, of_classifier)
    if num_classes and count not in (0, num_classes):
        raise CheckpointError(
            where, f"its classifier has {count} classes, not {num_classes}",
            f"--classes={count}, or weights of the right data set",
        )
    width = num_classes or count or 1
    expected = {
        name: np.broadcast_to(np.float32(0), [
            width if a != b else a
            for a, b in zip(array.shape, of_classifier[name].shape, strict=True)
        ])
        for name, array in expected.items()
    }
    wrong = mismatches(arrays, expected)
    if wrong and len(sets) == 1 and "" not in sets:
        (part,) = sets
        raise CheckpointError(
            where, f"does not fit {arch}: {wrong}", f"--entry={shown(part)}, below which all of "
            f"{arch} lies, leaves the others out",
        )
    if wrong:
        layout = layout_of(arch).name
        extra = [name for name in arrays if name not in expected]
        if extra and f"{extra[0]} is extra" not in wrong:
            wrong += f"; its own names are {', '.join(extra[:5])}" + ", …" * (len(extra) > 5)
        raise CheckpointError(
            where, f"does not fit {arch}: {wrong}",
            f"use weights of that network in the layout of {layout}, or another --arch",
        )
    converted = {name: _float32(where, name, array, cast) for name, array in arrays.items()}
    return unflatten(rename(converted, narrow)), width


def _is_averaged(name: str) -> bool:
    return "ema" in name or "aver" in name


def _sets(
    named: State, counts: tuple[int, ...], roots: Collection[str], expected: Mapping[str, Any]
) -> dict[str, State]:
    """Returns the parts of a file that each hold all of a network, by what their names begin with.

    Args:
      named: arrays by name.
      counts: see `plain_names`.
      roots: see `plain_names`.
      expected: arrays of the network, by the names that it gives them.
    """
    firsts = dict.fromkeys(name.partition(".")[0] for name in named)
    bare = {name: array for name, array in named.items() if name.partition(".")[0] in roots}
    parts = {"": bare} | {
        first: plain_names(below(named, first), counts, roots)
        for first in firsts if first not in roots
    }
    return {
        first: part for first, part in parts.items()
        if expected.keys() <= {same_name(name) for name in part}
    }


def _spelled_alike(where: str, named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames each array to the one name that our modules know it by."""
    arrays: dict[str, np.ndarray] = {}
    for name, array in named.items():
        spelled = same_name(name)
        if spelled in arrays:
            what = f"has two arrays that mean '{shown(spelled)}'"
            raise CheckpointError(where, what, "keep one of them")
        arrays[spelled] = array
    # What is not printable may be in a name, and then it is an extra one.
    return {shown(name): array for name, array in arrays.items()}


def _shapes(
    arch: str, num_classes: int, size: tuple[int, int] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        # Shapes do not depend on the statistics.
        model = models.create(arch, num_classes, normalize="imagenet", **options)
        side = model.native_size
        return flatten(
            jax.eval_shape(lambda key: model.init(key, size or (side, side)), jax.random.key(0))
        )
    except ConfigError as error:
        flags = {"name": "--arch", "image": "--size", "options": "--options"}
        where = flags.get(error.where, "--options")
        raise ConfigError(where, error.what, error.remedy) from None


def _classes(
    arrays: Mapping[str, Any], narrow: Mapping[str, Any], wide: Mapping[str, Any]
) -> int:
    """Returns the number of classes of the classifier in a file; 0 if it does not show."""
    for name, array in narrow.items():
        axes = [axis for axis, pair in enumerate(zip(array.shape, wide[name].shape, strict=True))
                if pair[0] != pair[1]]
        if axes and name in arrays and arrays[name].ndim == array.ndim:
            return arrays[name].shape[axes[0]]
    return 0


def _as_theirs(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns shapes by the names and in the layout of PyTorch, for messages in its terms."""
    bare = unflatten({
        path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in leaves.items()
    })
    renamed = to_torch(bare)
    return {name: array for name, array in renamed.items()
            if not name.endswith("num_batches_tracked")}


def _float32(where: str, name: str, array: np.ndarray, cast: bool) -> np.ndarray:
    if array.dtype != np.float32:
        if not cast or array.dtype.name not in _FLOATS:
            raise CheckpointError(
                where, f"'{name}' is {array.dtype}, not float32",
                "--cast turns it into float32" if array.dtype.name in _FLOATS
                else "save float32 weights",
            )
        with np.errstate(over="ignore"):  # what is too large is refused below
            array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise CheckpointError(
            where, f"'{name}' holds values that are not finite", "use weights that are whole"
        )
    if wrong := _beyond_sense(name, array):
        raise CheckpointError(where, f"'{name}' {wrong}", "copy the file again: it looks damaged")
    if name.endswith(".running_var") and (array < 0.0).any():
        raise CheckpointError(
            where, f"'{name}' holds variances below 0", "use weights that are whole"
        )
    return array


def _beyond_sense(name: str, array: np.ndarray) -> str:
    """Returns what is wrong with the size of weights; "" for what a network may have learned."""
    if not array.size:
        return ""
    sizes = np.abs(array)
    largest = float(sizes.max())
    if largest > (_LARGEST_STATISTIC if ".running_" in name else _LARGEST_WEIGHT):
        return f"holds a value of {largest:.3g}, beyond any network's"
    # A flipped bit of an exponent stands alone: the others of a kernel are of like size.
    if array.ndim > 1 and array.size > 64 and largest > 10.0:
        others = np.sort(sizes, axis=None)[:-1].astype(np.float64)
        if largest > 1e4 * np.sqrt((others**2).mean()):
            return f"holds a value of {largest:.3g} among others of size {others[-1]:.3g}"
    return ""
