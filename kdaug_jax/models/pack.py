"""Packs quantised kernels into as many bits as they have, and unpacks them bit for bit.

A kernel of k bits holds at most 2^k values (see `models.quantize`), so each weight becomes a number
of k bits; numbers follow each other without gaps. What is not quantised stays float32.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError, CheckpointError
from kdaug_jax.files import parse_json
from kdaug_jax.models.foreign import opened, safetensors_file
from kdaug_jax.models.foreign.carded import read_card, with_card
from kdaug_jax.models.layers import FULL, Conv, Linear
from kdaug_jax.models.model import Model
from kdaug_jax.models.quantize import quantize_weight
from kdaug_jax.models.variables import flatten, unflatten
from kdaug_jax.runtime import model_card
from kdaug_jax.runtime.model_card import ModelCard

_LEVELS = ":levels"
_METADATA = "packed"


def quantized_kernels(model: Model, variables: Mapping[str, Any], size: Any) -> dict[str, int]:
    """Returns which kernels a network quantises, by path.

    Args:
      model: the network.
      variables: its variables.
      size: (height, width) of its images.

    Returns:
      Bits by path, such as `{"params/layer1_0/conv1/kernel": 4}`.
    """
    bits: dict[str, int] = {}

    def look(call, args, kwargs, context):
        module = context.module
        if isinstance(module, (Conv, Linear)) and module.bits != FULL:
            bits["/".join(("params", *module.path, "kernel"))] = module.bits
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, *size, model.channels), jnp.float32)
    with nn.intercept_methods(look):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    return bits


@functools.partial(jax.jit, static_argnums=1)
def _rounded(kernel: jax.Array, bits: int) -> jax.Array:
    # Compiled as a whole, as in the network: XLA rounds fused operations otherwise.
    return quantize_weight(kernel, bits)


def round_kernel(kernel: np.ndarray, bits: int) -> np.ndarray:
    """Returns a kernel as the network uses it: rounded to 2^bits values.

    Args:
      kernel: `f32[...]`, as it is trained.
      bits: 1..8.

    Returns:
      Array of the same shape.
    """
    return np.asarray(_rounded(jnp.asarray(kernel, jnp.float32), bits))


def pack(kernel: np.ndarray, bits: int) -> dict[str, np.ndarray]:
    """Stores the rounded form of a kernel.

    Args:
      kernel: `f32[...]`, as it is trained.
      bits: 1..8.

    Returns:
      `{"": u8[ceil(n * bits / 8)], ":levels": f32[at most 2^bits]}`: for each weight the number of
      its value, and the values. They are stored, not computed again, since compilers round the
      formula in more than one way.
    """
    levels, codes = np.unique(round_kernel(kernel, bits), return_inverse=True)
    if len(levels) > 2**bits:
        raise ArgumentError(f"{len(levels)} values do not fit {bits} bits")
    return {"": _squeeze(codes.reshape(-1).astype(np.uint8), bits), _LEVELS: levels}


def unpack(arrays: Mapping[str, np.ndarray], bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the rounded kernel that `pack` stored, bit for bit.

    Args:
      arrays: what `pack` returned.
      bits: 1..8.
      shape: of the kernel.

    Returns:
      `f32[shape]`.

    Raises:
      ArgumentError: the arrays are not those of such a kernel.
    """
    levels, codes = arrays[_LEVELS], _spread(arrays[""], bits, math.prod(shape))
    if levels.ndim != 1 or codes.size and codes.max() >= len(levels):
        raise ArgumentError(f"{levels.shape} values do not serve for all numbers of {bits} bits")
    return levels[codes].reshape(shape)


def _squeeze(codes: np.ndarray, bits: int) -> np.ndarray:
    digits = (codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(digits.reshape(-1), bitorder="little")


def _spread(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    if packed.dtype != np.uint8 or packed.shape != (-(-count * bits // 8),):
        raise ArgumentError(f"{packed.nbytes} bytes do not hold {count} numbers of {bits} bits")
    digits = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return (digits << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)


def write_packed(
    path: Path, variables: Mapping[str, Any], bits: Mapping[str, int], card: ModelCard
) -> None:
    """Writes a network's variables, those of a few bits packed, as a safetensors file.

    Args:
      path: the file.
      variables: `{"params", "batch_stats"}` of arrays.
      bits: which kernels are quantised, see `quantized_kernels`.
      card: what the network is; it is stored with a checksum of the arrays.
    """
    arrays, entries = {}, {}
    for name, leaf in flatten(variables).items():
        array = np.asarray(leaf)
        if name not in bits:
            arrays[name] = array
            continue
        parts = pack(array, bits[name])
        arrays |= {name + part: value for part, value in parts.items()}
        entries[name] = {"bits": bits[name], "shape": list(array.shape)}
    packed = json.dumps(entries, sort_keys=True)
    metadata = with_card({"format": "pt", _METADATA: packed}, card, arrays)
    safetensors_file.write(path, arrays, metadata)


def read_packed(path: Path) -> tuple[dict[str, Any], ModelCard]:
    """Reads what `write_packed` wrote.

    Args:
      path: the file.

    Returns:
      Variables in which quantised kernels are rounded already, for a network whose weights have
      full precision; and the card.

    Raises:
      CheckpointError: the file is damaged, or another kind of file.
      ConfigError: its card does not say how images are prepared.
    """
    opened.kind_of(path)
    arrays, metadata = safetensors_file.read(path)
    leaves = dict(arrays)
    damaged = CheckpointError(
        str(path), "holds no packed weights, or was damaged", "export the network again"
    )
    try:
        entries = parse_json(metadata.get(_METADATA, ""))
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(entries, dict):
        raise damaged
    fields = read_card(path, metadata, arrays)
    if not fields:
        raise damaged
    model_card.require_preprocessing(str(path), fields)
    card = ModelCard(**fields)
    for name, entry in entries.items():
        if not _is_entry(entry) or not {name, name + _LEVELS} <= set(leaves):
            raise damaged
        parts = {part: leaves.pop(name + part) for part in ("", _LEVELS)}
        try:
            leaves[name] = unpack(parts, entry["bits"], tuple(entry["shape"]))
        except ArgumentError:
            raise damaged from None
    return unflatten(leaves), card


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict) and entry.get("bits") in range(1, 9)
        and isinstance(entry.get("shape"), list)
        and all(type(side) is int and side >= 0 for side in entry["shape"])
    )


def sizes(variables: Mapping[str, Any], bits: Mapping[str, int]) -> list[tuple[str, int, int, int]]:
    """Counts the bytes of weights, packed and not.

    Args:
      variables: `{"params", "batch_stats"}` of arrays or shapes.
      bits: which kernels are quantised, see `quantized_kernels`.

    Returns:
      For each kind of weights its name, how many there are, their bytes as float32, and their bytes
      packed.
    """
    rows: dict[str, list[int]] = {}
    for path, leaf in flatten(variables).items():
        count, width = math.prod(leaf.shape), bits.get(path, FULL)
        kind = f"kernels of {width} bits" if path in bits else (
            "kernels in float32" if path.endswith("/kernel") else "BatchNorm and biases"
        )
        row = rows.setdefault(kind, [0, 0, 0])
        packed = -(-count * width // 8)
        row[:] = row[0] + count, row[1] + 4 * count, row[2] + packed
    return [(kind, *row) for kind, row in sorted(rows.items())]
