"""PyTorch's files of weights, read by PyTorch itself and never in a way that runs their code."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kdaug_jax.errors import CheckpointError
from kdaug_jax.models.foreign.safetensors_file import State, shown

# What the first bytes of a zip archive (PyTorch 1.6 and later) and of a pickle are.
_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

# Under which names training scripts keep the weights beside other things; the first that is there.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict")

CONVERT = (
    "if you trust its author, convert it where PyTorch is: python -c \"import torch, "
    "safetensors.torch as s; d = torch.load('{path}', 'cpu', weights_only=False); "
    "s.save_file({{k: v.contiguous() for k, v in d['{key}'].items()}}, '{path}.safetensors')\""
)


def looks_like_pickle(path: Path) -> bool:
    """Returns whether a file begins like one that PyTorch's `save` wrote."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError:
        return False  # the reader will say what is wrong
    # A safetensors file begins with the 8 bytes of its header's length, such as 0x280, and "{".
    size = int.from_bytes(start[:8], "little")
    return start.startswith(_MAGIC) and not (start[8:] == b"{" and size < path.stat().st_size)


def convert(path: Path, key: str = "") -> str:
    """Returns the command that turns a pickle into a safetensors file, for the text of an error."""
    return CONVERT.format(path=path, key=key or "model")


def read(path: Path, key: str = "") -> State:
    """Reads a file of PyTorch, tensors only: `torch.load(..., weights_only=True)`.

    Args:
      path: the file.
      key: where the weights lie inside, such as "ema"; by default the file itself or the first of
        `WRAPPERS` that is there.

    Returns:
      Arrays by name; bfloat16 ones in the type of that name.

    Raises:
      CheckpointError: PyTorch is absent, or the file is damaged, holds more than tensors, or no
        weights.
    """
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            str(path), "is a file of PyTorch, which is not installed",
            f"pip install torch, or {convert(path, key)}",
        ) from None
    try:
        content = io.BytesIO(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages that PyTorch will name otherwise
            loaded = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message is long; only the line that names what it refused is shown.
        reason = next((line for line in str(error).splitlines() if "Unsupported" in line
                       or "GLOBAL" in line), str(error).splitlines()[0] if str(error) else "")
        raise CheckpointError(
            str(path), f"holds more than weights, or is damaged ({shown(reason.strip())})",
            convert(path, key),
        ) from None
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror})", "check the path and who may read it"
        ) from None
    except Exception as error:  # PyTorch's readers raise many types for a damaged file
        reason = str(error).strip().splitlines()
        what = f"{type(error).__name__}: {reason[0] if reason else ''}"
        raise CheckpointError(
            str(path), f"cannot be read ({shown(what)})", "copy the file again"
        ) from None
    return {name: _array(path, name, tensor, torch) for name, tensor in
            _unwrap(path, loaded, key, torch).items()}


def _unwrap(path: Path, loaded: Any, key: str, torch: Any) -> Mapping[str, Any]:
    """Finds the table of tensors in what was loaded."""
    def is_state(value: Any) -> bool:
        return isinstance(value, Mapping) and len(value) > 0 and all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor)
            for name, tensor in value.items()
        )

    if not key and is_state(loaded):
        return loaded
    inside = loaded if isinstance(loaded, Mapping) else {}
    for name in (key,) if key else WRAPPERS:
        if is_state(inside.get(name)):
            return inside[name]
    held = ", ".join(shown(name) for name in list(inside)[:10]) or type(loaded).__name__
    place = f"under '{key}'" if key else f"nor under {', '.join(WRAPPERS)}"
    raise CheckpointError(
        str(path), f"holds no weights {place} (it holds {held})",
        "save model.state_dict(), or name the right entry with --key",
    )


def _array(path: Path, name: str, tensor: Any, torch: Any) -> np.ndarray:
    try:
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(
            str(path), f"'{shown(name)}' is no plain array ({shown(str(error).splitlines()[0])})",
            "save dense float32 weights",
        ) from None
