"""What is known of the pixels of a split: mean and deviation, kept beside its index, and sizes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdaug_jax.data.dataset import Split
from kdaug_jax.data.index import index_threads, kept_path, read_kept, write_kept
from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import image_size
from kdaug_jax.images.readers import FileReader

# Of larger splits of one size, as many images are read as fit into it.
STATISTICS_BYTES = 1 << 30
# As many are read where sizes differ.
MIXED_IMAGES = 2048
_CHUNK_BYTES = 1 << 24
# What readers of files and containers say of where their pixels come from.
READ_FROM = ("options", "directory", "where", "column", "field")


def statistics(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and deviation of each channel over evenly spaced images of a split.

    Where all images have one size, these are as many as fit into `STATISTICS_BYTES`, otherwise
    `MIXED_IMAGES`. Over these images both are exact, every pixel counting once, so the same images
    give the same numbers wherever they are read from. Those of a split with a digest are kept.

    Args:
      split: N images.

    Returns:
      Mean and deviation in pixel units, two arrays `f64[3]`.

    Raises:
      DataError: an image is corrupt.
    """
    count = MIXED_IMAGES
    if split.size is not None:
        count = max(STATISTICS_BYTES * len(split) // split.size_bytes, 1)
    count = min(len(split), count)
    rows = np.arange(count) * len(split) // count
    kept = _kept_path(split, rows) if split.digest else None
    histogram = read_kept(kept).get("histogram")
    if histogram is None or (histogram.shape, histogram.dtype) != ((3, 256), np.int64):
        histogram = np.zeros((3, 256), np.int64)
        for part in _histograms(split, rows):
            histogram += part
        if kept:
            try:
                write_kept(kept, histogram=histogram)
            except OSError:
                pass  # the index has told that nothing can be kept there
    levels = np.arange(256)
    total = histogram[0].sum()
    mean = histogram @ levels / total
    std = np.sqrt((histogram * (levels - mean[:, None]) ** 2).sum(1) / total)
    return mean, std


def describe_sizes(split: Split) -> str:
    """Returns what sizes the images of a split have, for messages.

    Names the first image of another size where most images have one.
    """
    sizes, counts = np.unique(split.sizes, axis=0, return_counts=True)
    most = int(np.argmax(counts))
    if 2 * counts[most] < len(split):
        areas = sizes.prod(axis=1, dtype=np.int64)
        small, large = _size(sizes[np.argmin(areas)]), _size(sizes[np.argmax(areas)])
        return f"{len(split):,} images of {len(sizes):,} sizes from {small} to {large}"
    text = f"{counts[most]:,} of {len(split):,} images are {_size(sizes[most])}"
    others = np.flatnonzero((split.sizes != sizes[most]).any(axis=1))
    if not len(others):
        return text
    text += f", but image {split.index[others[0]]} is {_size(split.sizes[others[0]])}"
    return text + _turned(split.reader, int(others[0]))


def _turned(reader: Any, row: int) -> str:
    """Tells that an image has another size only since its EXIF turns it, or since nothing does."""
    if not hasattr(reader, "options"):
        return ""
    position = int(reader.rows[row])
    apply = reader.options.exif == "apply"
    other = reader.options._replace(exif="ignore" if apply else "apply")
    try:
        file = (
            os.path.join(reader.directory, reader.names[position])
            if isinstance(reader, FileReader) else io.BytesIO(reader.content(position))
        )
        if image_size(file, other) == tuple(reader.sizes[row]):
            return ""
    except DataError:  # which is told when the image is needed
        return ""
    if apply:
        return " as its EXIF turns it, which data.exif='ignore' does not apply"
    return " as it is stored, and its EXIF turns it, which data.exif='apply' applies"


def _size(size: np.ndarray) -> str:
    return "{1}×{0}".format(*size.tolist())


def _kept_path(split: Split, rows: np.ndarray) -> Path | None:
    positions = getattr(split.reader, "rows", split.index)  # of what is read
    key = hashlib.sha256(positions[rows].astype("<i8").tobytes())
    # The digest is that of names and sizes: images of another place, or of another column of the
    # same files, may have the same ones.
    read_from = [getattr(split.reader, name, None) for name in READ_FROM]
    key.update(repr(read_from).encode("utf-8", "surrogateescape"))
    return kept_path(f"statistics-{split.digest[:32]}-{key.hexdigest()[:32]}.npz")


def _histograms(split: Split, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields histograms `i64[3,256]` of parts of the images `rows`."""
    if split.in_memory:
        step = max(_CHUNK_BYTES * len(split) // split.size_bytes, 1)
        for start in range(0, len(rows), step):
            yield _histogram(split.read(rows[start : start + step]))
        return
    with concurrent.futures.ThreadPoolExecutor(index_threads()) as pool:
        futures = [pool.submit(lambda row: _histogram(split.image_at(row)), int(row))
                   for row in rows]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _histogram(pixels) -> np.ndarray:
    pixels = np.asarray(pixels).reshape(-1, 3)
    return np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])
