"""PyTorch's files of weights, read by PyTorch itself and never in a way that runs their code."""

from __future__ import annotations

import io
import pickle
import shlex
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kdaug_jax.errors import CheckpointError
from kdaug_jax.files import read_bytes
from kdaug_jax.models.foreign import opened
from kdaug_jax.models.foreign.safetensors_file import State, below, shown

# Under which names training scripts keep the weights beside other things; the first that is there.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict")

# Takes a state, one beside other things, a module, or a module beside them. Clones, since arrays
# that share memory are refused.
CONVERT = (
    "import sys, torch, safetensors.torch as s; "
    "f = lambda d: getattr(d, 'state_dict', lambda: d)(); "
    "d = f(torch.load(sys.argv[1], 'cpu', weights_only=False)); "
    "d = f(next((d[k] for k in {keys} if k in d), d)); "
    "s.save_file({{k: v.detach().clone().contiguous() for k, v in d.items() "
    "if hasattr(v, 'detach')}}, sys.argv[1] + '.safetensors')"
)


def convert(path: Path, key: str = "") -> str:
    """Returns the command that turns a pickle into a safetensors file, for the text of an error."""
    program = CONVERT.format(keys=(key,) if key else WRAPPERS)
    return (
        "if you trust its author, convert it where PyTorch is: "
        f'python -c "{program}" {shlex.quote(str(path))}'
    )


def read(
    path: Path, key: str = "", trusted: bool = False, say: Callable[[str], None] = print
) -> State:
    """Reads a file of PyTorch, tensors only: `torch.load(..., weights_only=True)`.

    Args:
      path: the file.
      key: where the weights lie inside, such as "ema": an entry, or what their names begin with
        before a dot; by default the file itself or the first of `WRAPPERS` that is there.
      trusted: whether the bytes are known to be right, so that no checksum is needed.
      say: prints a line if weights are taken beside others, such as averaged ones.

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
        stored = read_bytes(path, "weights")
        # PyTorch does not read the archive's checksums.
        if not trusted and (wrong := _damaged_entry(stored)):
            raise CheckpointError(
                str(path), f"is damaged: the checksum of '{shown(wrong)}' in it does not fit",
                "copy the file again; or give its --sha256 if it was saved without checksums",
            )
        content = io.BytesIO(stored)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages that PyTorch will name otherwise
            loaded = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message is long; only the line that names what it refused is shown.
        reason = next((line for line in str(error).splitlines() if "Unsupported" in line
                       or "GLOBAL" in line), str(error).splitlines()[0] if str(error) else "")
        raise CheckpointError(
            str(path), f"holds more than weights, or is damaged ({shown(reason.strip())})",
            convert(path, key) if _is_pickle(stored) else "copy the file again",
        ) from None
    except CheckpointError:
        raise
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
            _unwrap(path, loaded, key, torch, say).items()}


def _damaged_entry(content: bytes) -> str:
    """Returns the first entry of an archive whose checksum does not fit; "" for other files."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return ""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip() or ""
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        return str(error)


def _is_pickle(content: bytes) -> bool:
    """Returns whether a file, or the one that an archive is about, is a pickle."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return opened.is_pickle(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return bool(names) and opened.is_pickle(archive.read(names[0]))


def _unwrap(
    path: Path, loaded: Any, key: str, torch: Any, say: Callable[[str], None]
) -> Mapping[str, Any]:
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
            others = [shown(other) for other, value in inside.items()
                      if is_state(value) and other != name]
            if others and not key:
                say(f"{path}: weights of '{shown(name)}' are taken; it holds others, too: "
                    f"--entry={others[0]}" + f" and {len(others) - 1} more" * (len(others) > 1))
            return inside[name]
    states = (loaded, *map(inside.get, WRAPPERS)) if key else ()
    if part := next(filter(None, (below(state, key) for state in states if is_state(state))), None):
        return part
    held = ", ".join(shown(name) for name in list(inside)[:10]) or type(loaded).__name__
    place = f"under '{key}'" if key else f"nor under {', '.join(WRAPPERS)}"
    raise CheckpointError(
        str(path), f"holds no weights {place} (it holds {held})",
        "save model.state_dict(), or name the right entry with --entry",
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
