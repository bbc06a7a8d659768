"""Imports weights from elsewhere as a teacher: `python -m kdaug_jax.models.import_weights`.

    python -m kdaug_jax.models.import_weights --arch=tv_resnet34 --from=FILE.safetensors --to=DIR

The file is safetensors, or one that PyTorch's `save` wrote (`.pth`; read with weights_only=True, so
that nothing in it is run; needs PyTorch). DIR becomes a teacher directory: the weights, checked
name by name, and a card. `networks.teacher.checkpoint=DIR` uses it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError, ConfigError, UserError, printable, suggest
from kdaug_jax.files import parse_json, read_npz
from kdaug_jax.models.foreign import opened
from kdaug_jax.models.foreign.carded import read_card
from kdaug_jax.models.foreign.fitting import convert, read_state
from kdaug_jax.models.foreign.layouts import (
    elsewhere,
    layout_of,
    network_name,
    spelled_variant,
    variant_named,
    variants_of,
)
from kdaug_jax.models.foreign.names_file import read_names
from kdaug_jax.models.foreign.safetensors_file import shown
from kdaug_jax.models.foreign.timm_config import CONFIG, conflicts, is_unread, read_config
from kdaug_jax.models.variables import flatten, unflatten
from kdaug_jax.runtime import commands, model_card, workdir
from kdaug_jax.runtime.console import write_lines
from kdaug_jax.runtime.digest import require_sha256, sha256_file
from kdaug_jax.runtime.model_card import ModelCard

# Share of the largest logit by which answers may differ: rounding of float32 is a hundred times
# less, another epsilon a hundred times more.
_TOLERANCE = 1e-3


class Imported(NamedTuple):
    """What a file of weights is.

    Attributes:
      card: of the network.
      variables: `{"params", "batch_stats"}` of float32 arrays.
    """

    card: ModelCard
    variables: dict[str, Any]


def import_file(
    path: Path,
    arch: str,
    *,
    num_classes: int = 0,
    class_names: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    options: Mapping[str, Any] | None = None,
    key: str = "",
    cast: bool = False,
    variant: str = "",
    channels: str = "rgb",
    sha256: str = "",
    check: Path | None = None,
) -> Imported:
    """Reads a file of weights as one of our networks.

    Args:
      path: the file.
      arch: the network; timm's `tf_efficientnet_b0` is our `efficientnet_b0` in variant "tf".
      num_classes: 0 for what the classifier has.
      class_names: in the order of the logits; empty where unknown.
      size: (height, width) of the images that it was trained on; by default the network's usual.
      mean: per-channel statistics for pixels 0..1; by default those of the layout's code.
      std: likewise.
      options: of the architecture.
      key: where the weights lie inside a file of PyTorch.
      cast: whether other floating types may become float32.
      variant: which of several networks of equal names and shapes, see `layouts.variants_of`; by
        default what the file, its card or timm's `config.json` beside it say.
      channels: "bgr" if the network was made for pixels in that order, as are `mean` and `std`; the
        first kernel is then turned round.
      sha256: of the file, compared where given.
      check: `.npz` with `image` u8[N,H,W,3] and the `logits` f32[N,C] that the original gave.

    Returns:
      The card and the variables. Arguments that are left out come from the card in the file, if
      `export_weights` wrote it, or from timm's config beside it.

    Raises:
      UserError: the file cannot be read, or does not fit the network, or answers otherwise.
    """
    path = workdir.place("--from", path)
    digest = require_sha256("--sha256", path, sha256) if sha256 else ""
    state, metadata = read_state(path, key, trusted=bool(sha256))
    if network := elsewhere(state):
        raise CheckpointError(
            str(path), f"holds torchvision's {network}, and no network here computes as that does",
            "use weights of a network that is here, or export it as a function with jax.export",
        )
    card = read_card(path, metadata, state)
    name = network_name(arch)
    config = None if card else read_config(path)
    if config and (wrong := conflicts(
        config, name, {"variant": variant, "mean": tuple(mean), "std": tuple(std)}
    )):
        raise CheckpointError(
            str(path.parent / CONFIG), wrong, "state what it says, or move it away if it is not of "
            "these weights",
        )
    architecture = _merged(_named("--options", options or {}), card)
    implied = (variant, spelled_variant(arch, state), config.variant if config else "")
    architecture |= _variant(name, architecture, implied, bool(card))
    size = tuple(size or card.get("size", ()) or (config and config.size) or ()) or None
    variables, count = convert(
        state, str(path), name, num_classes=num_classes, size=size, options=architecture, cast=cast
    )
    _same_as_card(path, card, name, count)
    class_names = tuple(class_names) or tuple(card.get("class_names", ())) or (
        config.class_names if config else ()
    )
    if len(class_names) not in (0, count):
        raise ConfigError(
            "--class_names", f"has {len(class_names)} names for {count} classes", "one for each"
        )
    layout = layout_of(name)
    given = (mean, std) if mean or std else (config.mean, config.std) if config else ((), ())
    published = _published(card, layout, count)
    statistics = [tuple(255.0 * value for value in values) for values in given if values]
    if len(statistics) == 1 or not (statistics or published):
        raise ConfigError(
            "--mean and --std", f"are needed: {layout.name} has no usual ones for {count} classes"
            if not statistics else "are needed together", "--mean=0.5,0.5,0.5 --std=0.5,0.5,0.5",
        )
    pixel_mean, pixel_std = map(tuple, statistics or published)
    if channels == "bgr":
        variables = _turned_round(variables)
        if statistics:
            pixel_mean, pixel_std = pixel_mean[::-1], pixel_std[::-1]
    native = models.create(name, count, normalize=(pixel_mean, pixel_std), **architecture)
    made = ModelCard(**{
        "view": "", **card, "arch": name, "num_classes": count, "class_names": class_names,
        "size": size or (native.native_size,) * 2, "mean": _rounded(pixel_mean),
        "std": _rounded(pixel_std), "options": dict(architecture), "layout": layout.name,
        "source": path.name, "sha256": digest or sha256_file(path),
    })
    notes = []
    if not card and is_unread(path):
        notes.append(
            f"{path.parent / CONFIG} names no architecture, as timm's do: it is not read, and may "
            "be of a network that computes otherwise"
        )
    if any(name.rpartition(".")[2] == "n_averaged" for name in state):
        notes.append("the weights are averaged ones: the file counts n_averaged")
    if not (statistics or card):
        notes.append(f"mean and std are those usual for {layout.name}: nothing stated them")
    if not zipfile.is_zipfile(path) and not digest and not card:
        notes.append(
            "the file carries no checksum: compare its SHA-256 with its author's, or give --sha256"
        )
    if check is None:
        notes.append(
            "not compared with the original's answers, though networks of equal names and shapes "
            "may compute otherwise: --check=FILE.npz (image u8[N,H,W,3], logits f32[N,C]) does"
        )
    else:
        made = dataclasses.replace(made, compared=_compare(check, made, variables))
    return Imported(dataclasses.replace(made, notes=tuple(notes)), variables)


def _same_as_card(path: Path, card: Mapping[str, Any], name: str, count: int) -> None:
    """Raises for a card that is of another network, or says too little of how images are fed."""
    if not card:
        return
    claimed = card["arch"], card["num_classes"], len(card["mean"])
    if claimed != (name, count, 3):
        raise CheckpointError(
            str(path), "says that it is {} of {} classes and {} channels, ".format(*claimed)
            + f"but holds {name} of {count} and 3", "export it again",
        )
    model_card.require_preprocessing(str(path), card)


def _merged(options: dict[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of the command line and of the card, which may not contradict each other."""
    stored = dict(card.get("options", {}))
    for name, value in options.items():
        if card and stored.get(name, value) != json.loads(json.dumps(value)):
            raise ConfigError(
                "--options", f"says {name}={value!r}, the card in the file {stored[name]!r}",
                "leave it out",
            )
    return {**options, **stored}


