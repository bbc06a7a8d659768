"""The sections of a config, complete with their defaults; experiments are written with these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment import loss_registry


def network(name: str, **fields: Any) -> dict[str, Any]:
    """Gives the config of one network.

    Args:
      name: architecture, see `kdaug_jax.models.names()`; may be empty for a frozen network,
        whose checkpoint knows it.
      **fields: `trainable`, False for a frozen network; `checkpoint`, what a frozen network
        comes from (see `experiment.frozen.stored`: a working or teacher directory, a function, a
        table of logits, or several), empty to train it first with `recipe`; `source`, the name the
        network has there, by default "student" or the only one; `init`, a frozen network of this
        experiment whose weights a trained one starts from; `mean` and `std` in pixel units,
        empty for the training split's; `options` of its architecture, such as
        `dict(dropout=0.3)`; `recipe`, pairs of (path, value) that turn the
        experiment's config into the one that trains this network, see
        `training.plan.teacher_config`; `trust`, whether a frozen one is used although its class
        names, image size or statistics are not the data's.

    Returns:
      A complete section for `config.networks`.
    """
    section = dict(
        name=name, trainable=False, checkpoint="", source="", init="", mean=(), std=(),
        options={}, recipe=(), trust=False,
    )
    check_known(f"networks ({name})", fields, section)
    return {**section, **fields}


def term(loss: str, on: tuple[str, ...], **fields: Any) -> dict[str, Any]:
    """Gives the config of one loss term.

    Args:
      loss: name in `kdaug_jax.losses.LOSSES`, or "package.module:function".
      on: the views it is put on; its values are summed.
      **fields: `student`, the network that learns, or a tuple with one for each view; `teacher`, a
        network, "network@view", or a tuple of them, whose probabilities are averaged; `weight`, a
        number or a schedule;
        `group`, "task" or "distill"; `detach`, whether the teacher's outputs are constants;
        `features`, for losses on activations: names that student and teacher share, "a:b" for the
        student's a and the teacher's b, and "logits"; and the loss's own options.

    Returns:
      A complete section for `config.terms`.
    """
    section = dict(
        loss=loss, on=tuple(on), student="student", teacher="", weight=1.0, gradient_group="task",
        detach=True,
    )
    return {**section, **loss_registry.defaults(loss), **fields}


def optimizer(name: str, schedule: Any, **fields: Any) -> dict[str, Any]:
    """Gives the config of the optimiser.

    Args:
      name: in `kdaug_jax.experiment.optim.OPTIMIZERS`.
      schedule: the learning rate, a number or `dict(name=..., base=..., ...)`.
      **fields: `weight_decay` and what it reaches, `decay`; `clip_norm`, 0 for off; `combine`, how
        gradient groups are combined; `ema`, decay of the averaged weights, 0 for off, and
        `ema_ramp`; and the optimiser's own options.

    Returns:
      A complete section for `config.optim`.
    """
    section = dict(
        weight_decay=0.0, decay="all", clip_norm=0.0, combine="sum()", ema=0.0, ema_ramp=True
    )
    return {**section, **fields, "name": name, "schedule": schedule}


def default() -> ConfigDict:
    """Gives a config with every section, in which an experiment fills views, networks and terms."""
    return ConfigDict(
        dict(
            mode="train",
            seed=0,
            data=dict(
                source="digits", seed=0, batch_size=64, workers=0, device_gb=2.0,
                train="train", validation="validation", test="test",
            ),
            views={},
            networks={},
            terms={},
            optim=optimizer(
                "sgd", dict(name="constant", base=0.1, unit="epoch", warmup=0.0),
                momentum=0.9, nesterov=False,
            ),
            train=dict(
                epochs=1.0, replica_batch_size=0, accumulate=1, steps_per_call=0, allow_weak_teacher=False
            ),
            eval=dict(
                every_epochs=1.0, batch_size=0, view="", metrics=("accuracy", "nll"), views=(),
                bins=15, embedding="pooled", table5=False, human="",
            ),
            checkpoint=dict(
                every_epochs=1.0, every_steps=0, every_minutes=0.0, keep=2,
                best="eval/validation/accuracy",
            ),
            log=dict(every_steps=20),
            precision="float32",
            mesh=dict(data=-1),
            phases=(),
            population=(),
        ),
        type_safe=True,
    )


def check_known(where: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuses fields that are not known, naming the nearest that are."""
    for name in given:
        if name not in known:
            raise ConfigError(f"{where}.{name}", "is not a field", suggest(name, known))
