"""Reads pickles of plain data: nothing that a pickle names is imported or run.

A pickle is a program. What it may call is the closed list `CALLABLES`, and each entry is a
replacement of this module that builds an array or bytes and checks its arguments.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from kdaug_jax.errors import DataError
from kdaug_jax.files import open_file

ENCODINGS = ("latin1", "latin-1")


class Refused(Exception):
    """The pickle asks for something that is not plain data."""


class _Dtype:
    """What stands for a dtype while a pickle is read.

    Attributes:
      dtype: of numbers; its byte order is part of the state that follows.
    """

    def __init__(self, text: Any):
        self.dtype = _dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) >= 2 else None
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|"):
            raise Refused(f"a dtype with the state {state!r:.80}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What stands for an array while a pickle is read.

    Attributes:
      array: None until its state is read.
    """

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array whose state is not (version, shape, dtype, order, bytes)")
        _, shape, dtype, fortran, content = state
        self.array = _of_bytes(content, dtype, shape, "F" if fortran else "C")


class _Call:
    """One callable of the list; without attributes, so that no pickle can change it."""

    __slots__ = ()


class _Reconstruct(_Call):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> _Array:
        if kind is not _Array:
            raise Refused("an array of another class than numpy.ndarray")
        return _Array()


class _MakeDtype(_Call):
    __slots__ = ()

    def __call__(self, text: Any, align: Any = False, copy: Any = False) -> _Dtype:
        return _Dtype(text)


class _FromBuffer(_Call):
    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
        if order not in ("C", "F") or axes is not None:
            raise Refused(f"an array in the order {order!r:.20}")
        array = _Array()
        array.array = _of_bytes(content, dtype, shape, order)
        return array


class _Encode(_Call):
    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ENCODINGS:
            raise Refused(f"text in the encoding {encoding!r:.40}")
        return text.encode("latin1")


# Exact pairs: a test of the first words of a module lets other functions of it through. The names
# are those of NumPy 1 and 2, of protocols up to 2 (`_codecs.encode`) and from 5 (`_frombuffer`).
CALLABLES = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _MakeDtype(),
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer(),
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in CALLABLES:
            raise Refused(f"it calls {module}.{name}"[:120])
        return CALLABLES[module, name]

    def persistent_load(self, identifier: Any) -> Any:
        raise Refused("it refers to an object outside of the file")


def read_pickle(path: Path) -> dict[str, Any]:
    """Reads a pickled dict of arrays, bytes, numbers, strings, lists and dicts.

    Strings of Python 2 are read as Latin-1, so every byte is kept.

    Args:
      path: the file.

    Returns:
      The dict; its keys are strings, arrays are read-only and hold numbers.

    Raises:
      DataError: the file is damaged, holds something else, or calls a function other than those
        that NumPy's arrays of numbers need. Nothing that it names is imported or run.
    """
    try:
        with open_file(path, "weights") as file:
            loaded = _Unpickler(file, encoding="latin1").load()
    except Refused as error:
        raise DataError(
            str(path), f"is a pickle that holds more than plain data ({error}); nothing of it was "
            "run", "fetch the data set anew from its publisher",
        ) from None
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", "check the file") from None
    except Exception as error:  # a damaged pickle raises anything
        line = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(
            str(path), f"is a damaged pickle ({line:.120})", "unpack the archive again"
        ) from None
    if not isinstance(loaded, dict):
        raise DataError(str(path), f"holds {type(loaded).__name__}, not a dict", "check the file")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): (
            value.array if isinstance(value, _Array) else value
        )
        for key, value in loaded.items()
    }


def _dtype(text: Any) -> np.dtype:
    """Returns a dtype of numbers from its code, such as "u1"."""
    text = text.decode("latin1") if isinstance(text, bytes) else text
    codes = {code for kind in "iuf" for code in (f"{kind}1", f"{kind}2", f"{kind}4", f"{kind}8")}
    if text not in (codes | {"b1"}) - {"f1"}:
        raise Refused(f"an array of dtype {text!r:.40}")
    return np.dtype(text)


def _of_bytes(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    content = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise Refused(f"an array of {type(content).__name__}")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused(f"an array of shape {shape!r:.80}")
    array = np.frombuffer(bytes(content), dtype.dtype).reshape(shape, order=order)
    array.setflags(write=False)
    return array
