"""Reads the `config.json` that timm lays beside a file of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdaug_jax.errors import CheckpointError
from kdaug_jax.files import read_json
from kdaug_jax.models.foreign.safetensors_file import shown

CONFIG = "config.json"

# timm's names of the networks that are here too, and the variant that each is.
_NAMES = (
    (r"tf_(efficientnet_(?:b[0-8]|l2))", r"\1", "tf"),
    (r"(efficientnet_(?:b[0-8]|l2))", r"\1", "timm"),
    (r"(?:tv_)?(resnet(?:18|34))", r"tv_\1", ""),
    (r"(?:tv_)?(resnet(?:50|101|152))", r"tv_\1", "v1.5"),
    (r"(resnet200)", r"\1", "v1.5"),
)
# Arguments of a model that inference does not depend on.
_HARMLESS = ("num_classes", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")


class TimmConfig(NamedTuple):
    """What such a file says of the weights.

    Attributes:
      arch: our name of the network.
      variant: see `layouts.variants_of`; empty for a network of one variant.
      mean, std: of pixels 0..1; empty where not given.
      size: (height, width), or None.
      class_names: empty where not given.
    """

    arch: str
    variant: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None
    class_names: tuple[str, ...]


def read_config(weights: Path) -> TimmConfig | None:
    """Reads the config beside a file of weights.

    Args:
      weights: the file of weights.

    Returns:
      What it says; None where there is none, or one that names no architecture.

    Raises:
      CheckpointError: it cannot be read, or describes a network that does not exist here.
    """
    path = weights.parent / CONFIG
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(path), f"cannot be read ({shown(str(error))})",
            "restore it: it says which network the weights beside it are; or move it away",
        ) from None
    if not isinstance(stored, dict) or not isinstance(stored.get("architecture"), str):
        return None

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(
            str(path), f"says that {weights.name} is {what}",
            "use weights of a network that is here, or --check=FILE.npz after moving the config",
        )

    architecture = stored["architecture"].partition(".")[0]
    facts = {**stored, **_table(stored.get("pretrained_cfg"))}
    known = next(
        (match.expand(ours), variant) if match else None for match, ours, variant in _matches(
            architecture
        )
    )
    if known is None:
        raise refuse(f"'{shown(architecture)}', which is no network here")
    changed = {
        name: value for name, value in _table(stored.get("model_args")).items()
        if name not in _HARMLESS and (name, value) != ("in_chans", 3)
    }
    if stored.get("global_pool", "avg") not in ("avg", ""):
        changed["global_pool"] = stored["global_pool"]
    if changed:
        arguments = ", ".join(f"{name}={value}" for name, value in changed.items())
        raise refuse(f"{shown(architecture)} with {shown(arguments)}, which answers otherwise")
    size = facts.get("input_size")
    names = facts.get("label_names")
    return TimmConfig(
        *known, *(_numbers(facts.get(name)) for name in ("mean", "std")),
        tuple(size[1:]) if _is_size(size) else None,
        tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else (),
    )


def is_unread(weights: Path) -> bool:
    """Returns whether a config lies beside a file of weights that is not of timm's form."""
    return (weights.parent / CONFIG).is_file() and read_config(weights) is None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _matches(architecture: str) -> Any:
    """Yields (match, our name, variant) of the first pattern that fits, or (None, "", "")."""
    for pattern, ours, variant in _NAMES:
        if match := re.fullmatch(pattern, architecture):
            yield match, ours, variant
    yield None, "", ""


def _numbers(values: Any) -> tuple[float, ...]:
    is_list = isinstance(values, list) and len(values) == 3
    return tuple(map(float, values)) if is_list and all(
        type(value) in (int, float) and abs(value) < 1e9 for value in values
    ) else ()


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 3 and all(
        type(side) is int and 0 < side < 1 << 16 for side in size
    )


def conflicts(config: TimmConfig, arch: str, given: Mapping[str, Any]) -> str:
    """Returns in what a config contradicts what a user stated; "" if in nothing.

    Args:
      config: beside the weights.
      arch: our name of the network that was asked for.
      given: "variant", "mean" and "std" as stated, empty where they were not.
    """
    if config.arch != arch:
        return f"says that the weights are {config.arch}, not {arch}"
    for name, value in given.items():
        stored = getattr(config, name)
        alike = value == stored if isinstance(value, str) else (
            len(value) == len(stored)
            and all(abs(a - b) < 1e-3 for a, b in zip(value, stored, strict=True))
        )
        if value and stored and not alike:
            return f"says {name} {stored}, not {value}"
    return ""
