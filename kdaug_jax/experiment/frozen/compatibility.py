"""Validates that frozen networks fit the data and the views: sizes, mixing, order of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.experiment.frozen import tables
from kdaug_jax.experiment.frozen.class_names import difference, order_by_name
from kdaug_jax.experiment.frozen.stored import class_names
from kdaug_jax.experiment.network import Network
from kdaug_jax.runtime import records, workdir
from kdaug_jax.types import Info


def check_views(
    networks: Mapping[str, Network],
    pairs: Sequence[tuple[str, str]],
    specs: Sequence[Any],
    full: Mapping[str, Any],
) -> None:
    """Validates the views that frozen networks are run on.

    Args:
      networks: by name.
      pairs: the (network, view) pairs that are needed.
      specs: the views, see `experiment.views.ViewSpec`.
      full: the complete config.

    Raises:
      ConfigError: images of another size than a network takes, or mixed images for a table.
    """
    forms: dict[str, tuple[str, ...]] = {}
    for spec in specs:  # each comes after its source
        spec_forms = tuple(call.stage.form for call in spec.calls)
        forms[spec.name] = (*forms.get(spec.source, ()), *spec_forms)
    sizes = {spec.name: spec.size for spec in specs}
    for name, view in pairs:
        if not networks[name].trainable:
            check_view(f"networks.{name}", networks[name], view, sizes[view], forms[view], full)


def check_view(
    where: str, network: Network, view: str, size: tuple[int, int], forms: Sequence[str],
    full: Mapping[str, Any],
) -> None:
    """Validates one view for one frozen network; see `check_views`."""
    if network.is_table:
        tables.refuse_mixed(where, view, forms)
    expected, kind = network.facts.get("size"), network.facts.get("kind")
    trusted = kind == "card" and full["networks"][where.removeprefix("networks.")]["trust"]
    differs = kind in ("card", "function") and expected and tuple(expected) != tuple(size)
    if differs and not trusted:
        trust = f", or set {where}.trust" if kind == "card" else ""
        raise ConfigError(
            where, f"was made for images of {expected[1]}×{expected[0]} pixels, {view} has "
            f"{size[1]}×{size[0]}", f"resize the view{trust}",
        )
    for member in network.members:
        check_view(where, member, view, size, forms, full)


def size_notes(
    networks: Mapping[str, Network], pairs: Sequence[tuple[str, str]], specs: Sequence[Any],
    info: Info,
) -> list[str]:
    """Returns a line for each frozen network that is run on images of another size than its own.

    Args:
      networks: by name.
      pairs: the (network, view) pairs that are needed.
      specs: the views, see `experiment.views.ViewSpec`.
      info: facts of the training split.
    """
    sizes = {spec.name: tuple(spec.size) for spec in specs}
    lines = []
    for name, view in pairs:
        for part in networks[name].members or (networks[name],):
            size = None if networks[name].trainable else _made_for(part, info)
            if size and size != sizes[view]:
                lines.append(
                    f"networks.{name}: {part.checkpoint} was made for images of "
                    f"{_pixels(size)} pixels, and is run on {_pixels(sizes[view])} in {view}"
                )
    return list(dict.fromkeys(lines))


def _made_for(network: Network, info: Info) -> tuple[int, int] | None:
    """Returns the size in its card, or that of `eval.view` in its run; None where unknown."""
    size, kind = network.facts.get("size"), network.facts.get("kind")
    if not size or kind not in ("card", "run"):
        return None
    if kind == "card":
        return tuple(size)
    stored = records.read_record(workdir.place("checkpoint", str(network.checkpoint)))
    text = stored["config"].get("eval", {}).get("view", "") if stored else ""
    try:
        return tuple(views.parse("eval", text, info._replace(size=tuple(size))).size)
    except ConfigError:  # of images of several sizes, whose crop is not here
        return None


def _pixels(size: Sequence[int]) -> str:
    return f"{size[1]}×{size[0]}"


def check_evaluated(
    where: str, network: Network, full: Mapping[str, Any], info: Info, compares: Sequence[str]
) -> None:
    """Validates that a frozen network can be evaluated.

    Args:
      where: its config path.
      network: the network.
      full: the complete config.
      info: facts of the training split.
      compares: metrics that compare predictions with its predictions.

    Raises:
      ConfigError: `eval.view` has another size, or its logits are stored for training examples
        only.
    """
    spec = views.parse("eval", full["eval"]["view"], info, where="eval.view")
    check_view(where, network, "eval.view", spec.size, (), full)
    if network.is_table and compares:
        raise ConfigError(
            "eval.metrics", f"'{compares[0]}' needs {where}, a table of logits of training "
            "examples only", "leave the metric out, or use a network that can be run",
        )


def check_class_names(where: str, network: Network, data_names: Sequence[str]) -> None:
    """Validates that a frozen network has the data's classes in the data's order.

    Args:
      where: config path of the network, for messages.
      network: the network.
      data_names: class names of the data set.

    Raises:
      ConfigError: naming the first class that differs.
    """
    for member in network.members:
        check_class_names(where, member, data_names)
    if network.members or not network.checkpoint or network.facts.get("class_order"):
        return
    names = class_names(network)
    differs = difference(names, data_names)
    if differs is None:
        return
    number, what = differs.number, "its classes are in another order"
    if not differs.reordered:
        what = "its classes are others"
    if number < 0:
        raise ConfigError(
            where, f"{what}: it names {len(names)}, the data {len(data_names)}",
            "use a teacher of the same data set",
        )
    raise ConfigError(
        where, f"{what}: class {number} is '{names[number]}' there and "
        f"'{data_names[number]}' in the data",
        f"set {where}.class_order='by_name' to reorder its logits, or {where}.trust if the names "
        "mislead" if differs.reordered and order_by_name(names, data_names)
        else "order the data's classes as the teacher's, or set "
        f"{where}.trust if the names mislead",
    )


def describe(network: Network, info: Info) -> list[str]:
    """Returns which state each frozen network is, and how imported ones normalise, in lines."""
    lines = [line for member in network.members for line in describe(member, info)]
    facts = network.facts
    if state := facts.get("state"):
        lines.append(f"{network.checkpoint}: {state}")
    if order := facts.get("class_order"):
        moved = next(number for number, theirs in enumerate(order) if number != theirs)
        lines.append(
            f"{network.checkpoint}: its logits are reordered by the names of its classes: class "
            f"{moved}, '{info.class_names[moved]}', is number {order[moved]} there"
        )
    if network.checkpoint and not network.members and not class_names(network):
        lines.append(
            f"{network.checkpoint}: it has no class names, so their order cannot be compared"
        )
    if facts.get("kind") == "card":
        lines.append(
            f"{facts['name']} from {network.checkpoint}, made for images of "
            f"{facts['size'][1]}×{facts['size'][0]}, normalises with "
            f"mean {_rounded(facts['mean'])} std {_rounded(facts['std'])}; "
            f"the data have mean {_rounded(info.mean)} std {_rounded(info.std)}"
        )
    return lines


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ")"