def _variant(
    name: str, options: Mapping[str, Any], implied: Sequence[str], ours: bool
) -> dict[str, str]:
    """Returns the option for the variant of a network, `{}` for one of a single variant.

    Args:
      name: of the network.
      options: of the architecture, which may hold it.
      implied: what the command line, the names in the file and its config say, "" for nothing.
      ours: whether a card of this package describes the file.
    """
    variants = variants_of(name)
    default = next(iter(variants), "")
    stated = [value for value in (*implied, options.get("variant", "")) if value]
    if ours and variants and not options.get("variant"):
        stated.append(default)  # older cards leave it out
    for value in stated:
        if value not in variants:
            raise ConfigError(
                "--variant", f"is '{value}'",
                suggest(value, variants) if variants else f"{name} has one variant: leave it out",
            )
    if len(set(stated)) > 1:
        raise ConfigError(
            "--variant", f"contradicts itself: {' and '.join(dict.fromkeys(stated))} are stated by "
            "the command line, the file or its config", "leave out what is wrong",
        )
    if stated:
        return {"variant": stated[0]}
    if not variants or default == "v1.5":  # what is published under these names, with few others
        return {}
    known = "; ".join(f"--variant={key} for {text}" for key, text in variants.items())
    raise ConfigError(
        "--variant", f"is needed: networks with other arithmetic have the names and shapes of "
        f"{name}", known,
    )


