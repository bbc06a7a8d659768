"""The data sources: functions of the text ARGUMENT in `data.source="NAME:ARGUMENT"`.

NAME is a row of `SOURCES`, or `package.module:function` of a user's own; see
docs/examples/source.py.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdaug_jax.data.dataset import Dataset
from kdaug_jax.data.options import ReadOptions
from kdaug_jax.data.sources.argument import exists
from kdaug_jax.data.sources.arrays import arrays, from_arrays, register
from kdaug_jax.data.sources.cifar import cifar10, cifar100
from kdaug_jax.data.sources.cifar_c import cifar10c, cifar100c
from kdaug_jax.data.sources.cinic10 import cinic10
from kdaug_jax.data.sources.digits import digits
from kdaug_jax.data.sources.folder import folder
from kdaug_jax.data.sources.idx import idx
from kdaug_jax.data.sources.imagenet_sets import (
    imageneta,
    imagenetc,
    imagenetr,
    imagenetsketch,
    imagenetv2,
)
from kdaug_jax.data.sources.parquet import parquet
from kdaug_jax.data.sources.svhn import svhn
from kdaug_jax.data.sources.synthetic import synthetic
from kdaug_jax.data.sources.tar import tar
from kdaug_jax.data.sources.tfds import tfds
from kdaug_jax.data.sources.tinyimagenet import tinyimagenet
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.registry import resolve

# Each is called with its argument and `ReadOptions`, sources of users with the argument alone.
SOURCES: dict[str, Callable[[str, ReadOptions], Dataset]] = {
    "arrays": arrays,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar100c": cifar100c,
    "cifar10c": cifar10c,
    "cinic10": cinic10,
    "digits": digits,
    "folder": folder,
    "idx": idx,
    "imageneta": imageneta,
    "imagenetc": imagenetc,
    "imagenetr": imagenetr,
    "imagenetsketch": imagenetsketch,
    "imagenetv2": imagenetv2,
    "parquet": parquet,
    "svhn": svhn,
    "synthetic": synthetic,
    "tar": tar,
    "tfds": tfds,
    "tinyimagenet": tinyimagenet,
}

FORM = "package.module:function:ARGUMENT"


def find_source(text: str) -> tuple[Callable[[str], Any], str]:
    """Returns the function that a `data.source` names, and its argument.

    Args:
      text: `NAME:ARGUMENT` with a row of `SOURCES`, or `package.module:function:ARGUMENT`; the
        argument may hold colons, be empty or be left out.

    Raises:
      ConfigError: the name is unknown, or its module cannot be imported or has no such function.
    """
    name, _, rest = text.partition(":")
    if name in SOURCES:
        return SOURCES[name], rest
    if ":" not in text and exists(text):
        kind = "folder" if Path(text).expanduser().is_dir() else "arrays"
        raise ConfigError(
            "data.source", f"'{text}' is a path without the name of a source",
            f"write {kind}:{text}, or another name before it",
        )
    attribute, _, argument = rest.partition(":")
    identifiers = all(part.isidentifier() for part in (*name.split("."), attribute))
    if not identifiers or not ("." in name or _is_module(name)):
        known = suggest(name, [*SOURCES, FORM])
        raise ConfigError("data.source", f"unknown source '{name}'", known)
    function = resolve("data.source", "source", f"{name}:{attribute}", SOURCES)
    if not callable(function):
        raise ConfigError(
            "data.source", f"{name}:{attribute} is {type(function).__name__}, not a function",
            f"write {FORM}",
        )
    return function, argument


def _is_module(name: str) -> bool:
    """Returns whether a name without a dot is a module, other than Python's own.

    No source lies in the standard library, but its `array` is a near miss of "arrays".
    """
    if name in sys.stdlib_module_names:
        return False
    return name in sys.modules or importlib.util.find_spec(name) is not None


__all__ = ["FORM", "SOURCES", "find_source", "from_arrays", "register"]
