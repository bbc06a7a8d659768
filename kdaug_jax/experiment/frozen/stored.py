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

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment.frozen import functions, tables
from kdaug_jax.experiment.frozen.adapting import adapted, adapted_logits
from kdaug_jax.experiment.frozen.chosen import choose
from kdaug_jax.experiment.frozen.class_names import order_by_name
from kdaug_jax.experiment.frozen.functions import FUNCTION, FUNCTION_CARD
from kdaug_jax.experiment.frozen.places import Place, absolute, checkpoints_of, place_of
from kdaug_jax.experiment.network import Network, create
from kdaug_jax.files import refusals
from kdaug_jax.models.foreign import opened, safetensors_file
from kdaug_jax.models.variables import flatten, mismatches
from kdaug_jax.runtime import checkpoint, model_card, records, workdir
from kdaug_jax.runtime.digest import require_sha256
from kdaug_jax.types import Info

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
    place = place_of(checkpoint, where=f"{where}.checkpoint")
    network = _stored_network(where, config, place, info, dtype)
    order = _order(where, config, network, info)
    probabilities = config["outputs"] == "probabilities"
    facts = {**network.facts, "class_order": list(order), "outputs": config["outputs"]}
    model = adapted(
        network.model, order=order, probabilities=probabilities, branch=facts.get("branch", 0)
    )
    network = network._replace(model=model, facts=facts)
    if network.is_table:
        tables.check_outputs(where, table_of(network, raw=True), probabilities)
        tables.check(where, network.checkpoint, table_of(network), info)
    return network


def _stored_network(
    where: str, config: Mapping[str, Any], place: Place, info: Info, dtype: str
) -> Network:
    path = workdir.place(f"{where}.checkpoint", place.path)
    kind = _kind_of(where, path)
    if kind != "run" and place.chosen:
        raise ConfigError(
            f"{where}.checkpoint", f"{place.path} is one network, not a run of several steps",
            f"write {place.path}",
        )
    _same_file(where, config, path)
    if kind == "function":
        return _function(where, config, path, info)
    if kind == "card":
        card = model_card.read(path / model_card.CARD)
        return _imported(where, config, place.path, card, info, dtype)
    if kind == "table":
        return _table(where, config, path, info)
    facts = records.read_network(where, place.path, config["source"])
    choice = choose(f"{where}.checkpoint", path, place, facts)
    facts |= {
        "kind": "run", "member": choice.member, "branch": choice.branch,
        "step": choice.step if choice.step >= 0 else None, "state": choice.describe(place.path),
    }
    return _of_run(where, config, place.path, facts, info, dtype)


def build_recorded(
    where: str, directory: Path, name: str, info: Info, dtype: str
) -> Network:
    """Returns a network of a run with all of its BatchNorm branches, to be evaluated.

    Args:
      where: config path of the network.
      directory: the working directory of the run.
      name: of the network in that run.
      info: facts of the training split.
      dtype: "float32" or "bfloat16", of the computation.

    Returns:
      The network of the newest checkpoint; `load` takes the member.

    Raises:
      ConfigError: there is no such network, or it was trained on other data.
    """
    facts = {**records.read_network(where, str(directory), name), "kind": "run"}
    section = {"name": "", "mean": (), "std": (), "options": {}, "trainable": False}
    return _of_run(where, section, str(directory), facts, info, dtype)


def _of_run(where, config, directory: str, facts: dict[str, Any], info: Info, dtype) -> Network:
    _same_name(where, config, directory, facts["name"])
    _same_classes(where, facts["num_classes"], info)
    _same_description(where, config, directory, facts)
    model = create(
        where, config, facts, info.size, num_branches=facts.get("num_branches", 1), dtype=dtype
    )
    return Network(model, False, directory, facts)


@refusals(CheckpointError)
def _kind_of(where: str, path: Path) -> str:
    """Returns "run", "card", "function" or "table"."""
    if path.is_dir():
        named = {"function": FUNCTION_CARD, "card": model_card.CARD}
        return next((kind for kind, name in named.items() if (path / name).is_file()), "run")
    return _kind_of_file(where, path) if path.exists() else "run"


def _same_file(where: str, config: Mapping[str, Any], path: Path) -> None:
    """Raises if a config states another SHA-256 than a file has."""
    if not config["sha256"]:
        return
    if not path.is_file():
        raise ConfigError(
            f"{where}.sha256", f"is of a file, and {path} is none", "leave it empty: directories "
            "hold their own checksums",
        )
    require_sha256(f"{where}.sha256", path, config["sha256"])


def class_names(network: Network) -> tuple[str, ...]:
    """Returns the class names stored with a frozen network; empty where there are none.

    Raises:
      ConfigError: a run without its list of class names.
    """
    path, kind = absolute(str(network.checkpoint)), network.facts.get("kind")
    if kind == "run":
        names = records.class_names(path, records.read_run(path)[1])
        if not names:
            raise ConfigError(
                str(path / "classes.json"), "is not there, so the order of the teacher's classes "
                "is not known", "restore it: a list of the class names in JSON",
            )
        return names
    if kind == "card":
        card = model_card.read(path / model_card.CARD)
        return card.class_names if card else ()
    return tuple(network.facts.get("class_names", ()))


