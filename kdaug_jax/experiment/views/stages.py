"""Finds the stages that a view expression names, and validates those that a user brings.

A user's stage is a function `f(key, image, ...)` for one image, or a `kdaug_jax.augment.Stage`
for any other form; it is written `package.module.name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax import rng
from kdaug_jax.augment import STAGES
from kdaug_jax.augment.policies import Policy
from kdaug_jax.augment.stage import Size, Stage
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.binding import Bound, check_function, shape_text
from kdaug_jax.experiment.views.pools import POOLS
from kdaug_jax.registry import is_import, resolve, short_name
from kdaug_jax.types import Info, View

FORMS = ("example", "batch", "group", "policy")
ROWS = 2  # of the batch that a stage is traced with


def find_stage(where: str, name: str) -> Stage:
    """Returns the stage that a name stands for.

    Args:
      where: config path of the view, for messages.
      name: in `STAGES` or `POOLS`, or `package.module.name`.

    Raises:
      ConfigError: there is no such stage, or it does not have the form of one.
    """
    # `view` is read before, by `language.source_of`; here it is only a name to suggest.
    stage = resolve(where, "stage", name, {**STAGES, **POOLS, "view": None})
    if not is_import(name):
        return stage
    where = f"{where}.{short_name(name)}"
    row = stage if isinstance(stage, Stage) else Stage(stage)
    if row.form not in FORMS:
        raise ConfigError(where, f"has form {row.form!r}", "must be one of " + ", ".join(FORMS))
    leading = 0 if row.form == "policy" else 2
    check_function(where, row.apply, leading, "name a function f(key, image, ...) or a Stage")
    return row


def check_policy(where: str, policy: Any) -> None:
    """Raises ConfigError unless a stage of form "policy" returned a policy."""
    if not isinstance(policy, Policy):
        raise ConfigError(
            where, f"returned {type(policy).__name__}",
            "return a kdaug_jax.augment.policies.Policy",
        )


def check_outputs(
    where: str, stage: Stage, bound: Bound, before: tuple[Size, bool], after: tuple[Size, bool],
    info: Info,
) -> None:
    """Traces a user's stage, without computing anything, and validates what it returns.

    Args:
      where: config path of the stage, for messages.
      stage: of any form but "policy".
      bound: its arguments.
      before: height and width of its images in pixels, and whether they are floats.
      after: the same of what must come out.
      info: facts of the training split.

    Raises:
      ConfigError: another dtype or shape than the images have, unless the stage declares it.
    """
    lead = () if stage.form == "example" else (ROWS,)
    images, expected = (
        jax.ShapeDtypeStruct((*lead, *size, len(info.mean)), jnp.float32 if floats else jnp.uint8)
        for size, floats in (before, after)
    )
    given, result = images, expected
    if stage.form == "group":
        target = jax.ShapeDtypeStruct((ROWS, info.num_classes), jnp.float32)
        numbers = jax.ShapeDtypeStruct((ROWS,), jnp.int32)
        mask = jax.ShapeDtypeStruct((ROWS,), jnp.bool_)
        given, result = (
            View(image, target, numbers, numbers, mask) for image in (images, expected)
        )

    def trace(value: Any, traced: Mapping[str, jax.Array]) -> Any:
        key = rng.root(0)
        keys = jax.random.split(key, ROWS) if stage.form == "batch" else key
        return stage.apply(keys, value, **bound.static, **traced)

    returned = jax.eval_shape(trace, given, bound.traced)
    if jax.tree.structure(returned) != jax.tree.structure(result):
        raise ConfigError(
            where, f"returned {type(returned).__name__}",
            f"return a {'View' if stage.form == 'group' else 'single image array'}",
        )
    pairs = zip(jax.tree.leaves_with_path(returned), jax.tree.leaves(result), strict=True)
    for (path, array), legal in pairs:
        if (array.shape, array.dtype) == (legal.shape, legal.dtype):
            continue
        if legal is not expected:
            field = jax.tree_util.keystr(path, simple=True)
            raise ConfigError(
                where, f"returned {shape_text(array)} as {field}", f"return {shape_text(legal)}"
            )
        raise ConfigError(
            where, f"returned {shape_text(array)} for {shape_text(images)}", _remedy(array, legal)
        )


def _remedy(array: Any, legal: Any) -> str:
    if array.dtype == legal.dtype:
        return f"return {shape_text(legal)}, or name a Stage whose `size` declares another size"
    pixels = "uint8 pixels 0..255" if legal.dtype == jnp.uint8 else str(legal.dtype)
    resized = "" if array.shape == legal.shape else f" as {shape_text(legal)}"
    floats = ", or name a Stage(..., floats=True) for float32 pixels 0..255"
    return f"return {pixels}{resized}" + (floats if array.dtype == jnp.float32 else "")
