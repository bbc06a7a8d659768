"""RandAugment as timm reads it from a config string such as `rand-m9-mstd0.5-inc1`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment.ops.table import Op, op_row
from kdaug_jax.augment.policies.levels import ENHANCE, FIXED, SHEAR, each
from kdaug_jax.augment.policies.policy import (
    HparamSpec,
    Levels,
    Policy,
    Rows,
    below,
    named,
    plain,
    signed,
)
from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.types import Range

TRANSLATE = {"TranslateXRel": ("translate_x", 1), "TranslateYRel": ("translate_y", 0)}
HUNDRED = 100  # noisy magnitudes are rounded to hundredths
_STEPS = 1 << 14

# The kind of each part of a config string, its default, and its bounds.
PARTS = {
    "m": (int, 10, 0, 1000), "n": (int, 2, 0, 100), "p": (float, 0.5, 0.0, 1.0),
    "mstd": (float, 0.0, 0.0, float("inf")), "mmax": (int, 10, 1, 100), "inc": (int, 0, 0, 1),
}


class Config(NamedTuple):
    """What a config string says.

    Attributes:
      m: magnitude.
      n: ops an image.
      p: probability of each of them.
      mstd: standard deviation of the magnitude; above 100 it is uniform over 0..m instead.
      mmax: what magnitudes are clipped to.
      inc: 1 for ops that all grow with the magnitude.
    """

    m: int
    n: int
    p: float
    mstd: float
    mmax: int
    inc: int


def parse(text: str) -> Config:
    """Reads a config string: `rand` and parts of a name and a number, in any order.

    Args:
      text: such as `rand-m9-mstd0.5-inc1`. `inc0` is off here, though timm takes it for on.

    Returns:
      Its numbers, defaults filled in.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    start, *parts = text.split("-")
    if start != "rand":
        raise ArgumentError(f"{text!r} starts with {start!r}", "write rand-m9-mstd0.5-inc1")
    numbers: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]*)(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})", part)
        name = match[1] if match else re.match(r"[a-zA-Z]*", part)[0]
        if name not in PARTS:
            raise ArgumentError(f"{text!r}: unknown part {part!r}", suggest(name, PARTS))
        kind, _, low, high = PARTS[name]
        if not match or (kind is int and not match[2].isdigit()):
            number = "a whole number" if kind is int else "a number"
            raise ArgumentError(f"{text!r}: cannot read {part!r}", f"write {name} and {number}")
        if name in numbers:
            raise ArgumentError(f"{text!r}: {name} is given twice", "give it once")
        numbers[name] = kind(match[2])
        if not low <= numbers[name] <= high:
            raise ArgumentError(f"{text!r}: {part!r}", f"{name} must be {low}..{high}")
    return Config(**{name: numbers.get(name, part[1]) for name, part in PARTS.items()})


def ops(increasing: bool) -> Levels:
    """Returns timm's 15 ops at magnitudes 0..mmax of 10.

    Source: `_RAND_TRANSFORMS` and `_RAND_INCREASING_TRANSFORMS` of timm/data/auto_augment.py.
    """

    def enhance(op, m, size):
        if not increasing:
            return plain(op, m / 10 * 1.8 + 0.1)
        by = m / 10 * 0.9
        return Op(op, max(0.1, 1.0 + by)), Op(op, max(0.1, 1.0 - by))

    def posterize(m, size):
        bits = int(m / 10 * 4)
        return plain("posterize", max(4 - bits, 0) if increasing else min(bits, 8))

    def solarize(m, size):
        threshold = min(256, int(m / 10 * 256))
        return plain("solarize", 256 - threshold if increasing else threshold)

    return {
        **FIXED,
        "Rotate": lambda m, size: signed("rotate", m / 10 * 30.0),
        "Posterize": posterize,
        "Solarize": solarize,
        "SolarizeAdd": lambda m, size: plain("solarize_add", min(128, int(m / 10 * 110))),
        **each(ENHANCE, enhance),
        **each(SHEAR, lambda op, m, size: signed(op, m / 10 * 0.3)),
        **each(TRANSLATE, lambda op, m, size: signed(op[0], m / 10 * 0.45 * size[op[1]])),
    }


