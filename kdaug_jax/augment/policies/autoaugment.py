"""AutoAugment: one sub-policy an image, each of its ops with a probability of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment.policies import tables
from kdaug_jax.augment.policies.levels import FIXED, SOURCES, Source
from kdaug_jax.augment.policies.policy import (
    IDENTITY,
    Policy,
    Rows,
    below,
    check_squares,
    named,
)
from kdaug_jax.errors import near


class Table(NamedTuple):
    """Sub-policies and the source that reads their levels, a name in `levels.SOURCES`."""

    levels: str
    sub_policies: Sequence[Sequence[tuple[str, float, float | None]]]


TABLES = {
    "cifar10": Table("released", tables.CIFAR10),
    "cifar10_released": Table("released", tables.CIFAR10_RELEASED),
    "svhn": Table("released", tables.SVHN),
    "imagenet": Table("paper", tables.IMAGENET),
    "imagenet_v0": Table("tpu", tables.IMAGENET_V0),
}


def autoaugment(
    policy: str = "cifar10", *, size: tuple[int, int], levels: str | None = None
) -> Policy:
    """Draws one sub-policy uniformly and applies each of its ops with the op's probability.

    Args:
      policy: name in `TABLES`, or the path of a file that ends in `.json`, see `read`.
      size: height and width of the images in pixels.
      levels: name in `levels.SOURCES`, how levels become strengths; None for the policy's own:
        the released code's for CIFAR and SVHN, the paper's for ImageNet, the TPU code's for v0.

    Returns:
      A policy without traced numbers.

    Raises:
      ValueError: (what is wrong, what would be right).

    Source: Cubuk et al. 2019 (AutoAugment); Lim et al. 2019 (Fast AutoAugment) for files.
    """
    if isinstance(policy, str) and policy.endswith(".json"):
        table = read(policy, levels)
    else:
        table = named("policy", policy, TABLES)
    source = named("levels", table.levels if levels is None else levels, SOURCES, policy)
    return _build(policy, table.sub_policies, source, size)


def read(path: str, levels: str | None = None) -> Table:
    """Reads the policy file of a user.

    The file is JSON: `{"levels": NAME, "sub_policies": [SUB_POLICY, ...]}`, and `"source"`, any
    text, if you like. A sub-policy is a list of ops, each `["ShearX", probability, level]`, and
    is drawn as often as any other. Probabilities are 0..1. `levels` names how levels are read:
    `released`, `paper`, `tpu` and `tpu_clean` take whole levels 0..10, `torchvision` 0..9,
    `fast` 0..1 as Fast AutoAugment publishes them; ops without strength take any level or null.
    A bare list of sub-policies, as Fast AutoAugment's archive has it, needs the argument.

    Args:
      path: of the file.
      levels: used in place of the file's own.

    Returns:
      Its table; entries are checked by `autoaugment`.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    content = read_json(path)
    if isinstance(content, list):
        content = {"sub_policies": content}
    if levels is not None:
        content = {**content, "levels": levels} if isinstance(content, dict) else content
    check_keys(path, content, ("levels", "sub_policies"))
    if not isinstance(content["sub_policies"], list):
        raise ValueError(f"{path}: sub_policies is no list", "must be a list of sub-policies")
    return Table(content["levels"], content["sub_policies"])


def read_json(path: str) -> Any:
    """Reads a JSON file.

    Raises:
      ValueError: (what is wrong, with the line; what would be right).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_unrepeated)
    except FileNotFoundError:
        raise ValueError(f"no file {path}", "give the path of a JSON file") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}", "must be a JSON file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text", "must be a JSON file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}", "must be JSON") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}", "must be JSON of its format") from None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return found


def check_keys(path: str, content: Any, needed: Sequence[str]) -> None:
    """Refuses content that is not a mapping of the needed keys, and perhaps `source`.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object", "must be {" + ", ".join(needed) + "}")
    for key in content:
        if key not in (*needed, "source"):
            raise ValueError(f"{path}: unknown key {key!r}", near(key, (*needed, "source")))
    for key in needed:
        if key not in content:
            raise ValueError(f"{path} has no {key!r}", "must hold " + " and ".join(needed))


def _build(where: str, sub_policies: Sequence, source: Source, size) -> Policy:
    if not sub_policies:
        raise ValueError(f"{where} is empty", "must hold at least one sub-policy")
    rows, pairs, probabilities = Rows(), [], []
    for number, sub_policy in enumerate(sub_policies, 1):
        place = f"{where}, sub-policy {number}"
        if not isinstance(sub_policy, list | tuple) or not sub_policy:
            raise ValueError(f"{place} is {sub_policy!r}", "must be a list of ops")
        entries = [
            _entry(f"{place}, op {position}", entry, source, size)
            for position, entry in enumerate(sub_policy, 1)
        ]
        pairs.append([pair for pair, _ in entries])
        probabilities.append([probability for _, probability in entries])
    stages = max(map(len, pairs))
    # Shorter sub-policies end in ops that are never applied.
    chances = np.array([row + [0.0] * (stages - len(row)) for row in probabilities], np.float32)
    index = rows([row + [(IDENTITY, IDENTITY)] * (stages - len(row)) for row in pairs])

    def draw(key: jax.Array, traced: Mapping[str, jax.Array]) -> jax.Array:
        del traced
        sub_policy = below(key, "sub_policy", len(chances))
        sign = below(key, "sign", 2, (stages,))
        uniform = jax.random.uniform(rng.fold(key, "apply"), (stages,))
        applied = uniform < jnp.asarray(chances)[sub_policy]
        return jnp.where(applied, jnp.asarray(index)[sub_policy, jnp.arange(stages), sign], 0)

    return Policy(
        rows.ops, draw, stages, {}, source.variant, source.channels, source.fill,
        source.cutout_fill,
    )


def _entry(where: str, entry: Any, source: Source, size) -> tuple[Any, float]:
    """Gives the two signs of an entry's op, and its probability."""
    if not isinstance(entry, list | tuple) or len(entry) != 3:
        raise ValueError(f"{where} is {entry!r}", "must be [op, probability, level]")
    name, probability, level = entry
    function = named("op", name, source.levels, where)
    where = f"{where} ({name})"
    if not _is_number(probability) or not 0 <= probability <= 1:
        raise ValueError(f"{where}: probability {probability!r}", "must be 0..1")
    if name not in FIXED and name != "Identity":
        kind = "a whole number, " if source.whole else ""
        if not _is_number(level) or not 0 <= level <= source.highest or (
            source.whole and level != int(level)
        ):
            raise ValueError(f"{where}: level {level!r}", f"must be {kind}0..{source.highest}")
    pair = function(level, size)
    check_squares(where, pair, size, "use a lower level or larger images")
    return pair, float(probability)


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)
