"""Applies a policy to a batch: every image draws its own ops, and gets them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.engine.apply import (
    Implementation,
    Shares,
    apply_ops,
    resolved,
    slow_rows,
)
from kdaug_jax.augment.engine.kernels import Colours
from kdaug_jax.augment.engine.rows import Table, build_table
from kdaug_jax.augment.ops.checks import check_batch, check_fill, check_keys, is_host
from kdaug_jax.augment.ops.squares import square_offsets
from kdaug_jax.augment.policies.policy import Policy
from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.runtime.platform import target_platform

SIMULATED = 2048  # images, from whose draws the shares of the kinds are read


def apply_policy(
    policy: Policy,
    keys: jax.Array,
    images: jax.Array,
    fill: ArrayLike,
    hparams: Mapping[str, ArrayLike] | None = None,
    *,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Augments a batch by a policy, each image from its own key.

    Args:
      policy: built for images of this size.
      keys: `key[B]`.
      images: `u8[B,H,W,3]`.
      fill: `u8[3]`, the colour of what comes in from outside the images, and of erased squares
        unless the policy has another; of a policy with a transparent channel, of what is
        transparent in the end.
      hparams: values of `policy.hparams` by name; those left out have their defaults.
      implementation: see `apply_ops`.

    Returns:
      `u8[B,H,W,3]`; what an image becomes depends on its key and itself alone.

    Raises:
      TypeError: the images are not an array of uint8, or `fill` is a name.
      ArgumentError: the images are not `[B,H,W,3]`, not as many keys as images, `fill` is not a
        colour, or `hparams` has a name that the policy has not, or a value of another shape or,
        as far as it is known, out of range.
    """
    check_batch(images, (3,) if policy.channels == 4 else (3, 4))
    check_fill(fill, images.shape[3])
    check_keys(keys, images)
    _check_hparams(policy, hparams or {})
    hparams = {**_defaults(policy), **(hparams or {})}
    table = build_table(policy.ops, images.shape[1:3], policy.variant)
    op_ids = jax.vmap(lambda key: policy.draw(key, hparams))(keys)
    offsets = jax.vmap(lambda key: square_offsets(key, policy.stages))(keys)
    fill = jnp.broadcast_to(jnp.asarray(fill, jnp.uint8), images.shape[3:])
    erase = fill if policy.cutout_fill is None else jnp.asarray(policy.cutout_fill, jnp.uint8)
    colours = Colours(fill, erase)
    if policy.channels == 4:  # what comes in is transparent, unlike what was there
        colours = Colours(jnp.zeros(4, jnp.uint8), jnp.append(erase, jnp.uint8(0)), fill)
    implementation = resolved(implementation, target_platform(), table)
    gathers = implementation == "gather" or (implementation == "kernel" and slow_rows(table).any())
    return apply_ops(
        images, op_ids, offsets, table, colours, implementation=implementation,
        shares=expected_shares(policy, table) if gathers else None,
    )


def _defaults(policy: Policy) -> dict[str, jax.Array]:
    return {name: jnp.asarray(hparam.default) for name, hparam in policy.hparams.items()}


def _check_hparams(policy: Policy, hparams: Mapping[str, ArrayLike]) -> None:
    for name, value in hparams.items():
        if name not in policy.hparams:
            raise ArgumentError(
                f"the policy has no hyper-parameter {name!r}", suggest(name, policy.hparams)
            )
        default, legal = policy.hparams[name]
        if np.shape(value) != default.shape:
            raise ArgumentError(f"{name} has shape {np.shape(value)}", f"must be {default.shape}")
        if is_host(value):
            entries = np.asarray(value)
            if not ((entries >= legal.low) & (entries <= legal.high)).all():
                raise ArgumentError(f"{name} is {value}", f"must be {legal.low:g}..{legal.high:g}")


def expected_shares(policy: Policy, table: Table) -> Shares:
    """Estimates the share of the images of a stage that each kernel has.

    Args:
      policy: whose draws are tried with the default values of its hyper-parameters.
      table: its rows.

    Returns:
      The larger one of what was drawn, at the stage where that is most, and of what equally
      likely ops would give, since hyper-parameters may change.
    """
    with jax.ensure_compile_time_eval():
        defaults = _defaults(policy)
        keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), SIMULATED)
        op_ids = np.asarray(jax.vmap(lambda key: policy.draw(key, defaults))(keys))
    names = [op.name for op in policy.ops]

    def shares(column: np.ndarray, values: int) -> tuple[float, ...]:
        drawn = [(column[op_ids] == value).mean(0).max() for value in range(values)]
        equal = [
            len({name for name, entry in zip(names, column, strict=True) if entry == value})
            / len(set(names))
            for value in range(values)
        ]
        return tuple(float(max(pair)) for pair in zip(drawn, equal, strict=True))

    slow = slow_rows(table)
    names_slow = {name for name, entry in zip(names, slow, strict=True) if entry}
    equal = 1 - (1 - len(names_slow) / len(set(names))) ** policy.stages
    return Shares(
        shares(table.source, len(table.lut_sources)), shares(table.kind, len(table.kernels)),
        float(max(slow[op_ids].any(axis=1).mean(), equal if names_slow else 0.0)),
    )
