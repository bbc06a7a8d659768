"""Whose names the weights of each network have, and what such weights are usually fed.

Our modules are named after their originals, so `models.weights` needs no table of names. What
differs between files of one network stands here: prefixes of wrappers, and the second spelling of
EfficientNet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.models.foreign.safetensors_file import State


class Layout(NamedTuple):
    """A family of published weights.

    Attributes:
      name: whose names they are.
      mean, std: per-channel statistics, for pixels 0..1, that its code normalises with; empty
        where it has no single ones.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)

# Names of networks (whole) and the layout of their weights; the first that fits counts.
_LAYOUTS: tuple[tuple[str, Layout], ...] = (
    (r"tv_\w+|resnet200", Layout("torchvision", *_IMAGENET)),
    (r"efficientnet_\w+", Layout("timm", *_IMAGENET)),
    (r"wrn_\d+_\d+_faa|shake26_2x\d+d|pyramidnet\w+", Layout("Fast AutoAugment", *_CIFAR)),
    (r"(preact_)?resnet(18|34)_cifar", Layout("pytorch-cifar", *_CIFAR)),
    (r"mobilenetv1", Layout("overhaul-distillation", *_IMAGENET)),
    (r"preresnet\w+", Layout("pytorch-classification", *_CIFAR)),
    (
        r"resnet\d+(x4)?|resnet\d+_cifar(_rd)?|wrn_\d+_\d+|vgg\d+|mobilenetv2|shufflev[12]",
        Layout("RepDistiller", *_CIFAR100),
    ),
)
_DEFAULT = Layout("kdaug_jax")

# Networks of which several exist with equal names and shapes of all arrays, by variant: what a
# variant computes, and the original that has it. The first is that of `models.create`.
_VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    (r"efficientnet_\w+", {
        "tf": "timm's tf_{name}: padding as TensorFlow's, epsilon 1e-3",
        "timm": "timm's {name}: padding alike on both sides, epsilon 1e-5",
        "torchvision": "torchvision's b5 to b7: padding alike on both sides, epsilon 1e-3",
    }),
    (r"tv_resnet(50|101|152)|resnet(200|50_cifar)", {
        "v1.5": "torchvision's: the stride on the 3×3 convolution",
        "v1": "the stride on the first 1×1 convolution, as in Caffe's weights",
    }),
)
# Options under which a network answers otherwise though no array changes its shape.
_FULL_BITS = 32

# Spellings of `--arch` that other libraries use for the same network.
_ALIASES = ((r"tf_(efficientnet_\w+)", r"\1"),)

# What wrappers of modules put before, or into, the names of what they wrap.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
# Counters that such wrappers and BatchNorm keep.
_COUNTERS = ("num_batches_tracked", "n_averaged")

