"""Imports weights from elsewhere as a teacher: `python -m kdaug_jax.models.import_weights`.

    python -m kdaug_jax.models.import_weights --arch=tv_resnet34 --from=FILE.safetensors --to=DIR

The file is safetensors, or one that PyTorch's `save` wrote (`.pth`; read with weights_only=True, so
that nothing in it is run; needs PyTorch). DIR becomes a teacher directory: the weights, checked
name by name, and a card. `networks.teacher.checkpoint=DIR` uses it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError, ConfigError, UserError
from kdaug_jax.models.foreign.fitting import convert, read_state
from kdaug_jax.models.foreign.layouts import layout_of, network_name
from kdaug_jax.runtime import model_card, workdir
from kdaug_jax.runtime.digest import sha256_file
from kdaug_jax.runtime.model_card import ModelCard


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
) -> Imported:
    """Reads a file of weights as one of our networks.

    Args:
      path: the file.
      arch: the network; timm's `tf_efficientnet_b0` is our `efficientnet_b0`.
      num_classes: 0 for what the classifier has.
      class_names: in the order of the logits; empty where unknown.
      size: (height, width) of the images that it was trained on; by default the network's usual.
      mean: per-channel statistics for pixels 0..1; by default those of the layout's code.
      std: likewise.
      options: of the architecture.
      key: where the weights lie inside a file of PyTorch.
      cast: whether other floating types may become float32.

    Returns:
      The card and the variables. Arguments that are left out come from the card in the file, if
      `export_weights` wrote it.

    Raises:
      UserError: the file cannot be read, or does not fit the network.
    """
    path = workdir.place("--from", path)
    state, metadata = read_state(path, key)
    stored_card = _stored_card(path, metadata)
    name = network_name(arch)
    architecture = _named("--options", options or {}) or stored_card.get("options", {})
    size = tuple(size or stored_card.get("size", ())) or None
    variables, count = convert(
        state, str(path), name, num_classes=num_classes, size=size, options=architecture, cast=cast
    )
    claimed = stored_card and (
        stored_card["arch"], stored_card["num_classes"], len(stored_card["mean"])
    )
    if claimed and claimed != (name, count, 3):
        raise CheckpointError(
            str(path), "says that it is {} of {} classes and {} channels, ".format(*claimed)
            + f"but holds {name} of {count} and 3", "export it again",
        )
    class_names = tuple(class_names) or tuple(stored_card.get("class_names", ()))
    if len(class_names) not in (0, count):
        raise ConfigError(
            "--class_names", f"has {len(class_names)} names for {count} classes", "one for each"
        )
    layout = layout_of(name)
    published = _published(stored_card, layout, count)
    statistics = [tuple(255.0 * value for value in values) for values in (mean, std) if values]
    if len(statistics) == 1 or not (statistics or published):
        raise ConfigError(
            "--mean and --std", f"are needed: {layout.name} has no usual ones for {count} classes"
            if not statistics else "are needed together", "--mean=0.5,0.5,0.5 --std=0.5,0.5,0.5",
        )
    pixel_mean, pixel_std = statistics or published
    model = models.create(name, count, normalize=(pixel_mean, pixel_std), **architecture)
    return Imported(
        ModelCard(
            arch=name, num_classes=count, class_names=class_names,
            size=size or (model.native_size,) * 2,
            mean=_rounded(pixel_mean), std=_rounded(pixel_std), options=dict(architecture),
            layout=layout.name, source=path.name, sha256=sha256_file(path),
        ),
        variables,
    )


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


def _stored_card(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Reads the card that `export_weights` puts into a file; `{}` for other files."""
    if "kdaug_jax" not in metadata:
        return {}
    try:
        fields = json.loads(metadata["kdaug_jax"])
    except (ValueError, RecursionError):
        what = "has a card that cannot be read"
        raise CheckpointError(str(path), what, "export it again") from None
    return model_card.checked(str(path), fields)


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


def read_names(path: Path) -> tuple[str, ...]:
    """Reads class names: a JSON list, or one a line.

    Raises:
      ConfigError: the file cannot be read.
    """
    file = workdir.place("--class_names", path)
    try:
        text = file.read_text(encoding="utf-8")
        listed = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except (OSError, ValueError) as error:
        what = f"{path} cannot be read ({error})"
        raise ConfigError("--class_names", what, "one name a line") from None
    return tuple(str(name).strip() for name in listed if str(name).strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="import_weights", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", required=True, help="network, such as tv_resnet34")
    parser.add_argument("--from", dest="source", required=True, type=Path, help="file of weights")
    parser.add_argument("--to", required=True, type=Path, help="teacher directory to make")
    parser.add_argument("--classes", type=int, default=0, help="what the classifier must have")
    parser.add_argument("--class_names", type=Path, help="file: a JSON list, or one name a line")
    parser.add_argument("--size", type=int, default=0, help="side of its images in pixels")
    parser.add_argument("--mean", default="", help="of pixels 0..1, such as 0.485,0.456,0.406")
    parser.add_argument("--std", default="", help="of pixels 0..1, such as 0.229,0.224,0.225")
    parser.add_argument("--options", default="{}", help="of the architecture, as JSON")
    parser.add_argument("--key", default="", help="entry of a PyTorch file, such as ema")
    parser.add_argument("--cast", action="store_true", help="let other types become float32")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        target = workdir.place("--to", options.to)
        model_card.refuse_existing(target)
        try:
            architecture = json.loads(options.options)
        except ValueError as error:
            raise ConfigError("--options", f"is no JSON ({error})", '{"dropout": 0.3}') from None
        if options.classes < 0 or options.size < 0:
            raise ConfigError("--classes and --size", "are negative", "leave them out")
        card, variables = import_file(
            options.source, options.arch, num_classes=options.classes,
            class_names=read_names(options.class_names) if options.class_names else (),
            size=(options.size, options.size) if options.size else None,
            mean=numbers("--mean", options.mean) if options.mean else (),
            std=_deviations(options.std) if options.std else (),
            options=architecture, key=options.key, cast=options.cast,
        )
        model_card.write(target, card, variables)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(describe(card, variables))
    print(f"teacher directory: {options.to}  (networks.teacher.checkpoint={options.to})")
    return 0


def describe(card: ModelCard, variables: Mapping[str, Any]) -> str:
    """Returns a few lines on what was imported and what is not known of it."""
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    named = "known" if card.class_names else "not known, so their order cannot be checked"
    return "\n".join((
        f"{card.arch}: {count:,} parameters, {card.num_classes} classes, names as in {card.layout}",
        f"images {card.size[1]}×{card.size[0]}, mean {card.mean}, std {card.std} of pixels 0..255",
        f"class names: {named}",
        f"source {card.source}, sha256 {card.sha256[:16]}…",
    ))


if __name__ == "__main__":
    sys.exit(main())
