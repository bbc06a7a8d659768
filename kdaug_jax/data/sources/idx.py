"""The idx files of MNIST and of sets in its format, such as Fashion-MNIST."""

from __future__ import annotations

import functools
import gzip
import io
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory, numbered, split_of_arrays
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import DataError
from kdaug_jax.files import read_bytes, reason

# In front of the names of the two files of each split.
PREFIXES = {"train": "train", "test": "t10k"}
# The files hold no class names. Of these sets they are known, if the folder has one of these names
# in lower case and without signs between the letters.
CLASS_NAMES = {
    "fashionmnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}

# Bytes that a packed file may have; EMNIST's largest has 0.6 GB.
MOST_BYTES = 4 << 30


def idx(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads a set in MNIST's format.

    Args:
      argument: a directory with train-images-idx3-ubyte, train-labels-idx1-ubyte,
        t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, or the one that holds them in raw/. Each
        may have a dot instead of the hyphen before "idx", as some programs unpack it, may end in
        .gz, and may lie in a folder of its name.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the splits "train" and "test" in memory. Its class names are those of
      Fashion-MNIST and KMNIST where the directory has that name (signs and capitals do not
      matter), else "0", "1" and so on, as many as the training labels have.

    Raises:
      ConfigError: no directory is given.
      DataError: a file is missing, truncated or not of this format.

    Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998.
    """
    root = directory("idx", argument)
    named = re.sub(r"[^a-z0-9]", "", (root.parent if root.name == "raw" else root).name.lower())
    root = root / "raw" if (root / "raw").is_dir() else root
    files = {
        name: (
            _find(root, f"{prefix}-images-idx3-ubyte"),
            _find(root, f"{prefix}-labels-idx1-ubyte"),
        )
        for name, prefix in PREFIXES.items()
    }
    classes = int(read(files["train"][1], 1).max(initial=0)) + 1
    names = CLASS_NAMES.get(named, ())
    return Dataset(
        Deferred({name: functools.partial(_split, *two, classes) for name, two in files.items()}),
        names if len(names) == classes else numbered(classes),
    )


def read(path: Path, dimensions: int) -> np.ndarray:
    """Reads one idx file of unsigned bytes.

    Args:
      path: the file, gzipped or not.
      dimensions: how many it must have.

    Returns:
      `u8` array, read-only.

    Raises:
      DataError: it is not such a file, or shorter or longer than its header says.
    """
    try:
        content = read_bytes(path, "array")
        if content[:2] == b"\x1f\x8b":
            content = _unpacked(content, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(str(path), f"cannot be read ({reason(error)})", "fetch it again") from None
    if content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(
            str(path), f"starts with the bytes {content[:4].hex()}",
            f"an idx file of unsigned bytes with {dimensions} dimensions starts with "
            f"000008{dimensions:02x}",
        )
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:start].ljust(start - 4, b"\0"))
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            str(path), f"holds {len(content)} bytes", f"its header says {expected}: fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(content: bytes, dimensions: int) -> bytes:
    """Unpacks a file, but no more bytes than its header says and one: a bomb packs a disk full."""
    with gzip.open(io.BytesIO(content)) as file:
        start = file.read(4 + 4 * dimensions)
        shape = struct.unpack(f">{dimensions}I", start[4:].ljust(4 * dimensions, b"\0"))
        body, most = bytearray(start), min(math.prod(shape), MOST_BYTES) + 1
        while most and (part := file.read(min(most, 1 << 24))):
            body += part
            most -= len(part)
    return bytes(body)


def _find(root: Path, name: str) -> Path:
    names = [form + end for form in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for path in (root / file for file in names):
        if path.is_file():
            return path
        if path.is_dir():
            within = [path / file for file in names if (path / file).is_file()]
            if within:
                return within[0]
    files = ", ".join(
        f"{prefix}-{kind}" for prefix in PREFIXES.values()
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    raise DataError(
        str(root), f"has no {name}" if root.is_dir() else "is not a directory",
        f"these files are wanted, each with or without .gz: {files}",
    )


def _split(image: Path, label: Path, classes: int) -> Split:
    return split_of_arrays(read(image, 3), read(label, 1), classes, f"{image} and {label.name}")
