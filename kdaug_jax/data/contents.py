"""What the examples of a split are recognised by: a digest of each split, and of all contents."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os

import numpy as np

from kdaug_jax.data.dataset import ArrayReader, Split
from kdaug_jax.data.index import Bar, index_threads
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.images.encoded import EncodedReader
from kdaug_jax.images.readers import FileReader, read_file

# Of splits on disk up to this size all contents are read on every start, without being asked for.
SMALL_IMAGES, SMALL_BYTES = 1000, 1 << 28
CHUNK = 64


def split_digest(split: Split) -> str:
    """Returns the digest by which a split is recognised.

    Args:
      split: N examples.

    Returns:
      Hexadecimal SHA-256: of the base split's names, labels, bytes of each file and image sizes
      where the source has indexed it; of pixels and labels where images lie in memory; of labels
      and image sizes for other readers.
    """
    if split.digest:
        return split.digest
    digest = hashlib.sha256()
    for column in (split.label, split.index):
        _add(digest, np.asarray(column, "<i4"))
    in_memory = isinstance(split.reader, ArrayReader)
    _add(digest, split.image if in_memory else np.asarray(split.sizes, "<i4"))
    return digest.hexdigest()


def is_small(split: Split) -> bool:
    """Returns whether all contents of a split on disk are read on every start."""
    small = len(split) <= SMALL_IMAGES and split.size_bytes <= SMALL_BYTES
    return small and isinstance(split.reader, FileReader | EncodedReader)


def content_digest(split: Split, where: str, options: ReadOptions = DEFAULTS) -> str:
    """Reads all images of a split, and returns the digest of what they hold.

    Args:
      split: N examples.
      where: what is read, for the bar.
      options: of which `progress` shows a bar.

    Returns:
      Hexadecimal SHA-256 of the bytes of all files, or of the pixels of other readers.

    Raises:
      DataError: an image cannot be read.
    """
    digest = hashlib.sha256()
    bar = Bar(options, f"verifying {where}", len(split))

    def read(start: int) -> list[bytes]:
        rows = range(start, min(start + CHUNK, len(split)))
        return [hashlib.sha256(_content(split, row)).digest() for row in rows]

    threads = index_threads()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(split), CHUNK * threads * 4):
            starts = range(first, min(first + CHUNK * threads * 4, len(split)), CHUNK)
            for sums in pool.map(read, starts):
                digest.update(b"".join(sums))
                bar.add(len(sums))
    return digest.hexdigest()


def _content(split: Split, row: int) -> bytes:
    reader = split.reader
    if isinstance(reader, FileReader):
        position = int(reader.rows[row])
        return read_file(os.path.join(reader.directory, reader.names[position]), position)
    if isinstance(reader, EncodedReader):
        return reader.content(int(reader.rows[row]))
    return split.read(np.array([row])).tobytes()


def _add(digest, array: np.ndarray) -> None:
    digest.update(repr((array.dtype.str, array.shape)).encode())
    digest.update(memoryview(np.ascontiguousarray(array)).cast("B"))
