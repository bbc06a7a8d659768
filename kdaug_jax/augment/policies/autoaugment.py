"""AutoAugment: one sub-policy an image, each of its ops with a probability of its own."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment.ops.table import IDENTITY
from kdaug_jax.augment.policies import files, published, tables
from kdaug_jax.augment.policies.files import check_keys, with_line
from kdaug_jax.augment.policies.levels import FIXED, SOURCES, Source, op_levels
from kdaug_jax.augment.policies.policy import (
    Policy,
    Rows,
    below,
    check_squares,
    named,
)
from kdaug_jax.errors import ArgumentError


class Table(NamedTuple):
    """Sub-policies and the source that reads their levels, a name in `levels.SOURCES`.

    `way` is where the sub-policies are in the JSON that they come from, see `files.with_line`; None
    for another form.
    """

    levels: str
    sub_policies: Sequence[Sequence[tuple[str, float, float | None]]]
    way: tuple[str, ...] | None = ()


TABLES = {
    "cifar10": Table("released", tables.CIFAR10),
    "cifar10_released": Table("released", tables.CIFAR10_RELEASED),
    "svhn": Table("released", tables.SVHN),
    "imagenet": Table("paper", tables.IMAGENET),
    "imagenet_v0": Table("tpu", tables.IMAGENET_V0),
}


def autoaugment(
    policy: str = "cifar10", *, size: tuple[int, int], levels: str | None = None,
    table: str = "",
) -> Policy:
    """Draws one sub-policy uniformly and applies each of its ops with the op's probability.

    Args:
      policy: name in `TABLES`, or the path of a file that ends in `.json` or `.py`, see `read`.
      size: height and width of the images in pixels.
      levels: name in `levels.SOURCES`, how levels become strengths; None for the policy's own:
        the released code's for CIFAR and SVHN, the paper's for ImageNet, the TPU code's for v0.
      table: of a file of Python, the function that returns the sub-policies.

    Returns:
      A policy without traced hyper-parameters.

    Raises:
      ArgumentError: what is wrong, and what to write.

    Source: Cubuk et al. 2019 (AutoAugment); Lim et al. 2019 (Fast AutoAugment) for files.
    """
    add_line = _nowhere
    if isinstance(policy, str) and policy.endswith((".json", ".py")):
        chosen = read(policy, levels, table)
        if chosen.way is not None:
            add_line = functools.partial(with_line, policy, *chosen.way)
    elif table:
        raise ArgumentError(f"table '{table}' of policy '{policy}'", "give the path of a .py file")
    else:
        chosen = named("policy", policy, TABLES)
    source = named("levels", chosen.levels if levels is None else levels, SOURCES, policy)
    return _build(policy, chosen.sub_policies, source, size, add_line)


def _nowhere(*steps: int) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def read(path: str, levels: str | None = None, table: str = "") -> Table:
    """Reads the policy file of a user.

    The file is JSON: `{"levels": NAME, "sub_policies": [SUB_POLICY, ...]}`, and `"source"`, any
    text, if you like. A sub-policy is a list of ops, each `["ShearX", probability, level]`, and
    is drawn as often as any other. Probabilities are 0..1. `levels` names how levels are read:
    `released`, `paper`, `tpu` and `tpu_clean` take whole levels 0..10, `torchvision` 0..9,
    `fast` 0..1 as Fast AutoAugment publishes them; ops without strength take any level or null.
    A bare list of sub-policies needs the argument. So may the file be Fast AutoAugment's
    `archive.py`, which is not executed: `table` names its function, such as `fa_reduced_cifar10`,
    and levels are `fast` unless given.

    Args:
      path: of the file.
      levels: used in place of the file's own.
      table: of a file of Python, the function that returns the sub-policies.

    Returns:
      Its table; entries are checked by `autoaugment`.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    text, way = files.read(path), ("sub_policies",)
    if not text.lstrip().startswith(("{", "[")) and path.endswith(".py"):
        return Table(levels or "fast", published.archive(path, text, table), None)
    if table:
        raise ArgumentError(f"{path}: table '{table}' of JSON", "leave table out")
    content = files.parse(path, text)
    if isinstance(content, list):
        content, way = {"sub_policies": content}, ()
    if levels is not None:
        content = {**content, "levels": levels} if isinstance(content, dict) else content
    check_keys(path, content, ("levels", "sub_policies"))
    if not isinstance(content["sub_policies"], list):
        raise ArgumentError(f"{path}: sub_policies is no list", "must be a list of sub-policies")
    return Table(content["levels"], content["sub_policies"], way)


def _build(
    where: str, sub_policies: Sequence, source: Source, size: tuple[int, int],
    add_line: Callable[..., contextlib.AbstractContextManager[None]],
) -> Policy:
    if not sub_policies:
        raise ArgumentError(f"{where} is empty", "must hold at least one sub-policy")
    rows, pairs, probabilities = Rows(), [], []
    for number, sub_policy in enumerate(sub_policies):
        place, entries = f"{where}, sub-policy {number + 1}", []
        if not isinstance(sub_policy, list | tuple) or not sub_policy:
            with add_line(number):
                raise ArgumentError(f"{place} is {sub_policy!r}", "must be a list of ops")
        for position, entry in enumerate(sub_policy):
            with add_line(number, position):
                entries.append(_entry(f"{place}, op {position + 1}", entry, source, size))
        pairs.append([pair for pair, _ in entries])
        probabilities.append([probability for _, probability in entries])
    stages = max(map(len, pairs))
    # Shorter sub-policies end in ops that are never applied.
    chances = np.array([row + [0.0] * (stages - len(row)) for row in probabilities], np.float32)
    index = rows([row + [(IDENTITY, IDENTITY)] * (stages - len(row)) for row in pairs])

    def draw(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        del hparams
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
    """Returns the two signs of an entry's op, and its probability."""
    if not isinstance(entry, list | tuple) or len(entry) != 3:
        raise ArgumentError(f"{where} is {entry!r}", "must be [op, probability, level]")
    name, probability, level = entry
    function = op_levels(name, source.levels, source.highest, size, where)
    where = f"{where} ({name})"
    if not _is_number(probability) or not 0 <= probability <= 1:
        raise ArgumentError(f"{where}: probability {probability!r}", "must be 0..1")
    if name not in FIXED and name != "Identity":
        kind = "a whole number, " if source.whole else ""
        if not _is_number(level) or not 0 <= level <= source.highest or (
            source.whole and level != int(level)
        ):
            raise ArgumentError(f"{where}: level {level!r}", f"must be {kind}0..{source.highest}")
    pair = function(level, size)
    check_squares(where, pair, size, "use a lower level or larger images")
    return pair, float(probability)


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)
