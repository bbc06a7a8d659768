"""Applies a policy to a batch: every image draws its own ops, and gets them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.engine import rows
from kdaug_jax.augment.engine.apply import Implementation, Shares, apply_ops, resolved
from kdaug_jax.augment.engine.kernels import Colours
from kdaug_jax.augment.ops.checks import check_batch, check_fill, check_keys, is_host
from kdaug_jax.augment.policies.policy import Policy
from kdaug_jax.augment.policies.squares import places
from kdaug_jax.errors import ArgumentError, suggest

SIMULATED = 2048  # images, from whose draws the shares of the kinds are read


def apply_policy(
    policy: Policy,
    keys: jax.Array,
    images: jax.Array,
    fill: ArrayLike,
    traced: Mapping[str, ArrayLike] | None = None,
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
      traced: `policy.numbers` by name; by default their own values.
      implementation: see `apply_ops`.

    Returns:
      `u8[B,H,W,3]`; what an image becomes depends on its key and itself alone.

    Raises:
      TypeError: the images are not an array of uint8, or `fill` is a name.
      ValueError: the images are not `[B,H,W,3]`, not as many keys as images, `fill` is not a
        colour, or `traced` has what is no number of the policy, or one of another shape or,
        as far as it is known, out of range.
    """
    check_batch(images, (3,) if policy.channels == 4 else (3, 4))
    check_fill(fill, images.shape[3])
    check_keys(keys, images)
    _check_traced(policy, traced or {})
    defaults = {name: jnp.asarray(number.default) for name, number in policy.numbers.items()}
    traced = {**defaults, **(traced or {})}
    table = rows.build_table(policy.ops, images.shape[1:3], policy.variant)
    numbers = jax.vmap(lambda key: policy.draw(key, traced))(keys)
    spots = jax.vmap(lambda key: places(key, policy.stages))(keys)
    fill = jnp.broadcast_to(jnp.asarray(fill, jnp.uint8), images.shape[3:])
    erase = fill if policy.cutout_fill is None else jnp.asarray(policy.cutout_fill, jnp.uint8)
    colours = Colours(fill, erase)
    if policy.channels == 4:  # what comes in is transparent, and told by that from what was there
        colours = Colours(jnp.zeros(4, jnp.uint8), jnp.append(erase, jnp.uint8(0)), fill)
    implementation = resolved(implementation)
    return apply_ops(
        images, numbers, spots, table, colours, implementation=implementation,
        shares=expected_shares(policy, table) if implementation == "slab" else None,
    )


def _check_traced(policy: Policy, traced: Mapping[str, ArrayLike]) -> None:
    for name, value in traced.items():
        if name not in policy.numbers:
            raise ArgumentError(f"the policy has no number {name!r}; {suggest(name, policy.numbers)}")
        default, legal = policy.numbers[name]
        if np.shape(value) != default.shape:
            raise ArgumentError(f"{name} has shape {np.shape(value)}; must be {default.shape}")
        if is_host(value):
            found = np.asarray(value)
            if not ((found >= legal.low) & (found <= legal.high)).all():
                raise ArgumentError(f"{name} is {value}; must be {legal.low:g}..{legal.high:g}")


def expected_shares(policy: Policy, table: rows.Table) -> Shares:
    """Estimates the share of the images of a stage that each kind of work has.

    Args:
      policy: whose draws are tried with the default values of its numbers.
      table: its rows.

    Returns:
      The larger one of what was drawn, at the stage where that is most, and of what equally
      likely ops would give, since traced numbers may change.
    """
    with jax.ensure_compile_time_eval():
        defaults = {name: jnp.asarray(number.default) for name, number in policy.numbers.items()}
        keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), SIMULATED)
        numbers = np.asarray(jax.vmap(lambda key: policy.draw(key, defaults))(keys))
    names = [op.name for op in policy.ops]

    def shares(column: np.ndarray, values: int) -> tuple[float, ...]:
        drawn = [(column[numbers] == value).mean(0).max() for value in range(values)]
        equal = [
            len({name for name, own in zip(names, column, strict=True) if own == value})
            / len(set(names))
            for value in range(values)
        ]
        return tuple(float(max(pair)) for pair in zip(drawn, equal, strict=True))

    return Shares(shares(table.source, len(rows.SOURCES)), shares(table.kind, len(rows.KINDS)))