def _turned_round(variables: dict[str, Any]) -> dict[str, Any]:
    """Returns variables whose first kernel takes red, green, blue instead of blue, green, red."""
    leaves = flatten(variables)
    first = [path for path, leaf in leaves.items()
             if path.endswith("/kernel") and leaf.ndim == 4 and leaf.shape[2] == 3]
    if len(first) != 1:
        raise ConfigError(
            "--channels", f"is bgr, but {len(first)} kernels take 3 channels",
            "turn the channels of the first kernel round yourself",
        )
    return unflatten({
        path: leaf[:, :, ::-1] if path == first[0] else leaf for path, leaf in leaves.items()
    })


def _compare(file: Path, card: ModelCard, variables: Mapping[str, Any]) -> str:
    """Compares logits with those that the original gave; returns a line on what was measured.

    Raises:
      CheckpointError: they differ, or the file does not hold images and logits.
    """
    path = workdir.place("--check", file)
    opened.kind_of(path)

    def refuse(what: str, remedy: str) -> CheckpointError:
        return CheckpointError(str(path), what, remedy)

    form = "save image u8[N,H,W,3] (RGB) and logits f32[N,C] with np.savez"
    try:
        stored = read_npz(path, ("image", "logits"))
    except Exception as error:  # zip and NumPy raise any exception at damaged bytes
        raise refuse(f"cannot be read ({shown(str(error))})", form) from None
    if missing := [name for name in ("image", "logits") if name not in stored]:
        raise refuse(f"has no {missing[0]}", form)
    image, expected = stored["image"], stored["logits"]
    if image.ndim != 4 or image.shape[3] != 3 or image.dtype not in (np.uint8, np.float32):
        raise refuse(f"has images {image.dtype}{list(image.shape)}", form)
    if expected.shape != (len(image), card.num_classes) or expected.dtype.kind != "f":
        raise refuse(f"has logits {expected.dtype}{list(expected.shape)}", form)
    model = models.create(
        card.arch, card.num_classes, normalize=(card.mean, card.std), **card.options
    )
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False)[0].logits)
    given = np.asarray(apply(variables, image), np.float64)
    largest = np.abs(expected).max()
    deviation = np.abs(given - expected).max()
    line = (f"logits differ by at most {deviation:.2g} from the original's, whose largest is "
            f"{largest:.3g}, on {len(image)} images")
    if not deviation <= _TOLERANCE * largest:
        raise refuse(
            line, "this network computes otherwise: try another --variant, --mean and --std, "
            "--channels or --options, or compare the code",
        )
    return line


def _named(where: str, options: Any) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ConfigError(where, f"is {options!r}", 'a JSON object such as {"dropout": 0.3}')
    for name in options:
        if name in model_card.ARGUMENTS:
            raise ConfigError(where, f"has '{name}'", "options of the architecture only")
    return dict(options)


