"""Loads frozen networks: what `networks.<name>.checkpoint` can name.

| checkpoint | kind | network |
|---|---|---|
| the working directory of a run | run | one of the networks that were trained there |
| a teacher directory, see `models.import_weights` | card | weights from elsewhere |
| a directory of `deploy.export`, or a file of `jax.export` | function | any function of images |
| a .npz or .safetensors of `index` and `logits` | table | logits that were computed elsewhere |
| several of these but tables, as a tuple or joined by commas | several | the mean of their \
probabilities |
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment.frozen import functions, tables
from kdaug_jax.experiment.frozen.places import absolute, checkpoints_of
from kdaug_jax.experiment.network import Network, create
from kdaug_jax.models.foreign import safetensors_file, torch_file
from kdaug_jax.models.variables import flatten, mismatches
from kdaug_jax.runtime import checkpoint, model_card, workdir
from kdaug_jax.runtime.digest import sha256_file
from kdaug_jax.types import Info

# Files of an exported directory.
FUNCTION, FUNCTION_CARD = "model.stablehlo", "model.json"

_IMPORT = "python -m kdaug_jax.models.import_weights --arch=NAME --from={path} --to=DIR"


def build_frozen(where: str, config: Mapping[str, Any], info: Info, dtype: str) -> Network:
    """Returns the frozen network that a checkpoint holds.

    Args:
      where: config path of the network.
      config: its section.
      info: facts of the training split.
      dtype: "float32" or "bfloat16", of the computation.

    Raises:
      ConfigError: nothing is there, or it was trained on other data.
      CheckpointError: a file is damaged.
    """
    paths = checkpoints_of(config["checkpoint"])
    if not all(paths):
        raise ConfigError(
            f"{where}.checkpoint", f"is {config['checkpoint']!r}", "write paths between the commas"
        )
    members = tuple(_build_member(where, config, path, info, dtype) for path in paths)
    if len(members) == 1:
        return members[0]
    if any(member.is_table for member in members):
        raise ConfigError(
            f"{where}.checkpoint", "averages a table of logits",
            "give it a network of its own; a term's teacher=('a', 'b') averages them",
        )
    model = functions.average([member.model for member in members])
    facts = {
        "name": model.name, "mean": (), "std": (), "num_classes": model.num_classes, "options": {},
        "size": info.size, "kind": "several",
    }
    return Network(model, False, paths, facts, members=members)


def _build_member(
    where: str, config: Mapping[str, Any], checkpoint: str, info: Info, dtype: str
) -> Network:
    path = absolute(checkpoint)
    if path.is_dir() and (path / FUNCTION_CARD).is_file():
        card = model_card.read(path / FUNCTION_CARD)
        return _function(where, config, path / FUNCTION, info, card)
    if (card := model_card.read(path / model_card.CARD) if path.is_dir() else None) is not None:
        return _imported(where, config, checkpoint, card, info, dtype)
    if path.is_file():
        kind = _kind_of_file(where, path)
        return (_table if kind == "table" else _function)(where, config, path, info)
    facts = {**workdir.read_network(where, checkpoint, config["source"]), "kind": "run"}
    _same_name(where, config, checkpoint, facts["name"])
    _same_classes(where, facts["num_classes"], info)
    model = create(
        where, config, facts, info.size, num_branches=facts.get("num_branches", 1), dtype=dtype
    )
    return Network(model, False, checkpoint, facts)


def _imported(
    where, config, checkpoint, card: model_card.ModelCard, info: Info, dtype: str
) -> Network:
    facts = {
        "name": card.arch, "num_classes": card.num_classes, "mean": card.mean, "std": card.std,
        "options": dict(card.options), "size": card.size, "kind": "card",
    }
    _same_name(where, config, checkpoint, card.arch)
    _same_classes(where, card.num_classes, info)
    for field in ("mean", "std"):
        given = tuple(config[field])
        if given and not np.allclose(given, facts[field], atol=1e-3):
            raise ConfigError(
                f"{where}.{field}", f"is {given}, but the card of {checkpoint} says {facts[field]}",
                "leave it empty, or import the weights with other --mean and --std",
            )
    if not config["trust"]:
        _check_normalisation(where, checkpoint, card, info)
    return Network(create(where, config, facts, info.size, dtype=dtype), False, checkpoint, facts)


def _check_normalisation(
    where: str, checkpoint: str, card: model_card.ModelCard, info: Info
) -> None:
    """Raises ConfigError if normalised data are far from mean 0 and deviation 1."""
    shift = np.abs(np.subtract(card.mean, info.mean)) / info.std
    ratio = np.divide(card.std, info.std)
    if shift.max() > 1.0 or ratio.max() > 2.0 or ratio.min() < 0.5:
        raise ConfigError(
            f"{where}.checkpoint",
            f"{checkpoint} normalises with mean {card.mean} and std {card.std}, "
            f"the data have {info.mean} and {info.std}",
            f"import it with its own --mean and --std, or set {where}.trust",
        )


def _function(
    where: str,
    config: Mapping[str, Any],
    path: Path,
    info: Info,
    card: model_card.ModelCard | None = None,
) -> Network:
    if card is not None and sha256_file(path) != card.sha256:
        raise CheckpointError(str(path), "is not the file that its card names", "export it again")
    function = functions.read(path)
    model = functions.model(where, function)
    _same_classes(where, model.num_classes, info)
    checkpoint = str(path if card is None else path.parent)
    _same_name(where, config, checkpoint, card.arch if card else "function")
    facts = {
        "name": "function", "mean": (), "std": (), "num_classes": model.num_classes, "options": {},
        "size": functions.fixed_size(function), "kind": "function",
    }
    return Network(model, False, checkpoint, facts)


def _table(where: str, config: Mapping[str, Any], path: Path, info: Info) -> Network:
    logits = tables.read(path)["logits"]
    _same_classes(where, logits.shape[1], info)
    _same_name(where, config, str(path), "table")
    model = tables.model(logits.shape[1], len(logits), logits.dtype)
    facts = {
        "name": "table", "mean": (), "std": (), "num_classes": model.num_classes, "options": {},
        "size": None, "kind": "table",
    }
    tables.check(where, path, info)
    return Network(model, False, str(path), facts)


def _kind_of_file(where: str, path: Path) -> str:
    """Returns "table" or "function"; raises ConfigError for weights without a card."""
    if path.suffix == ".npz" or (zipfile.is_zipfile(path) and not _is_torch(path)):
        return "table"
    if torch_file.looks_like_pickle(path):
        raise ConfigError(
            f"{where}.checkpoint", f"{path} is a pickle of PyTorch, which could run code",
            f"import it: {_IMPORT.format(path=path)}",
        )
    if path.suffix != ".safetensors":
        return "function"
    if {"index", "logits"} <= set(safetensors_file.read(path)[0]):
        return "table"
    raise ConfigError(
        f"{where}.checkpoint", f"{path} holds weights, but not the name of their architecture",
        f"import them: {_IMPORT.format(path=path)}",
    )


def _is_torch(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False  # reading it as a table raises the error


def _same_name(where: str, config: Mapping[str, Any], checkpoint: str, stored: str) -> None:
    if config["name"] not in ("", stored):
        raise ConfigError(
            f"{where}.name", f"is '{config['name']}' but {checkpoint} holds a '{stored}'",
            f"write '{stored}' or leave it empty",
        )


def _same_classes(where: str, num_classes: int, info: Info) -> None:
    if num_classes != info.num_classes:
        raise ConfigError(
            f"{where}.checkpoint", f"has {num_classes} classes, the data set {info.num_classes}",
            "use a teacher of the same data set",
        )


def load(
    where: str, network: Network, info: Info, say: Callable[[str], None], member: int = 0
) -> dict[str, Any]:
    """Returns the variables of a frozen network.

    Args:
      where: config path of the network, for messages.
      network: the network.
      info: facts of the training split, for the image size.
      say: prints a line about each damaged checkpoint.
      member: number of the run in a population.

    Returns:
      `{"params", "batch_stats"}` as NumPy arrays; the averaged weights if the run kept them.

    Raises:
      CheckpointError: nothing is stored there, or it does not fit.
    """
    if not network.checkpoint:
        raise ConfigError(f"{where}.checkpoint", "is empty", "train that network first")
    kind = network.facts["kind"]
    if kind == "several":
        members = {
            str(number): load(where, averaged, info, say, member)
            for number, averaged in enumerate(network.members)
        }
        return {
            part: {name: variables[part] for name, variables in members.items()}
            for part in ("params", "batch_stats")
        }
    if kind == "function":
        return {"params": {}, "batch_stats": {}}
    if kind == "table":
        return {"params": dict(tables.read(absolute(network.checkpoint))), "batch_stats": {}}
    directory = absolute(network.checkpoint) / "checkpoints"
    expected = jax.eval_shape(lambda key: network.model.init(key, info.size), jax.random.key(0))
    variables = {}
    for part in ("params", "batch_stats"):
        variables[part] = expected[part]
        if not jax.tree.leaves(expected[part]):
            continue
        loaded = checkpoint.load_subtree(directory, _path(network.facts, part, member), say)
        wrong = _mismatches(loaded, expected[part], part)
        if wrong:
            raise CheckpointError(
                str(directory), f"does not fit {where} ({network.model.name}): {wrong}",
                "use the checkpoint of that network",
            )
        variables[part] = loaded
    return variables


def _mismatches(loaded: Any, expected: Any, part: str) -> str:
    """Lists the stored arrays that are missing, extra, or of another shape or type."""
    arrays, leaves = flatten({part: loaded}), flatten({part: expected})
    types = [
        f"{path} is {arrays[path].dtype}, not {leaf.dtype}"
        for path, leaf in leaves.items()
        if path in arrays and arrays[path].dtype != leaf.dtype
    ]
    return mismatches(arrays, leaves) or ", ".join(types[:10])


def _path(facts: Mapping[str, Any], part: str, member: int) -> tuple[str, ...]:
    """Returns the keys below which a part of the variables is stored."""
    if facts["kind"] == "card":
        return (part,)
    root = (str(member), "ema") if facts["averaged"] else (str(member),)
    return (*root, {"params": "params", "batch_stats": "network_state"}[part], facts["network"])
