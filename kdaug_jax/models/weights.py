"""Converts weights in PyTorch's layout to variables of our networks and back, by one rule.

Our modules are named after PyTorch's: a path is split at its dots, and a part that is a number
joins the part before it, so `layer1.0.downsample.0.weight` is `layer1_0/downsample_0/kernel`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdaug_jax.errors import CheckpointError
from kdaug_jax.models.variables import flatten, folded_norms, mismatches, unflatten


def from_torch(state: Mapping[str, np.ndarray], variables_shape: Mapping[str, Any]) -> dict:
    """Returns the variables of a network from arrays in PyTorch's names and layout.

    Convolutions go from O,I,H,W to H,W,I,O, dense layers from out,in to in,out. BatchNorm's
    weight, bias, running_mean and running_var become scale, bias, mean and var, alike in every
    branch. `num_batches_tracked` has no counterpart and is dropped.

    Args:
      state: arrays by PyTorch's names, such as `layer1.0.conv1.weight`.
      variables_shape: `{"params": tree, "batch_stats": tree}` of anything with shape and dtype,
        such as `jax.eval_shape` of `Model.init` returns.

    Returns:
      `{"params": tree, "batch_stats": tree}` of arrays.

    Raises:
      CheckpointError: paths are missing, extra or of another shape; the first ten are listed.
    """
    expected = flatten(variables_shape)
    arrays = rename(state, expected)
    wrong = mismatches(arrays, expected)
    if wrong:
        raise CheckpointError("weights", wrong, "use weights of the same network")
    return unflatten(
        {path: jax.numpy.asarray(a, expected[path].dtype) for path, a in arrays.items()}
    )


def rename(state: Mapping[str, np.ndarray], expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Renames arrays of PyTorch to our paths, in our layout, without copying them.

    Args:
      state: arrays by PyTorch's names.
      expected: shapes by path, which say how many BatchNorm branches there are.

    Returns:
      Arrays by path, such as `params/layer1_0/conv1/kernel`, whether expected or not.
    """
    arrays = dict(_convert(name, np.asarray(state[name]), state) for name in _kept(state))
    return {path: _to_branches(path, array, expected) for path, array in arrays.items()}


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts the variables of a network to PyTorch's names and layout, without copying them.

    The inverse of `from_torch`. Each BatchNorm also gets the `num_batches_tracked` that PyTorch
    keeps, as 0.

    Args:
      variables: `{"params": tree, "batch_stats": tree}` of arrays, of a network with one BatchNorm
        branch; see `variables.take_branch`.

    Returns:
      Arrays by PyTorch's names, as `load_state_dict(strict=True)` takes them.

    Raises:
      CheckpointError: BatchNorm has several branches, or was folded into the convolutions.
    """
    leaves = flatten(variables)
    norms = {_module(path) for path in leaves if path.startswith("batch_stats/")}
    if folded := folded_norms(leaves):
        raise CheckpointError(min(folded), "is a folded BatchNorm", "give the unfolded weights")
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        name, array = torch_name(path), np.asarray(leaf)
        if name in arrays:
            what = f"would be called '{name}' in PyTorch, as another array is"
            raise CheckpointError(path, what, "rename the module")
        # BatchNorm of other libraries has no axis of branches.
        if _module(path) in norms and array.ndim == 2 and path.endswith(_OF_BATCHNORM):
            if len(array) != 1:
                raise CheckpointError(
                    path, f"has {len(array)} BatchNorm branches", "take one of them first"
                )
            array = array[0]
        elif path.endswith("/kernel"):
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        arrays[name] = array
    for norm in sorted(norms):
        arrays[torch_name(f"batch_stats/{norm}/num_batches_tracked")] = np.zeros((), np.int64)
    return arrays


def torch_name(path: str) -> str:
    """Turns `params/layer1_0/conv1/kernel` into `layer1.0.conv1.weight`."""
    parts = [_UNNUMBERED.get(part.split("_")[0], _dotted)(part) for part in
             _module(path).split("/")]
    leaf = path.rpartition("/")[2]
    return ".".join((*parts, _LEAVES.get(leaf, leaf)))


def same_name(name: str) -> str:
    """Returns a name of PyTorch as `torch_name` spells it, whatever precedes its numbers."""
    module, _, leaf = name.rpartition(".")
    return torch_name(f"params/{_path(module)}/{leaf}")


def _dotted(part: str) -> str:
    return re.sub(r"_(?=\d+(_\d+)*$)", ".", part)


_OF_BATCHNORM = ("/scale", "/bias", "/mean", "/var")
# The originals of these modules are not numbered lists, so their names keep the underscores.
_UNNUMBERED = {"unit": str}
_LEAVES = {
    "kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"
}  # fmt: skip


def _module(path: str) -> str:
    """Returns `layer1_0/bn1` of `params/layer1_0/bn1/scale`."""
    return path.partition("/")[2].rpartition("/")[0]


def _kept(state: Mapping[str, np.ndarray]) -> list[str]:
    return [name for name in state if name.rpartition(".")[2] != "num_batches_tracked"]


def _convert(
    name: str, array: np.ndarray, state: Mapping[str, np.ndarray]
) -> tuple[str, np.ndarray]:
    """Returns our path and layout of one array; BatchNorm's get a leading branch axis."""
    module, _, leaf = name.rpartition(".")
    weight = state.get(f"{module}.weight")
    # Only BatchNorm has weights of rank 1.
    if leaf.startswith("running_") or (weight is not None and np.ndim(weight) == 1):
        collection, leaf = {
            "weight": ("params", "scale"),
            "bias": ("params", "bias"),
            "running_mean": ("batch_stats", "mean"),
            "running_var": ("batch_stats", "var"),
        }.get(leaf, ("params", leaf))
        return f"{collection}/{_path(module)}/{leaf}", array[None]
    if leaf == "weight":
        leaf = "kernel"
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return f"params/{_path(module)}/{leaf}", array


def _path(module: str) -> str:
    """Turns `layer1.0.downsample.0` into `layer1_0/downsample_0`."""
    path = ""
    for part in module.split("."):
        path += (("_" if part.isdigit() else "/") if path else "") + part
    return path


def _to_branches(path: str, array: np.ndarray, expected: Mapping[str, Any]) -> np.ndarray:
    """Repeats `[1,C]` for each BatchNorm branch of the network."""
    shape = getattr(expected.get(path), "shape", array.shape)
    of_batch_norm = array.ndim == 2 and not path.endswith("/kernel")
    if of_batch_norm and len(shape) == 1:
        return array[0]
    if of_batch_norm and array.shape[1:] == tuple(shape[1:]):
        return np.broadcast_to(array, shape)
    return array
