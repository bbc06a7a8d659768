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
        its traced numbers are the policy's, and `fill` is understood beside its own arguments.
        A policy that depends on the epoch takes `epochs`, how many the run has;
        "repeat" and "pick": a signature only, for stages that the view language carries out
        itself because they change the number of rows.
      check: `check(arguments, size)` raises ArgumentError for
        arguments that do not suit images of `size` (height, width), or None.
      size: `size(arguments, size)` gives the size of what comes out of the stage, or None where
        it is that of what goes in.
      floats: whether float32 images come out, in pixel units, which only stages of form "group"
        take.
    """

    apply: Callable[..., Any]
    form: Literal["example", "batch", "group", "policy", "repeat", "pick"] = "example"
    check: Callable[[Mapping[str, Any], Size], None] | None = None
    size: Callable[[Mapping[str, Any], Size], Size] | None = None
    floats: bool = False
