"""Safetensors files: read after a look at the header, and written all at once.

The library reads the arrays. The header is checked here first, because what is wrong with a file
that was cut off, damaged, or made to do harm must end in one line that names the array.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from kdaug_jax.errors import ArgumentError, CheckpointError
from kdaug_jax.files import read_bytes

State = dict[str, np.ndarray]

# Bytes of a header; the library allows as many.
_LONGEST = 100_000_000
# Numbers in an array; far more than any has, and few enough for their bytes to be counted.
_LARGEST = 2**48
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_COPY = "copy the file again"
_METADATA = "__metadata__"


def shown(name: str) -> str:
    """Returns a name from a file as printable ASCII, at most 80 characters on one line."""
    text = ascii(str(name))[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."


def below(state: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """Returns what is named `entry.NAME`, by NAME; `{}` if nothing is.

    What all names begin with may be left out.
    """
    dotted = {name: value for name, value in state.items() if "." in name}
    if len({name.partition(".")[0] for name in dotted}) == 1 and not any(
        name.startswith(f"{entry}.") for name in dotted
    ):
        return below({name.partition(".")[2]: value for name, value in dotted.items()}, entry)
    return {name.removeprefix(f"{entry}."): value for name, value in dotted.items()
            if name.startswith(f"{entry}.")}


def read(path: Path) -> tuple[State, dict[str, str]]:
    """Reads a safetensors file.

    Args:
      path: the file.

    Returns:
      Its arrays by name, which may not be written to, and its metadata.

    Raises:
      CheckpointError: it cannot be read, was cut off, or its header is invalid.
    """
    try:
        content = read_bytes(path, "weights")
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror})", "check the path and who may read it"
        ) from None
    entries, metadata = header(str(path), content)
    try:
        stored = dict(deserialize(content))
    except SafetensorError as error:
        raise CheckpointError(str(path), shown(f"is refused ({error})"), _COPY) from None
    arrays = {}
    for name, entry in entries.items():
        flat = np.frombuffer(stored[name]["data"], _TYPES[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays, metadata


def header(where: str, content: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Reads and checks the header of a safetensors file.

    Args:
      where: the file's name, for messages.
      content: the whole file.

    Returns:
      `{name: {"dtype", "shape", "data_offsets"}}` and the metadata.

    Raises:
      CheckpointError: naming what is wrong first.
    """
    def refuse(what: str, remedy: str = _COPY) -> CheckpointError:
        return CheckpointError(where, what, remedy)

    if len(content) < 8:
        raise refuse(f"has {len(content)} bytes, which is no safetensors file")
    length = int.from_bytes(content[:8], "little")
    if length > _LONGEST:
        raise refuse(
            f"is no safetensors file: its header would be {length:,} bytes long",
            "name a safetensors file, or a PyTorch file that ends in .pth",
        )
    if length > len(content) - 8:
        raise refuse(f"was cut off: a header of {length:,} bytes, {len(content) - 8:,} are there")
    try:
        table = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise refuse(shown(f"has a header that cannot be read ({error})")) from None
    if not isinstance(table, dict):
        raise refuse("has a header that is no table of arrays")
    metadata = table.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise refuse("has metadata that are not texts by name")
    size = len(content) - 8 - length
    spans = []
    for name, entry in table.items():
        wrong = _wrong(entry, size)
        if wrong:
            raise refuse(f"'{shown(name)}' {wrong}")
        spans.append((*entry["data_offsets"], name))
    end = 0
    for first, last, name in sorted(spans):
        if first != end:
            what = "overlaps the array before it" if first < end else "leaves a gap before it"
            raise refuse(f"'{shown(name)}' {what}")
        end = last
    if end != size:
        raise refuse(f"holds {size - end:,} bytes that belong to no array")
    return table, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ArgumentError for a name that is there twice, as readers do not agree which counts."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ArgumentError("a name is there twice")
    return table


def _wrong(entry: Any, size: int) -> str:
    """Returns what is wrong with the entry of an array; empty if nothing."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "is not described by dtype, shape and data_offsets"
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _TYPES:
        return f"has the unknown type {shown(entry['dtype'])}"
    if not _naturals(entry["shape"]) or len(entry["shape"]) > 8:
        return f"has the shape {shown(entry['shape'])}"
    if not _naturals(entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
        return f"has the offsets {shown(entry['data_offsets'])}"
    first, last = entry["data_offsets"]
    if last > size:
        return f"reaches to byte {last:,} of {size:,}: the file was cut off"
    expected = math.prod(entry["shape"]) * np.dtype(_TYPES[entry["dtype"]]).itemsize
    if last - first != expected:
        return f"takes {last - first:,} bytes, but its shape and type need {expected:,}"
    # NumPy refuses large sides even of an array that is empty because another side is 0.
    if math.prod(side for side in entry["shape"] if side) > _LARGEST:
        return f"has the shape {shown(entry['shape'])}"
    return ""


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file all at once: no reader sees half of it.

    Args:
      path: the file; one that is there is replaced.
      arrays: by name, of types that the format knows.
      metadata: texts by name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # The library's text of what a full disk says differs from the system's.
        partial.touch()  # with the rights that the user gives to new files; the library gives fewer
        rights = partial.stat().st_mode
        save_file(contiguous, partial, dict(metadata))
        partial.chmod(rights)
        os.replace(partial, path)
    except SafetensorError as error:
        raise CheckpointError(
            str(path), shown(f"cannot be written ({error})"), "make room or name another file"
        ) from None
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be written ({error.strerror})", "name another file, or make room"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
