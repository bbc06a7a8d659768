"""Where a frozen network may come from: what `networks.<name>.checkpoint` can name.

| it names | kind | what it is |
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment.frozen import functions, tables
from kdaug_jax.experiment.network import Network, create
from kdaug_jax.models.foreign import safetensors_file, torch_file
from kdaug_jax.models.variables import flatten, mismatches
from kdaug_jax.runtime import checkpoint, model_card, workdir
from kdaug_jax.runtime.digest import sha256_file
from kdaug_jax.types import Info

# Stands for the run's own directory at the front of a checkpoint's path.
WORKDIR = "workdir:"
# Files of an exported directory.
FUNCTION, FUNCTION_CARD = "model.stablehlo", "model.json"

_IMPORT = "python -m kdaug_jax.models.import_weights --arch=NAME --from={path} --to=DIR"


def several(named: str | Sequence[str]) -> tuple[str, ...]:
    """Gives the checkpoints that a config names: a tuple, or a text with commas between them."""
    listed = named.split(",") if isinstance(named, str) else named
    return tuple(one.strip() for one in listed)


def located(named: str | Sequence[str], directory: Path) -> str | tuple[str, ...]:
    """Replaces `workdir:` in front of checkpoints, so that a run may be moved with its teacher.

    Args:
      named: see `several`.
      directory: the run's.

    Returns:
      The same, with paths; one alone as a text.
    """
    paths = tuple(
        str(directory / path.removeprefix(WORKDIR)) if path.startswith(WORKDIR) else path
        for path in several(named)
    )
    return paths if len(paths) > 1 else paths[0]


def absolute(named: str) -> Path:
    """Gives a checkpoint's absolute path."""
    return workdir.place("checkpoint", named)


def build_frozen(where: str, config: Mapping[str, Any], info: Info, dtype: str) -> Network:
    """Builds a frozen network from what its checkpoint is.

    Args:
      where: config path of the network.
      config: its section.
      info: facts of the training split.
      dtype: "float32" or "bfloat16", of the computation.

    Returns:
      The network.

    Raises:
      ConfigError: there is no such thing, or it is of other data.
      CheckpointError: a file is damaged.
    """
    names = several(config["checkpoint"])
    if not all(names):
        raise ConfigError(f"{where}.checkpoint", f"is {config['checkpoint']!r}", "name each once")
    members = tuple(_one(where, config, name, info, dtype) for name in names)
    if len(members) == 1:
        return members[0]
    if any(one.looked_up for one in members):
        raise ConfigError(
            f"{where}.checkpoint", "averages a table of logits",
            "give it a network of its own; a term's teacher=('a', 'b') averages them",
        )
    model = functions.average([one.model for one in members])
    facts = {
        "name": model.name, "mean": (), "std": (), "num_classes": model.num_classes, "options": {},
        "size": info.size, "kind": "several",
    }
    return Network(model, False, names, facts, members=members)


def _one(
    where: str, config: Mapping[str, Any], named: str, info: Info, dtype: str
) -> Network:
    path = absolute(named)
    if path.is_dir() and (path / FUNCTION_CARD).is_file():
        return _function(where, config, path / FUNCTION, info, model_card.read(path / FUNCTION_CARD))
    if (card := model_card.read(path / model_card.CARD) if path.is_dir() else None) is not None:
        return _carded(where, config, named, card, info, dtype)
    if path.is_file():
        kind = _kind_of_file(where, path)
        make = _table if kind == "table" else _function
        return make(where, config, path, info)
    found = workdir.read_network(where, named, config["source"])
    facts = {**found, "kind": "run"}
    _same_name(where, config, named, facts["name"])
    _same_classes(where, facts["num_classes"], info)
    model = create(
        where, config, facts, info.size, num_branches=facts.get("num_branches", 1), dtype=dtype
    )
    return Network(model, False, named, facts)


def _carded(where, config, named, card: model_card.ModelCard, info: Info, dtype: str) -> Network:
    facts = {
        "name": card.arch, "num_classes": card.num_classes, "mean": card.mean, "std": card.std,
        "options": dict(card.options), "size": card.size, "kind": "card",
    }
    _same_name(where, config, named, card.arch)
    _same_classes(where, card.num_classes, info)
    for field in ("mean", "std"):
        own = tuple(config[field])
        if own and not np.allclose(own, facts[field], atol=1e-3):
            raise ConfigError(
                f"{where}.{field}", f"is {own}, but the card of {named} says {facts[field]}",
                "leave it empty, or import the weights with other --mean and --std",
            )
    if not config["trust"]:
        _like_the_data(where, named, card, info)
    return Network(create(where, config, facts, info.size, dtype=dtype), False, named, facts)


