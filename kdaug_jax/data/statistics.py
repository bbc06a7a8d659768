"""Mean and deviation of the pixels of a split, kept beside its index."""

from __future__ import annotations

import hashlib

import numpy as np

from kdaug_jax.data.dataset import Split
from kdaug_jax.data.index import cache_directory, read_kept, write_kept

# Of larger splits of one size, as many images are read as fit into it.
STATISTICS_BYTES = 1 << 30
# As many are read where sizes differ.
MIXED_IMAGES = 2048
_CHUNK_BYTES = 1 << 24


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
    kept = None
    if split.digest:
        key = hashlib.sha256(split.index[rows].astype("<i4").tobytes())
        key.update(repr(getattr(split.reader, "options", None)).encode())
        name = f"statistics-{split.digest[:32]}-{key.hexdigest()[:32]}.npz"
        kept = cache_directory() / name
        arrays = read_kept(kept)
        if "histogram" in arrays:
            return _moments(arrays["histogram"])
    histogram = np.zeros((3, 256), np.int64)
    for pixels in _pixels(split, rows):
        for channel in range(3):
            histogram[channel] += np.bincount(pixels[:, channel], minlength=256)
    if kept is not None:
        try:
            write_kept(kept, histogram=histogram)
        except OSError:
            pass  # the index has told that nothing can be kept there
    return _moments(histogram)


def _pixels(split: Split, rows: np.ndarray):
    """Yields the pixels of the images `rows` as `u8[n,3]`."""
    if split.size is None:
        for row in rows.tolist():
            yield np.asarray(split.image_at(row)).reshape(-1, 3)
        return
    step = max(_CHUNK_BYTES * len(split) // split.size_bytes, 1)
    for start in range(0, len(rows), step):
        yield split.read(rows[start : start + step]).reshape(-1, 3)


def _moments(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels = np.arange(256)
    total = histogram[0].sum()
    mean = histogram @ levels / total
    std = np.sqrt((histogram * (levels - mean[:, None]) ** 2).sum(1) / total)
    return mean, std
