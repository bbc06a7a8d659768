"""The sections of a config, complete with their defaults; experiments are written with these."""

from __future__ import annotations

import inspect
from typing import Any

from ml_collections import ConfigDict

from kdaug_jax.experiment import loss_registry
from kdaug_jax.experiment.binding import options
from kdaug_jax.experiment.fields import FIELDS, check_known, defaults, section_fields
from kdaug_jax.experiment.optim import OPTIMIZERS


def network(name: str, **fields: Any) -> dict[str, Any]:
    """Returns the config of one network.

    Args:
      name: architecture, see `kdaug_jax.models.names()`; may be empty for a frozen network,
        whose checkpoint holds it.
      **fields: those of `networks.*` in `experiment.fields`.

    Returns:
      A complete section for `config.networks`.
    """
    check_known(f"networks ({name})", fields, section_fields("networks.*"))
    return defaults("networks.*", name=name, **fields)


def term(loss: str, on: tuple[str, ...], **fields: Any) -> dict[str, Any]:
    """Returns the config of one loss term.

    Args:
      loss: name in `kdaug_jax.losses.LOSSES`, or "package.module:function".
      on: the views it is computed on; its values are summed.
      **fields: those of `terms.*` in `experiment.fields`, and the loss's own options.

    Returns:
      A complete section for `config.terms`.
    """
    section = defaults("terms.*", loss=loss, on=tuple(on))
    del section["features"]  # only losses on features have it, see `loss_registry.defaults`
    return {**section, **loss_registry.defaults(loss), **fields}


def optimizer(name: str, schedule: Any, **fields: Any) -> dict[str, Any]:
    """Returns the config of the optimiser.

    Args:
      name: in `kdaug_jax.experiment.optim.OPTIMIZERS`.
      schedule: the learning rate, a number or `dict(name=..., base=..., ...)`.
      **fields: those of `optim` in `experiment.fields`, and the optimiser's own options.

    Returns:
      A complete section for `config.optim`.
    """
    return defaults("optim", **{**fields, "name": name, "schedule": schedule})


def default() -> ConfigDict:
    """Returns a config of defaults, which an experiment fills with views, networks and terms."""
    config: dict[str, Any] = {"views": {}, "networks": {}, "terms": {}}
    for path, field in FIELDS.items():
        section, _, name = path.rpartition(".")
        if "*" not in section:
            (config.setdefault(section, {}) if section else config)[name] = field.default
    optim = config["optim"]
    for name, option in options(OPTIMIZERS[optim["name"]].make, 2).items():
        if option.default is not inspect.Parameter.empty:
            optim[name] = option.default
    return ConfigDict(config, type_safe=True)
