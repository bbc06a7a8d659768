"""Whether a frozen network suits the data and the views: sizes, mixing, classes and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.experiment.frozen import tables
from kdaug_jax.experiment.frozen.stored import FUNCTION_CARD, absolute, several
from kdaug_jax.experiment.network import Network
from kdaug_jax.runtime import model_card, workdir
from kdaug_jax.types import Info


def check_views(
    networks: Mapping[str, Network],
    pairs: Sequence[tuple[str, str]],
    specs: Sequence[Any],
    full: Mapping[str, Any],
) -> None:
    """Checks that frozen networks can say something of the views that they are asked about.

    Args:
      networks: by name.
      pairs: the (network, view) pairs that are needed.
      specs: the views, see `experiment.views.ViewSpec`.
      full: the complete config.

    Raises:
      ConfigError: images of another size than a network was made for, or mixed ones for a table.
    """
    forms: dict[str, tuple[str, ...]] = {}
    for spec in specs:  # each comes after the one that it starts from
        own = tuple(call.stage.form for call in spec.calls)
        forms[spec.name] = (*forms.get(spec.source, ()), *own)
    sizes = {spec.name: spec.size for spec in specs}
    for name, view in pairs:
        if not networks[name].trainable:
            check_view(f"networks.{name}", networks[name], view, sizes[view], forms[view], full)


def check_view(
    where: str, network: Network, view: str, size: tuple[int, int], forms: Sequence[str],
    full: Mapping[str, Any],
) -> None:
    """Checks one view for one frozen network; see `check_views`."""
    if network.looked_up:
        tables.refuse_mixed(where, view, forms)
    wanted, kind = network.facts.get("size"), network.facts.get("kind")
    trusted = kind == "card" and full["networks"][where.removeprefix("networks.")]["trust"]
    if kind in ("card", "function") and wanted and tuple(wanted) != tuple(size) and not trusted:
        other = f", or set {where}.trust" if kind == "card" else ""
        raise ConfigError(
            where, "was made for images of {}×{} pixels, {} has {}×{}".format(*wanted, view, *size),
            f"resize the view{other}",
        )
    for one in network.members:
        check_view(where, one, view, size, forms, full)


def check_evaluated(
    where: str, network: Network, full: Mapping[str, Any], info: Info, compares: Sequence[str]
) -> None:
    """Checks that a frozen network can be asked in evaluations.

    Args:
      where: its config path.
      network: it.
      full: the complete config.
      info: facts of the training split.
      compares: metrics that compare answers with its own.

    Raises:
      ConfigError: the view of evaluation has another size, or its logits are stored for training
        examples only.
    """
    seen = views.parse("eval", full["eval"]["view"], info)
    check_view(where, network, "eval.view", seen.size, (), full)
    if network.looked_up and compares:
        raise ConfigError(
            "eval.metrics", f"'{compares[0]}' asks {where}, of which only logits are stored",
            "take it out, or use a network that can be run",
        )


def class_names(network: Network) -> tuple[str, ...]:
    """Gives the class names that a frozen network came with; empty where they are not known."""
    path, kind = absolute(several(network.checkpoint)[0]), network.facts.get("kind")
    if kind == "run":
        listed = workdir.read_json(path / "classes.json")
        return tuple(map(str, listed)) if isinstance(listed, list) else ()
    file = {"card": model_card.CARD, "function": FUNCTION_CARD}.get(str(kind))
    card = model_card.read(path / file) if file and path.is_dir() else None
    return card.class_names if card else ()


def check_class_names(where: str, network: Network, ours: Sequence[str]) -> None:
    """Refuses a frozen network whose classes are others than the data's, or in another order.

    Names that only count the classes say nothing and are passed over.

    Raises:
      ConfigError: naming the first class that differs.
    """
    for one in network.members:
        check_class_names(where, one, ours)
    if network.members or not network.checkpoint:
        return
    first, second = map(_plain_names, (class_names(network), ours))
    pairs = list(zip(first, second, strict=len(first) == len(second)))
    differing = [number for number, (a, b) in enumerate(pairs) if a != b]
    if not differing or _counted(first) or _counted(second):
        return
    number = differing[0]
    same = sorted(first) == sorted(second)
    what = "its classes are in another order" if same else "its classes are others"
    raise ConfigError(
        where, f"{what}: class {number} is '{class_names(network)[number]}' there and "
        f"'{ours[number]}' in the data",
        f"order the data's classes as the teacher's, or set {where}.trust if the names mislead",
    )


def _plain_names(names: Sequence[str]) -> list[str]:
    return ["".join(filter(str.isalnum, name.lower())) for name in names]


def _counted(names: Sequence[str]) -> bool:
    return all(name == str(number) for number, name in enumerate(names))


def describe(network: Network, info: Info) -> list[str]:
    """Says what a network that was not trained here takes for granted, a line for each member."""
    lines = [line for one in network.members for line in describe(one, info)]
    if network.facts.get("kind") == "card":
        facts = network.facts
        lines.append(
            f"{facts['name']} from {network.checkpoint}, made for images of "
            "{}×{}, normalises with ".format(*facts["size"])
            + f"mean {_shown(facts['mean'])} std {_shown(facts['std'])}; "
            f"the data have mean {_shown(info.mean)} std {_shown(info.std)}"
        )
    return lines


def _shown(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ")"
