"""Mixing the examples of a group: mixup, CutMix, and a switch between the two.

Partners never cross the padding: a row that only fills the batch up (`View.mask`) is its own
partner and stays as it is, and the valid rows find partners among themselves.

Coefficients are whole multiples of 1/65536 and boxes are cut in whole numbers. Mixed uint8 images
are therefore exact in float32, and so are mixed one-hot targets: nothing is rounded, and whatever
a compiler fuses gives the same numbers for the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from kdaug_jax import rng
from kdaug_jax.augment.ops.checks import check_number
from kdaug_jax.augment.partners import PARTNERS
from kdaug_jax.augment.policies.policy import below
from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.types import Fraction, Range, View, is_known

ONE = 1 << 16  # a coefficient of 1
PER = ("group", "example")
Alpha = Annotated[
    ArrayLike,
    Range(
        np.float32, low=0.0, open=True,
        hint="to switch it off, take the stage out or set probability=0",
    ),
]


def mixup(
    image: jax.Array, target: jax.Array, partner: jax.Array, lam: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Blends each example with its partner: lam x + (1 - lam) x[partner], targets alike.

    Args:
      image: `[B,H,W,C]`, pixel units.
      target: `f32[B,C]`.
      partner: `i32[B]`, row of each example's partner.
      lam: `f32[]` or `f32[B]`, 0..1, share of the example itself.

    Returns:
      `f32[B,H,W,C]`, pixel units, not rounded, and `f32[B,C]`.

    Raises:
      ArgumentError: the arrays are of other examples, the targets no rows, or `lam` is known not
        to be 0..1.

    Source: Zhang et al. 2018 (mixup).
    """
    _need_rows(image, target, partner)
    if is_known(lam) and not ((np.asarray(lam) >= 0.0) & (np.asarray(lam) <= 1.0)).all():
        raise ArgumentError(f"lam = {lam}", "must be 0..1, the share of the example itself")
    lam = jnp.broadcast_to(jnp.asarray(lam, jnp.float32), partner.shape)
    pixels = image.astype(jnp.float32)
    share = lam[:, None, None, None]
    mixed = share * pixels + (1.0 - share) * pixels[partner]
    return mixed, _mix_target(target, partner, lam)


