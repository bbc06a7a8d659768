"""Operations on the variables of any network: compare their shapes, take one branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from kdaug_jax.errors import ConfigError

_LISTED = 10


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `{"params/conv1/kernel": leaf, ...}` of nested dicts."""
    return traverse_util.flatten_dict(dict(variables), keep_empty_nodes=False, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `{"params": tree, "batch_stats": tree}` of paths, as `flatten` makes them."""
    tree = traverse_util.unflatten_dict(dict(leaves), sep="/")
    return {"params": tree.get("params", {}), "batch_stats": tree.get("batch_stats", {})}


def folded_norms(leaves: Mapping[str, Any]) -> set[str]:
    """Returns the paths, such as `bn1`, of BatchNorms of which only the shift is there."""
    modules = [path.partition("/")[2].rpartition("/")[0] for path in leaves]
    return {
        module for module, path in zip(modules, leaves, strict=True)
        if path.endswith("/shift") and modules.count(module) == 1
    }


def mismatches(leaves: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Describes by path what is missing, extra or of another shape: the first ten, "" if none.

    Args:
      leaves: arrays, or anything with a shape, by path.
      expected: the same for what should be there.

    Returns:
      A phrase for the text of an error.
    """
    expected = dict(sorted(expected.items(), key=lambda item: _is_statistic(item[0])))
    problems = [f"{path} is missing" for path in expected if path not in leaves]
    problems += [f"{path} is extra" for path in leaves if path not in expected]
    problems += [
        f"{path} has shape {tuple(leaf.shape)}, not {tuple(expected[path].shape)}"
        for path, leaf in ((path, leaves[path]) for path in expected if path in leaves)
        if tuple(leaf.shape) != tuple(expected[path].shape)
    ]
    rest = len(problems) - _LISTED
    return ", ".join(problems[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def take_branch(variables: Mapping[str, Any], branch: int) -> dict[str, Any]:
    """Returns the variables of the same network with one BatchNorm branch only.

    Args:
      variables: `{"params", "batch_stats"}` of a network with N branches.
      branch: which one, in 0..N-1.

    Returns:
      `{"params", "batch_stats"}` for a network with `num_branches=1`; all else is shared.

    Raises:
      ConfigError: there is no such branch.
    """
    leaves = flatten(variables)
    norms = {path.split("/", 1)[1].rpartition("/")[0] for path in leaves if _is_statistic(path)}
    count = min((len(leaves[path]) for path in leaves if _is_statistic(path)), default=1)
    if not 0 <= branch < count:
        raise ConfigError("branch", f"is {branch}", f"0..{count - 1} exist")

    def take(path: str, leaf: Any) -> Any:
        of_norm = path.split("/", 1)[1].rpartition("/")[0] in norms
        return leaf[branch : branch + 1] if of_norm else leaf

    return unflatten({path: take(path, leaf) for path, leaf in leaves.items()})


def _is_statistic(path: str) -> bool:
    return path.startswith("batch_stats/")
