"""What a stage of a view is: the row type of the stage table `kdaug_jax.augment.STAGES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple


class Stage(NamedTuple):
    """One stage that the view language can name.

    Attributes:
      apply: the random wrapper. Positional arguments first (see `form`), then the arguments a
        user may write. Those annotated as traced in `kdaug_jax.types` arrive as arrays, `Fill`
        arguments as a `u8[C]` colour, all others as plain Python values.
      form: "example": `apply(key, image[H,W,C], ...) -> image`, mapped over the batch;
        "batch": `apply(keys[B], image[B,H,W,C], ...) -> image`, which must equal mapping
        over examples but may be computed for the batch as a whole;
        "group": `apply(key, View, ...) -> View`, for stages that mix examples of one group.
      limits: `limits(arguments) -> {argument: (lowest, highest)}`, the legal range of traced
        arguments where it depends on the other arguments, or None.
      check: `check(arguments, size)` raises ValueError (what, what would be right) for
        arguments that do not suit images of `size` (height, width), or None.
    """

    apply: Callable[..., Any]
    form: Literal["example", "batch", "group"] = "example"
    limits: Callable[[Mapping[str, Any]], dict[str, tuple[float, float]]] | None = None
    check: Callable[[Mapping[str, Any], tuple[int, int]], None] | None = None
