"""One network of an experiment, and the model that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdaug_jax import models, registry
from kdaug_jax.errors import ConfigError
from kdaug_jax.models.model import Model


class Network(NamedTuple):
    """One network of an experiment.

    Attributes:
      model: its pure functions.
      trainable: whether gradients reach it; a frozen one runs in inference mode.
      checkpoint: what a frozen network is loaded from, see `experiment.frozen.stored`; a tuple for
        an average of several.
      facts: `{"name", "mean", "std", "num_classes", "options", "size"}`, with which it can be
        built again, and "kind", the form of its checkpoint in `experiment.frozen.stored`.
      init: the frozen network whose weights a trained one starts from, "" for random ones.
      members: the networks whose probabilities this one averages.
      shard: over which devices its weights are cut, see `runtime.weight_cuts`; "" for none.
    """

    model: Model
    trainable: bool
    checkpoint: str | tuple[str, ...]
    facts: dict[str, Any]
    init: str = ""
    members: tuple[Network, ...] = ()
    shard: str = ""

    @property
    def is_table(self) -> bool:
        """Whether it is a table of logits, which are looked up by example."""
        return self.facts.get("kind") == "table"


def create(
    where: str,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    size: tuple[int, int],
    **settings: Any,
) -> Model:
    """Returns the model that facts describe.

    Args:
      where: config path of the network, for messages.
      config: its section.
      facts: see `Network`.
      size: (height, width) in pixels of its input images.
      **settings: further arguments of `models.create`.

    Returns:
      The model.

    Raises:
      ConfigError: unknown architecture, images too small, or a network of the user's own that is
        not as it must be.
    """
    try:
        model = models.create(
            facts["name"], facts["num_classes"], normalize=(facts["mean"], facts["std"]),
            **settings, **facts["options"],
        )
        if min(size) < model.min_size:
            raise ConfigError(
                "name",
                f"{facts['name']} needs images of at least {model.min_size} pixels a side, "
                f"the data set has {size[1]}×{size[0]}",
                "use larger images or another network",
            )
        if registry.is_import(facts["name"]):
            models.check(model, size, train=config["trainable"])
    except ConfigError as error:
        field = error.where.removeprefix("normalize.")
        field = f"options.{field}" if field in facts["options"] else field
        field = field if field.split(".")[0] in config else "name"
        raise ConfigError(f"{where}.{field}", error.what, error.remedy) from None
    return model