def _published(
    stored_card: Mapping[str, Any], layout: Any, count: int
) -> tuple[Any, Any] | None:
    """Returns (mean, std) of the stored card or the layout, in pixel units, or None."""
    if stored_card.get("mean") and stored_card.get("std"):
        return stored_card["mean"], stored_card["std"]
    # RepDistiller's are those of CIFAR-100 and of no other data.
    if not layout.mean or (layout.name == "RepDistiller" and count != 100):
        return None
    return tuple(255.0 * v for v in layout.mean), tuple(255.0 * v for v in layout.std)


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def numbers(flag: str, text: str, count: int = 3) -> tuple[float, ...]:
    """Reads `0.485,0.456,0.406` as numbers in 0..1.

    Raises:
      ConfigError: they are not so many, or not in that range.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(0.0 <= value <= 1.0 for value in values):
        remedy = f"{count} numbers for pixels 0..1, such as 0.5,0.5,0.5"
        raise ConfigError(flag, f"is '{text}'", remedy)
    return values


def _deviations(text: str) -> tuple[float, ...]:
    values = numbers("--std", text)
    if min(values) == 0.0:
        raise ConfigError("--std", f"is '{text}'", "every value above 0")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = commands.Parser(prog="import_weights", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", required=True, help="network, such as tv_resnet34")
    parser.add_argument("--from", dest="source", required=True, type=Path, help="file of weights")
    parser.add_argument("--to", required=True, type=Path, help="teacher directory to make")
    parser.add_argument("--classes", type=int, default=0, help="what the classifier must have")
    parser.add_argument("--class_names", type=Path, help="file: a JSON list, or one name a line")
    parser.add_argument("--size", type=int, default=0, help="side of its images in pixels")
    parser.add_argument("--mean", default="", help="of pixels 0..1, such as 0.485,0.456,0.406")
    parser.add_argument("--std", default="", help="of pixels 0..1, such as 0.229,0.224,0.225")
    parser.add_argument("--options", default="{}", help="of the architecture, as JSON")
    parser.add_argument("--entry", "--key", dest="key", default="",
                        help="entry of a PyTorch file, such as ema")
    parser.add_argument("--variant", default="", help="of several networks of equal names")
    parser.add_argument("--channels", choices=("rgb", "bgr"), default="rgb",
                        help="order of the channels that it was made for")
    parser.add_argument("--sha256", default="", help="that the file must have")
    parser.add_argument("--check", type=Path,
                        help=".npz of image u8[N,H,W,3] and the logits that the original gave")
    parser.add_argument("--cast", action="store_true", help="let other types become float32")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        target = workdir.place("--to", options.to)
        model_card.refuse_existing(target)
        try:
            architecture = parse_json(options.options)
        except ValueError as error:
            raise ConfigError("--options", f"is no JSON ({error})", '{"dropout": 0.3}') from None
        if not (0 <= options.classes < 2**31 and 0 <= options.size <= 2**15):
            what = f"are {options.classes} and {options.size}"
            raise ConfigError("--classes and --size", what, "leave them out")
        imported = import_file(
            options.source, options.arch, num_classes=options.classes,
            class_names=(
                read_names("--class_names", options.class_names) if options.class_names else ()
            ),
            size=(options.size, options.size) if options.size else None,
            mean=numbers("--mean", options.mean) if options.mean else (),
            std=_deviations(options.std) if options.std else (),
            options=architecture, key=options.key, cast=options.cast, variant=options.variant,
            channels=options.channels, sha256=options.sha256, check=options.check,
        )
        model_card.write(target, imported.card, imported.variables)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_lines(
        *describe(imported).split("\n"),
        f"teacher directory: {options.to}  (networks.teacher.checkpoint={options.to})",
    )
    return 0


def describe(imported: Imported) -> str:
    """Returns a few lines on what was imported and what is not known of it."""
    card, variables = imported
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    named = "known" if card.class_names else "not known, so their order cannot be checked"
    return "\n".join(map(printable, (
        f"{card.arch}: {count:,} parameters, {card.num_classes} classes, names as in {card.layout}"
        + variant_named(card.arch, card.options),
        f"images {card.size[1]}×{card.size[0]}, mean {card.mean}, std {card.std} of pixels 0..255",
        f"class names: {named}",
        f"source {card.source}, sha256 {card.sha256[:16]}…",
        *([card.describe()] if card.step >= 0 else []),
        *([card.compared] if card.compared else []),
        *card.notes,
    )))


if __name__ == "__main__":
    commands.run(main)