def _like_the_data(where: str, named: str, card: model_card.ModelCard, info: Info) -> None:
    """Refuses statistics that leave the data far from mean 0 and deviation 1."""
    shift = np.abs(np.subtract(card.mean, info.mean)) / info.std
    ratio = np.divide(card.std, info.std)
    if shift.max() > 1.0 or ratio.max() > 2.0 or ratio.min() < 0.5:
        raise ConfigError(
            f"{where}.checkpoint",
            f"{named} normalises with mean {card.mean} and std {card.std}, "
            f"the data have {info.mean} and {info.std}",
            f"import it with its own --mean and --std, or set {where}.trust",
        )


def _function(
    where: str, config: Mapping[str, Any], path: Path, info: Info, card: model_card.ModelCard | None = None
) -> Network:
    if card is not None and sha256_file(path) != card.sha256:
        raise CheckpointError(str(path), "is not the file that its card names", "export it again")
    function = functions.read(path)
    model = functions.model(where, function)
    _same_classes(where, model.num_classes, info)
    named = str(path if card is None else path.parent)
    _same_name(where, config, named, card.arch if card else "function")
    facts = {
        "name": "function", "mean": (), "std": (), "num_classes": model.num_classes, "options": {},
        "size": functions.fixed_size(function), "kind": "function",
    }
    return Network(model, False, named, facts)


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
    """Says whether a file is a table of logits or a function; refuses weights without a card."""
    if path.suffix == ".npz" or (zipfile.is_zipfile(path) and not _is_torch(path)):
        return "table"
    if torch_file.looks_like_pickle(path):
        raise ConfigError(
            f"{where}.checkpoint", f"{path} is a pickle of PyTorch, which could run code",
            f"import it: {_IMPORT.format(path=path)}",
        )
    if path.suffix != ".safetensors":
        return "function"
    held = safetensors_file.read(path)[0]
    if {"index", "logits"} <= set(held):
        return "table"
    raise ConfigError(
        f"{where}.checkpoint", f"{path} holds weights, but not of which network",
        f"import them: {_IMPORT.format(path=path)}",
    )


def _is_torch(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False  # whoever reads it as a table will say what is wrong


def _same_name(where: str, config: Mapping[str, Any], named: str, found: str) -> None:
    if config["name"] not in ("", found):
        raise ConfigError(
            f"{where}.name", f"is '{config['name']}' but {named} holds a '{found}'",
            f"write '{found}' or leave it empty",
        )


def _same_classes(where: str, found: int, info: Info) -> None:
    if found != info.num_classes:
        raise ConfigError(
            f"{where}.checkpoint", f"has {found} classes, the data set {info.num_classes}",
            "use a teacher of the same data set",
        )


def load(
    where: str, network: Network, info: Info, say: Callable[[str], None], member: int = 0
) -> dict[str, Any]:
    """Loads a frozen network's variables.

    Args:
      where: config path of the network, for messages.
      network: what is to be loaded.
      info: facts of the training split, for the image size.
      say: told of damaged checkpoints.
      member: which run of a population.

    Returns:
      `{"params", "batch_stats"}` as NumPy arrays, averaged ones where the run kept them.

    Raises:
      CheckpointError: nothing is stored there, or it does not fit.
    """
    if not network.checkpoint:
        raise ConfigError(f"{where}.checkpoint", "is empty", "train that network first")
    kind = network.facts["kind"]
    if kind == "several":
        loaded = {str(number): load(where, one, info, say, member)
                  for number, one in enumerate(network.members)}
        return {part: {name: one[part] for name, one in loaded.items()}
                for part in ("params", "batch_stats")}
    if kind == "function":
        return {"params": {}, "batch_stats": {}}
    if kind == "table":
        return {"params": dict(tables.read(absolute(network.checkpoint))), "batch_stats": {}}
    directory = absolute(network.checkpoint) / "checkpoints"
    wanted = jax.eval_shape(lambda key: network.model.init(key, info.size), jax.random.key(0))
    variables = {}
    for part in ("params", "batch_stats"):
        variables[part] = wanted[part]
        if not jax.tree.leaves(wanted[part]):
            continue
        loaded = checkpoint.load_subtree(directory, _path(network.facts, part, member), say)
        wrong = _misfits(loaded, wanted[part], part)
        if wrong:
            raise CheckpointError(
                str(directory), f"does not fit {where} ({network.model.name}): {wrong}",
                "use the checkpoint of that network",
            )
        variables[part] = loaded
    return variables


def _misfits(loaded: Any, wanted: Any, part: str) -> str:
    """Says which of the stored arrays are missing, extra, or of another shape or type."""
    found, expected = (flatten({part: tree}) for tree in (loaded, wanted))
    types = [
        f"{path} is {found[path].dtype}, not {leaf.dtype}"
        for path, leaf in expected.items()
        if path in found and found[path].dtype != leaf.dtype
    ]
    return mismatches(found, expected) or ", ".join(types[:10])


def _path(facts: Mapping[str, Any], part: str, member: int) -> tuple[str, ...]:
    """Gives the keys below which a part of the variables is stored."""
    if facts["kind"] == "card":
        return (part,)
    root = (str(member), "ema") if facts["averaged"] else (str(member),)
    return (*root, {"params": "params", "batch_stats": "network_state"}[part], facts["network"])