def cutmix(
    image: jax.Array, target: jax.Array, partner: jax.Array, box: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of the partner into each example; targets are mixed by area.

    Args:
      image: `[B,H,W,C]`, any dtype.
      target: `f32[B,C]`.
      partner: `i32[B]`, row of each example's partner.
      box: `i32[4]` or `i32[B,4]`: first row, row after the last, first column, column after the
        last, all inside the image.

    Returns:
      `[B,H,W,C]` of the image's dtype, and `f32[B,C]`; an example keeps the share
      1 - area / (H W) of its target.

    Raises:
      ArgumentError: the arrays are of other examples, the targets no rows, or the box is known not
        to lie inside the image.

    Source: Yun et al. 2019 (CutMix).
    """
    _need_rows(image, target, partner)
    height, width = image.shape[1:3]
    _need_box(box, height, width)
    top, bottom, left, right = jnp.broadcast_to(box, (*partner.shape, 4)).T[:, :, None]
    rows, columns = jnp.arange(height)[None, :], jnp.arange(width)[None, :]
    across, down = (columns >= left) & (columns < right), (rows >= top) & (rows < bottom)
    inside = (down[:, :, None] & across[:, None, :])[..., None]
    mixed = jnp.where(jnp.broadcast_to(inside, image.shape), image[partner], image)
    kept = (height * width - (bottom - top) * (right - left))[:, 0].astype(jnp.float32)
    # In steps of 2^-23 the share and 1 less the share are exact, however a compiler fuses them.
    lam = jnp.rint(kept * np.float32(2.0**23 / (height * width))) * np.float32(2.0**-23)
    return mixed, _mix_target(target, partner, lam)


def _need_rows(image: jax.Array, target: jax.Array, partner: jax.Array) -> None:
    rows = image.shape[0]
    if image.ndim != 4 or target.shape[:1] != (rows,) or partner.shape != (rows,):
        raise ArgumentError(
            f"got images {list(image.shape)}, targets {list(target.shape)} and partners "
            f"{list(partner.shape)}", "must be [B,H,W,C], [B,C] and [B]",
        )
    if target.ndim != 2:
        raise ArgumentError(
            f"got targets {list(target.shape)}",
            "must be class probabilities [B,C], as jax.nn.one_hot makes of class numbers",
        )
    if is_known(partner) and ((np.asarray(partner) < 0) | (np.asarray(partner) >= rows)).any():
        raise ArgumentError("got a partner that is no row", f"must be 0..{rows - 1}")


def _need_box(box: ArrayLike, height: int, width: int) -> None:
    if not jnp.issubdtype(jnp.result_type(box), jnp.integer):
        raise ArgumentError(f"got a box of {jnp.result_type(box)}", "must be whole pixels")
    if not is_known(box):
        return
    top, bottom, left, right = np.moveaxis(np.asarray(box), -1, 0)
    inside = (0 <= top) & (top <= bottom) & (bottom <= height)
    inside &= (0 <= left) & (left <= right) & (right <= width)
    if not inside.all():
        raise ArgumentError(
            f"got a box that does not lie in images of {width}×{height}",
            "must be first row, row after the last, first column, column after the last",
        )


def _mix_target(target: jax.Array, partner: jax.Array, lam: jax.Array) -> jax.Array:
    share = lam[:, None]
    return share * target + (1.0 - share) * target[partner]


def random_mixup(
    key: jax.Array,
    view: View,
    alpha: Alpha = 1.0,
    probability: Fraction = 1.0,
    per: str = "group",
    partner: str = "permutation",
) -> View:
    """Mixes each example of a group with another one by lam ~ Beta(alpha, alpha).

    `label` and `index` stay those of the example itself, however small its share.

    Args:
      key: `key[]`, of the group.
      view: `[B,...]`, one group.
      alpha: `f32[]`, above 0; 1 in papers 001 and 004.
      probability: `f32[]`, of mixing at all; otherwise the values stay as they are.
      per: "group" for one draw of lam (and of whether to mix) a group, "example" for one each.
      partner: "permutation", one random permutation of the group; "derangement", a random one
        in which nobody is its own partner; "flip", the group in reverse order.

    Returns:
      The view with float32 images in pixel units and mixed targets.

    Source: Zhang et al. 2018 (mixup).
    """
    shape = _shape(per, view)
    share = _share(key, alpha, probability, shape)
    chosen = _partners(key, view.mask, partner)
    image, target = mixup(view.image, view.target, chosen, share / ONE)
    return view.replace(image=image, target=target)


def random_cutmix(
    key: jax.Array,
    view: View,
    alpha: Alpha = 1.0,
    probability: Fraction = 1.0,
    per: str = "group",
    partner: str = "permutation",
) -> View:
    """Pastes boxes of another example of the group, of area 1 - lam before they are clipped.

    With lam ~ Beta(alpha, alpha) the sides are int(side sqrt(1 - lam)), the centre is uniform over
    the pixels, half of a side (rounded down) goes to each side of it, and the border clips. The
    targets' shares follow from what is left of the box. `label` and `index` stay.

    Args:
      key: `key[]`, of the group.
      view: `[B,...]`, one group.
      alpha: `f32[]`, above 0; 1 in papers 001 and 004.
      probability: `f32[]`, of mixing at all; otherwise the values stay as they are.
      per: "group" for one box (and one draw of whether to mix) a group, "example" for one each.
      partner: see `random_mixup`.

    Returns:
      The view with images of their old dtype and mixed targets.

    Source: Yun et al. 2019 (CutMix), as clovaai/CutMix-PyTorch clips and counts.
    """
    shape = _shape(per, view)
    share = _share(key, alpha, probability, shape)
    box = boxes(key, share, view.image.shape[1:3])
    chosen = _partners(key, view.mask, partner)
    image, target = cutmix(view.image, view.target, chosen, box)
    return view.replace(image=image, target=target)


def random_mixup_or_cutmix(
    key: jax.Array,
    view: View,
    mixup_alpha: Alpha,
    cutmix_alpha: Alpha,
    switch: Fraction = 0.5,
    probability: Fraction = 1.0,
    per: str = "group",
    partner: str = "permutation",
) -> View:
    """Does CutMix with probability `switch` and mixup otherwise.

    Args:
      key: `key[]`, of the group.
      view: `[B,...]`, one group.
      mixup_alpha: `f32[]`, above 0; 0.8 in timm's recipes.
      cutmix_alpha: `f32[]`, above 0; 1 in timm's recipes.
      switch: `f32[]`, probability of CutMix where anything is mixed.
      probability: `f32[]`, of mixing at all.
      per: "group" for one draw of everything a group, "example" for one each.
      partner: see `random_mixup`; timm's is "flip".

    Returns:
      The view with float32 images in pixel units and mixed targets.

    Source: `Mixup` of timm, modes "batch" and "elem" with `correct_lam`.
    """
    shape = _shape(per, view)
    check_number("switch", switch, 0, 1)
    cut = jax.random.bernoulli(rng.fold(key, "switch"), switch, shape)
    share = _share(key, jnp.where(cut, cutmix_alpha, mixup_alpha), probability, shape)
    chosen = _partners(key, view.mask, partner)
    # A share of 1 leaves an image as it is, so each example passes one of the two unchanged.
    lam = jnp.where(cut, ONE, share) / ONE
    box = boxes(key, jnp.where(cut, share, ONE), view.image.shape[1:3])
    blended = mixup(view.image, view.target, chosen, lam)
    image, target = cutmix(*blended, chosen, box)
    return view.replace(image=image, target=target)


def check_mixing(arguments: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Validates `per` and `partner`.

    Args:
      arguments: what a user wrote for a mixing stage.
      size: height and width of the images in pixels.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    del size
    for name, known in (("per", PER), ("partner", PARTNERS)):
        if arguments[name] not in known:
            raise ArgumentError(
                f"unknown {name} {arguments[name]!r}", suggest(arguments[name], known)
            )


def _shape(per: str, view: View) -> tuple[int, ...]:
    return {"group": (), "example": view.index.shape}[per]


def _partners(key: jax.Array, mask: jax.Array, partner: str) -> jax.Array:
    """Draws partners; where a group is spread over devices, each of them draws the whole of it."""

    def whole(array: jax.Array) -> jax.Array:
        mesh = jax.sharding.get_abstract_mesh()
        return array if mesh.empty else jax.lax.with_sharding_constraint(array, PartitionSpec())

    # A few numbers: to sort, and to draw again, together would cost a collective each time.
    return whole(PARTNERS[partner](rng.fold(key, "partner"), whole(mask)))


def _share(key: jax.Array, alpha, probability, shape: tuple[int, ...]) -> jax.Array:
    """Draws shares of the examples themselves in 1/65536, `i32[shape]`; 65536 is unmixed."""
    check_number("probability", probability, 0, 1)
    if is_known(alpha) and not (np.asarray(alpha) > 0).all():
        raise ArgumentError(f"alpha = {alpha}", "must be more than 0")
    applied = jax.random.bernoulli(rng.fold(key, "apply"), probability, shape)
    lam = symmetric_beta(rng.fold(key, "lam"), alpha, shape)
    return jnp.where(applied, jnp.rint(lam * ONE).astype(jnp.int32), ONE)


def symmetric_beta(key: jax.Array, alpha: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Draws from Beta(alpha, alpha) without a loop.

    T = sqrt(2a (u^(-1/a) - 1)) cos(2 pi v) has Student's t distribution of 2a degrees of freedom,
    and 1/2 + T / (2 sqrt(2a + T^2)) is Beta(a, a). The rejection loops of `jax.random.beta` take
    ten times as long to compile.

    Args:
      key: `key[]`.
      alpha: `f32[]` or `f32[shape]`, above 0.
      shape: of the result.

    Returns:
      `f32[shape]`, 0..1.

    Source: Bailey 1994, "Polar generation of random variates with the t-distribution"; Devroye
    1996, "Random variate generation in one line of code".
    """
    u, v = jax.random.uniform(key, (2, *shape), jnp.float32)
    alpha = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), shape)
    # log1p(-u) is the logarithm of a number in (0, 1]; infinity stands for the ends 0 and 1.
    spread = jnp.expm1(-jnp.log1p(-u) / alpha)
    across = jnp.cos(2 * jnp.pi * v)
    return 0.5 + 0.5 * jnp.sign(across) / jnp.sqrt(1 + 1 / (spread * across**2))


def boxes(key: jax.Array, share: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Draws the boxes of CutMix.

    Args:
      key: `key[]`.
      share: `i32[...]`, lam in 1/65536.
      size: height and width of the images in pixels.

    Returns:
      `i32[...,4]`, see `cutmix`; empty where the share is 1.
    """
    sides = jnp.array(size, jnp.int32).reshape(2, *(1 for _ in share.shape))
    centres = below(key, "box", sides, (2, *share.shape))
    box = []
    for centre, side in zip(centres, size, strict=True):
        # int(side sqrt(x / ONE)) counts the lengths c with c^2 ONE <= side^2 x.
        steps = [-(-length * length * ONE // side**2) for length in range(1, side + 1)]
        cut = jnp.searchsorted(
            jnp.array(steps, jnp.int32), ONE - share, side="right", method="compare_all"
        )
        box += [jnp.clip(centre - cut // 2, 0, side), jnp.clip(centre + cut // 2, 0, side)]
    return jnp.stack(box, axis=-1).astype(jnp.int32)