def _order(
    where: str, config: Mapping[str, Any], network: Network, info: Info
) -> tuple[int, ...]:
    """Returns the network's number of each class of the data, () where both are the same."""
    if config["class_order"] != "by_name":
        return ()
    names = class_names(network)
    order = order_by_name(names, info.class_names) if names else ()
    if not order:
        what = "its class names are not those of the data" if names else "it has no class names"
        raise ConfigError(
            f"{where}.class_order", f"is 'by_name', but {what}",
            "import it with --class_names=FILE, or leave class_order out",
        )
    return () if order == tuple(range(len(order))) else order


def _imported(
    where, config, checkpoint, card: model_card.ModelCard, info: Info, dtype: str
) -> Network:
    facts = {
        "name": card.arch, "num_classes": card.num_classes, "mean": card.mean, "std": card.std,
        "options": dict(card.options), "size": card.size, "kind": "card",
    }
    _same_name(where, config, checkpoint, card.arch)
    _same_classes(where, card.num_classes, info)
    _same_description(where, config, f"the card of {checkpoint}", facts)
    if not config["trust"]:
        _check_normalisation(where, checkpoint, card, info)
    return Network(create(where, config, facts, info.size, dtype=dtype), False, checkpoint, facts)


def _same_description(
    where: str, config: Mapping[str, Any], holder: str, facts: Mapping[str, Any]
) -> None:
    """Raises ConfigError for options or statistics of a config that a stored network has not."""
    for field in ("mean", "std"):
        given, stored = tuple(config[field]), tuple(facts[field])
        if given and not (len(given) == len(stored) and np.allclose(given, stored, atol=1e-3)):
            raise ConfigError(
                f"{where}.{field}", f"is {given}, but {holder} says {stored}",
                "leave it empty, or import the weights with other --mean and --std",
            )
    options = json.loads(json.dumps(facts["options"]))
    for name, value in dict(config["options"]).items():
        if name not in options or options[name] != json.loads(json.dumps(value)):
            raise ConfigError(
                f"{where}.options", f"has {name}={value!r}, but {holder} says "
                f"{options.get(name, 'nothing of it')!r}", "leave it empty",
            )


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
) -> Network:
    path = path / FUNCTION if path.is_dir() else path
    function, card = functions.read_with_card(path)
    model = functions.model(where, function)
    _same_classes(where, model.num_classes, info)
    _same_name(where, config, str(path), card.arch if card else "function")
    facts = {
        "name": "function", "mean": (), "std": (), "num_classes": model.num_classes, "options": {},
        "size": functions.fixed_size(function), "kind": "function",
        "class_names": list(card.class_names) if card else [],
        "state": card.describe() if card else functions.NO_CARD,
    }
    _same_description(where, config, f"{path}, which normalises images itself,", facts)
    return Network(model, False, str(path), facts)


def _table(where: str, config: Mapping[str, Any], path: Path, info: Info) -> Network:
    logits = tables.read(path)["logits"]
    _same_classes(where, logits.shape[1], info)
    _same_name(where, config, str(path), "table")
    model = tables.model(logits.shape[1], len(logits), logits.dtype)
    facts = {
        "name": "table", "mean": (), "std": (), "num_classes": model.num_classes, "options": {},
        "size": None, "kind": "table", "class_names": list(tables.class_names(path)),
    }
    _same_description(where, config, f"{path}, which holds logits,", facts)
    return Network(model, False, str(path), facts)


def table_of(network: Network, raw: bool = False) -> dict[str, np.ndarray]:
    """Returns the table of a network that is one: `{"index": i32[N], "logits": f[N,C]}`.

    Args:
      network: whose kind is "table".
      raw: whether to return what the file holds, instead of logits in the data's order.
    """
    stored, facts = tables.read(absolute(str(network.checkpoint))), network.facts
    if raw:
        return stored
    logits = adapted_logits(
        stored["logits"], facts["class_order"], facts["outputs"] == "probabilities"
    )
    return {"index": stored["index"], "logits": logits}


def _kind_of_file(where: str, path: Path) -> str:
    """Returns "table" or "function"; raises ConfigError for weights without a card."""
    kind = opened.kind_of(path)
    if kind == "torch":
        raise ConfigError(
            f"{where}.checkpoint", f"{path} is a pickle of PyTorch, which could run code",
            f"import it: {_IMPORT.format(path=path)}",
        )
    if kind == "npz":
        return "table"
    if kind != "safetensors":
        return "function"
    if {"index", "logits"} <= set(safetensors_file.read(path)[0]):
        return "table"
    raise ConfigError(
        f"{where}.checkpoint", f"{path} holds weights, but not the name of their architecture",
        f"import them: {_IMPORT.format(path=path)}",
    )


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
    where: str, network: Network, info: Info, say: Callable[[str], None], member: int | None = None
) -> dict[str, Any]:
    """Returns the variables of a frozen network.

    Args:
      where: config path of the network, for messages.
      network: the network.
      info: facts of the training split, for the image size.
      say: prints a line about each damaged checkpoint.
      member: number of the run in a population; by default the one that its checkpoint names.

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
        return {"params": table_of(network), "batch_stats": {}}
    directory = workdir.place(f"{where}.checkpoint", network.checkpoint) / "checkpoints"
    step = network.facts.get("step")
    if member is None:
        member = network.facts.get("member", 0)
    expected = jax.eval_shape(lambda key: network.model.init(key, info.size), jax.random.key(0))
    variables = {}
    for part in ("params", "batch_stats"):
        variables[part] = expected[part]
        if not jax.tree.leaves(expected[part]):
            continue
        loaded = checkpoint.load_subtree(
            directory, _path(network.facts, part, member), say, step
        )
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
