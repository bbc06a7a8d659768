"""What a stage of a view is: the row type of the stage table `kdaug_jax.augment.STAGES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

Size = tuple[int, int]


class Stage(NamedTuple):
    """One stage that the view language can name.

    Attributes:
      apply: the random wrapper. Positional arguments first (see `form`), then the arguments a
        user may write. Those annotated as traced in `kdaug_jax.types` arrive as arrays, `Fill`
        arguments as a `u8[C]` colour, all others as plain Python values.
      form: "example": `apply(key, image[H,W,C], ...) -> image`, mapped over the batch;
        "batch": `apply(keys[B], image[B,H,W,C], ...) -> image`, which must equal mapping
        over examples but may be computed for the batch as a whole;
        "group": `apply(key, View, ...) -> View`, for stages that mix examples of one group;
        "policy": `apply(..., size=(height, width)) -> Policy`, called once when the view is read;
        its hyper-parameters are the policy's, and `fill` is understood beside its arguments.
        A policy that depends on the epoch takes `epochs`, how many the run has. One whose counts
        of ops can be padded with the identity takes `counts`, see the field below;
        "repeat" and "pick": a signature only, for stages that the view language carries out
        itself because they change the number of rows.
      check: `check(arguments, size)` raises ArgumentError for
        arguments that do not suit images of `size` (height, width), or None.
      size: `size(arguments, size)` returns the size of what comes out of the stage, or None where
        it is that of what goes in.
      floats: whether float32 images come out, in pixel units, which only stages of form "group"
        take.
      host: its row in `kdaug_jax.images.crops.CROPS`, which does the same on the host, bit for
        bit; "" if it runs on the device only. `check` and `size` of such a stage take a size of
        None, where images differ in size, and `size` returns None where they still do after it.
      draws: whether it draws at random, so that images cannot be evaluated through it; or the
        name of its probability, where it draws unless that is 0 or 1. Policies and stages that
        mix always do.
      drawn_as: the stage whose draws it shares, so that both give the same views where they are
        told the same; "" for its own.
      counts: of a policy, the arguments that a sweep may vary although they set how many ops there
        are: `apply` takes `{argument: largest value}` of those that are swept as `counts`, pads to
        the largest, and the policy has hyper-parameters of their names.
    """

    apply: Callable[..., Any]
    form: Literal["example", "batch", "group", "policy", "repeat", "pick"] = "example"
    check: Callable[[Mapping[str, Any], Size | None], None] | None = None
    size: Callable[[Mapping[str, Any], Size | None], Size | None] | None = None
    floats: bool = False
    host: str = ""
    draws: bool | str = False
    drawn_as: str = ""
    counts: tuple[str, ...] = ()