def timm(
    text: str, *, size: tuple[int, int], resample: Sequence[str] = ("bilinear", "bicubic")
) -> Policy:
    """Applies ops that are drawn with replacement, each with its probability and magnitude.

    Where `mstd` is given, each op draws a magnitude of its op from N(m, mstd), clipped to
    0..mmax and rounded to hundredths, or from 0..m uniformly if `mstd` is above 100.

    Args:
      text: a config string, see `parse`.
      size: height and width of the images in pixels.
      resample: filters of which each geometric op draws one.

    Returns:
      A policy with the traced hyper-parameters `m`, `i32[]`, and `p`, `f32[]`; with `mstd`,
      `f32[]`, if it is more than 0 and at most 100.

    Raises:
      ArgumentError: what is wrong, and what to write.

    Source: Wightman, `rand_augment_transform` of timm; the 2021 recipes of
    "ResNet strikes back".
    """
    config = parse(text)
    if not resample:
        raise ArgumentError("resample is empty", "name bilinear or bicubic")
    for name in resample:
        named("filter", name, dict.fromkeys(("nearest", "bilinear", "bicubic")))
    # Without noise only whole magnitudes occur.
    scale = HUNDRED if config.mstd > 0 else 1
    rows = Rows()
    index = rows([
        [_filtered(op(step / scale, size), resample) for step in range(scale * config.mmax + 1)]
        for op in ops(config.inc == 1).values()
    ])
    hparams = {
        "m": HparamSpec(np.asarray(config.m, np.int32), Range(np.int32, *PARTS["m"][2:])),
        "p": HparamSpec(np.asarray(config.p, np.float32), Range(np.float32, 0.0, 1.0)),
    }
    if 0 < config.mstd <= 100:
        hparams["mstd"] = HparamSpec(
            np.asarray(config.mstd, np.float32), Range(np.float32, 0.0, 100.0)
        )
    draw = _draw(index, config.n, _step(config, scale))
    return Policy(rows.ops, draw, config.n, hparams, fill=128)


def _filtered(pair, resample: Sequence[str]) -> list[list[Op]]:
    """Returns an op by sign and by filter; ops that move no pixels have no filter."""
    geometric = op_row(pair[0].name).geometric
    return [[op._replace(resample=name) if geometric else op for name in resample] for op in pair]


def _draw(index: np.ndarray, n: int, step: Callable) -> Callable:
    def draw(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        op = below(key, "op", index.shape[0], (n,))
        sign = below(key, "sign", 2, (n,))
        resample = below(key, "resample", index.shape[3], (n,))
        applied = jax.random.uniform(rng.fold(key, "apply"), (n,)) < hparams["p"]
        at = jnp.clip(step(key, hparams), 0, index.shape[1] - 1)
        return jnp.where(applied, jnp.asarray(index)[op, at, sign, resample], 0)

    return draw


def _step(config: Config, scale: int) -> Callable:
    """Makes `f(key, hparams) -> i32[n]`, magnitudes in units of 1 / scale before they are clipped.

    The normal distribution is a table of its quantiles, because its inverse has other last bits
    on other devices; one product is rounded alike everywhere.
    """
    if config.mstd > 100:
        # Rounding the uniform distribution to hundredths halves the weight of both ends.
        return lambda key, hparams: (
            (below(key, "magnitude", 2 * scale * hparams["m"], (config.n,)) + 1) // 2
        )
    if config.mstd == 0:
        return lambda key, hparams: jnp.broadcast_to(hparams["m"], (config.n,))
    quantile = NormalDist().inv_cdf
    quantiles = np.array(
        [scale * quantile((step + 0.5) / _STEPS) for step in range(_STEPS)], np.float32
    )

    def step(key, hparams):
        drawn = jnp.asarray(quantiles)[below(key, "magnitude", _STEPS, (config.n,))]
        return scale * hparams["m"] + jnp.rint(hparams["mstd"] * drawn).astype(jnp.int32)

    return step