# The second spelling of EfficientNet, which Fast AutoAugment took over: blocks counted through.
_SPELLINGS = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip
_BLOCK_SPELLINGS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
# The first stage does not expand, so its layers have other numbers.
_FIRST_STAGE = {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

# The third spelling of EfficientNet, torchvision's: stages and layers are counted.
_TORCHVISION_ENDS = {
    ("0", "0"): "conv_stem", ("0", "1"): "bn1", ("8", "0"): "conv_head", ("8", "1"): "bn2",
}  # fmt: skip
_TORCHVISION_BLOCK = {
    "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2",
    "2.fc1": "se.conv_reduce", "2.fc2": "se.conv_expand", "3.0": "conv_pwl", "3.1": "bn3",
}  # fmt: skip
_TORCHVISION_FIRST = {
    "0.0": "conv_dw", "0.1": "bn1", "1.fc1": "se.conv_reduce", "1.fc2": "se.conv_expand",
    "2.0": "conv_pw", "2.1": "bn2",
}  # fmt: skip
# Those whose BatchNorm has the epsilon of TensorFlow's weights.
_TORCHVISION_WIDE = r"efficientnet_b[567]"

# Networks of torchvision that are none here, by arrays that no other has.
_ELSEWHERE = {
    "mobilenet_v2": (r"features\.1\.conv\.0\.0\.weight", r"features\.18\.0\.weight"),
    "mobilenet_v3": (r"features\.1\.block\.0\.0\.weight", r"classifier\.3\.weight"),
    "efficientnet_v2": (
        r"features\.1\.0\.block\.0\.0\.weight", r"features\.4\.0\.block\.2\.fc1\.weight",
    ),
    "mnasnet": (r"layers\.0\.weight", r"layers\.8\.0\.layers\.0\.weight"),
}  # fmt: skip


def spelled_variant(arch: str, names: Collection[str] = ()) -> str:
    """Returns the variant that a spelling of a network or of its arrays implies; "" for none."""
    plain = network_name(arch)
    if is_torchvision_efficientnet(names):
        return "torchvision" if re.fullmatch(_TORCHVISION_WIDE, plain) else "timm"
    if arch != plain or "tf" in variants_of(plain) and any(
        name.endswith("_conv_stem.weight") for name in names
    ):
        return "tf"
    return ""


def network_name(arch: str) -> str:
    """Returns our name of a network that another library may spell otherwise."""
    for pattern, ours in _ALIASES:
        arch = re.sub(rf"^{pattern}$", ours, arch)
    return arch


def layout_of(name: str) -> Layout:
    """Returns the layout that the weights of one of our networks have."""
    return next((layout for pattern, layout in _LAYOUTS if re.fullmatch(pattern, name)), _DEFAULT)


def variants_of(name: str) -> dict[str, str]:
    """Returns what each variant of a network computes; `{}` for a network of one variant."""
    for pattern, variants in _VARIANTS:
        if re.fullmatch(pattern, name):
            return {key: text.format(name=name) for key, text in variants.items()}
    return {}


def variant_named(name: str, options: Mapping[str, Any]) -> str:
    """Returns " (variant tf: …)" for a network with variants, "" for others."""
    variants = variants_of(name)
    chosen = options.get("variant", next(iter(variants), ""))
    return f" (variant {chosen}: {variants[chosen]})" if variants else ""


def unlike_original(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with which a network answers otherwise than its original of equal names.

    Args:
      name: of the network.
      options: of the architecture; those that only training or shapes depend on are passed over.
    """
    ours: dict[str, Any] = {}
    if any(width != _FULL_BITS for width in options.get("bits", ())):
        ours["bits"] = tuple(options["bits"])
    if "shakedrop" in name and options.get("drop", 0.5) != 0.5:
        ours["drop"] = options["drop"]
    # EfficientNet's have both variants as originals, which the file names.
    if options.get("variant", "v1.5") == "v1":
        ours["variant"] = "v1"
    return ours


def plain_names(
    state: State, counts: tuple[int, ...] = (), roots: Collection[str] = ()
) -> State:
    """Renames weights to the names that our modules follow.

    Args:
      state: arrays by the names of a file.
      counts: blocks of each stage, of a network whose blocks a file may count through.
      roots: first parts of the names that the network has; another one that all names begin with
        is what some module around it calls it.

    Returns:
      The same arrays without names of wrappers and without their counters or BatchNorm's.
    """
    prefix = _prefix(state, roots)
    named = {
        name.removeprefix(prefix): array for name, array in state.items() if not _is_counter(name)
    }
    without = {_unwrapped(name): array for name, array in named.items()}
    named = without if len(without) == len(named) else named
    if counts and is_torchvision_efficientnet(named):
        named = {_of_torchvision(name): array for name, array in named.items()}
    if counts and "_conv_stem.weight" in named:
        named = {_respelled(name, counts): array for name, array in named.items()}
    return named


def unknown_prefix(state: State, roots: Collection[str]) -> str:
    """Returns the prefix of all names that `plain_names` leaves out; "" for that of a wrapper.

    Args:
      state: arrays by the names of a file.
      roots: see `plain_names`.
    """
    prefix = _prefix(state, roots)
    return "" if set(prefix.split(".")) <= {*_WRAPPERS, ""} else prefix


def _prefix(state: State, roots: Collection[str]) -> str:
    """Returns what all names but counters' begin with, up to the first of `roots`."""
    names, prefix = [name for name in state if not _is_counter(name)], ""
    while len(first := {name.partition(".")[0] for name in names}) == 1 and (
        all("." in name for name in names) and not first & set(roots)
        and (roots or first & set(_WRAPPERS))
    ):
        prefix += first.pop() + "."
        names = [name.partition(".")[2] for name in names]
    return prefix


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def is_torchvision_efficientnet(names: Collection[str]) -> bool:
    """Returns whether names are those of torchvision's EfficientNet, perhaps behind a prefix."""
    # Of its first version: the second has no squeeze-and-excitation in its first stage.
    return any(re.search(r"(^|\.)features\.1\.0\.block\.1\.fc1\.weight$", name) for name in names)


def elsewhere(names: Collection[str]) -> str:
    """Returns which network of torchvision, that is none here, names are of; "" for none.

    Args:
      names: of the arrays of a file.
    """
    if is_torchvision_efficientnet(names):
        return ""
    for network, marks in _ELSEWHERE.items():
        if all(any(re.search(rf"(^|\.){mark}$", name) for name in names) for mark in marks):
            return network
    return ""


def _of_torchvision(name: str) -> str:
    """Returns timm's name of an array of torchvision's EfficientNet."""
    if name.startswith("classifier.1."):
        return name.replace("classifier.1.", "classifier.", 1)
    match = re.fullmatch(r"features\.(\d+)\.(\d+)(?:\.block\.(\d+\.\w+))?\.(\w+)", name)
    if match is None:
        return name
    place, number, layer, leaf = match.groups()
    if layer is None:
        return f"{_TORCHVISION_ENDS.get((place, number), name)}.{leaf}"
    layers = _TORCHVISION_FIRST if place == "1" else _TORCHVISION_BLOCK
    return f"blocks.{int(place) - 1}.{number}.{layers.get(layer, layer)}.{leaf}"


def _unwrapped(name: str) -> str:
    first, *parts = name.split(".")
    return ".".join([first, *(part for part in parts if part not in _WRAPPERS)])


def blocks_by_stage(expected: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Counts the blocks of each stage in paths such as `params/blocks_3_1/conv_pw/kernel`."""
    blocks = {match.groups() for path in expected
             if (match := re.search(r"/blocks_(\d+)_(\d+)/", path))}
    stages = [int(stage) for stage, _ in blocks]
    return tuple(stages.count(stage) for stage in sorted(set(stages)))


def _respelled(name: str, counts: tuple[int, ...]) -> str:
    module, _, leaf = name.rpartition(".")
    if not (match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)):
        return f"{_SPELLINGS.get(module, module)}.{leaf}"
    number, stage, layer = int(match[1]), 0, match[2]
    while stage < len(counts) and number >= counts[stage]:
        number, stage = number - counts[stage], stage + 1
    spellings = _BLOCK_SPELLINGS if stage else _BLOCK_SPELLINGS | _FIRST_STAGE
    return f"blocks.{stage}.{number}.{spellings.get(layer, layer)}.{leaf}"
