"""The index of the images of a split: their sizes, kept outside the data, and a digest.

Building it opens every image once, for its header alone unless bad images are to be skipped.
Opening the data again compares names, bytes and modification times, and opens only images that
have changed.
"""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdaug_jax.data.options import ReadOptions
from kdaug_jax.errors import DataError, printable
from kdaug_jax.files import cache_folder, read_npz
from kdaug_jax.images.decode import Header, open_image, read_header
from kdaug_jax.images.readers import Names, read_file

# Of the kept files; another one is built anew.
VERSION = 2
# What is known of an image: nothing, its header, that it decodes, that it does not.
UNKNOWN, HEADER, DECODED, BAD = range(4)
MAX_THREADS = 16
# Images that a thread opens at once.
CHUNK = 64
SECONDS_BETWEEN_BARS = 1.0


class Listing(NamedTuple):
    """The N images of a base split, as a directory or an archive lists them.

    Attributes:
      names: of the files.
      label: `i32[N]`, class numbers.
      bytes: `i64[N]`, sizes of the files.
      changed: `i64[N]`, modification times in nanoseconds.
    """

    names: Names
    label: np.ndarray
    bytes: np.ndarray
    changed: np.ndarray


class Index(NamedTuple):
    """What is known of the N images of a base split.

    Attributes:
      rows: `i64[N]`, the image that stands at each position: itself, unless it is bad.
      sizes: `i32[N,2]`, height and width in pixels of the image at each position.
      digest: hexadecimal SHA-256 of names, labels, bytes of each file and image sizes.
    """

    rows: np.ndarray
    sizes: np.ndarray
    digest: str


class _Known(NamedTuple):
    """The kept columns: `i32[N,2]`, `u8[N]` of EXIF orientations, `u8[N]` of states."""

    sizes: np.ndarray
    orientation: np.ndarray
    state: np.ndarray


def build_index(
    where: str, listing: Listing, content: Callable[[int], str | bytes], options: ReadOptions,
    part: str = "",
) -> Index:
    """Returns the index of a base split, as far as possible from what was kept.

    Lines tell how many images are replaced and how many note an orientation in EXIF.

    Args:
      where: an absolute path of what is indexed, under which the index is kept.
      listing: the images, N.
      content: returns the file of an image, by its path or by its bytes; called in threads.
      options: how images are read.
      part: of `where`, if what lies there is indexed in parts.

    Returns:
      An `Index`.

    Raises:
      DataError: an image cannot be read; or none can where they are skipped.
    """
    kept = kept_path(_kept_name(where, part, options))
    known = _recall(kept, listing)
    skip = options.bad_images == "skip"
    wanted = np.flatnonzero(
        (known.state == UNKNOWN) | (known.state == (HEADER if skip else BAD))
    )
    if len(wanted):
        try:
            _look(where, listing, content, options, known, wanted)
        finally:  # after an error too, so that what was read need not be read again
            _keep(kept, listing, known, options)
    digest = _digest(listing, known.sizes)
    if len(wanted) and kept is not None:
        # Pixels may have changed without any size, and so without the digest.
        for path in kept.parent.glob(f"statistics-{digest[:32]}-*.npz"):
            path.unlink(missing_ok=True)
    bad = known.state == BAD
    _tell(where, listing, known, options)
    rows = next_good(bad)
    if rows is None:
        raise DataError(where, "no image can be decoded", "check data.source")
    return Index(rows, known.sizes[rows], digest)


def next_good(bad: np.ndarray) -> np.ndarray | None:
    """Returns which image stands at each position: itself, or the next good one where it is bad.

    Args:
      bad: `bool[N]`; the first follows the last.

    Returns:
      `i64[N]`, None if all are bad.
    """
    good = np.flatnonzero(~bad)
    return good[np.searchsorted(good, np.arange(len(bad))) % len(good)] if len(good) else None


def index_threads() -> int:
    """Returns the number of threads that ask the disk at once."""
    return min(MAX_THREADS, 2 * (os.cpu_count() or 1))


def kept_path(name: str) -> Path | None:
    """Returns where a file of the cache lies, which need not exist; None without a home folder."""
    return cache_folder("kdaug_jax", "index", name)


def write_kept(path: Path | None, **arrays: np.ndarray) -> None:
    """Writes arrays into the cache, all at once.

    Raises:
      OSError: the disk is full or cannot be written, or no home folder is known.
    """
    if path is None:
        raise OSError(errno.ENOENT, "no home folder is known")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_kept(path: Path | None) -> dict[str, np.ndarray]:
    """Returns the arrays of a file in the cache; none if it is absent, damaged or nowhere."""
    try:
        return {} if path is None else read_npz(path)
    except Exception:  # whatever a damaged file raises: it is made anew
        return {}


def recall_scan(
    key: Sequence[str], stamps: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Returns what a scan of containers of images found, if it was kept and they are the same.

    Args:
      key: what was scanned and how.
      stamps: `i64[F,2]`, bytes and modification times of the F containers.
      names: of the arrays that the scan kept.
    """
    arrays = read_kept(_scan_path(key))
    version, old = arrays.pop("version", None), arrays.pop("stamps", None)
    same = np.array_equal(version, VERSION) and np.array_equal(old, stamps)
    return arrays if same and set(arrays) == set(names) else None


def keep_scan(
    key: Sequence[str], stamps: np.ndarray, options: ReadOptions, **arrays: np.ndarray
) -> None:
    """Keeps what a scan of containers found, see `recall_scan`; a line tells if it cannot."""
    path = _scan_path(key)
    try:
        write_kept(path, version=np.array(VERSION), stamps=stamps, **arrays)
    except OSError as error:
        options.say(_not_kept(path, error))


def _scan_path(key: Sequence[str]) -> Path | None:
    name = hashlib.sha256("\0".join(key).encode("utf-8", "surrogateescape")).hexdigest()
    return kept_path(f"scan-{name[:32]}.npz")


def _not_kept(path: Path | None, error: OSError) -> str:
    place = path.parent if path else "~/.cache"
    return (
        f"{place}: the index cannot be kept ({error.strerror}), so the next start takes "
        "as long; $XDG_CACHE_HOME names another place"
    )


def _kept_name(where: str, part: str, options: ReadOptions) -> str:
    key = hashlib.sha256(f"{where}\0{part}\0{options.exif}".encode("utf-8", "surrogateescape"))
    return f"{key.hexdigest()[:32]}.npz"


def _digest(listing: Listing, sizes: np.ndarray) -> str:
    digest = hashlib.sha256(listing.names.block.tobytes())
    for column, dtype in ((listing.label, "<i4"), (listing.bytes, "<i8"), (sizes, "<i4")):
        digest.update(np.ascontiguousarray(column, dtype).tobytes())
    return digest.hexdigest()


def _recall(path: Path | None, listing: Listing) -> _Known:
    """Returns what was kept of these images; the state of new and changed ones is UNKNOWN."""
    count = len(listing.names)
    known = _Known(
        np.zeros((count, 2), np.int32), np.ones(count, np.uint8), np.zeros(count, np.uint8)
    )
    kept = read_kept(path)
    if not _is_index(kept):
        return known
    old = _Known(kept["sizes"], kept["orientation"], kept["state"])
    if np.array_equal(kept["names"], listing.names.block):
        now = then = np.arange(count)
    else:
        position = {name: row for row, name in enumerate(Names(kept["names"]))}
        pairs = [
            (row, position[name]) for row, name in enumerate(listing.names) if name in position
        ]
        now, then = np.array(pairs, np.int64).reshape(-1, 2).T
    same = (listing.bytes[now] == kept["bytes"][then]) & (
        listing.changed[now] == kept["changed"][then]
    )
    for column, source in zip(known, old, strict=True):
        column[now[same]] = source[then[same]]
    return known


def _is_index(kept: Mapping[str, np.ndarray]) -> bool:
    """Returns whether arrays are those that `_keep` wrote, for any number of images."""
    if not np.array_equal(kept.get("version"), VERSION) or "names" not in kept:
        return False
    count = len(Names(kept["names"])) if kept["names"].dtype == np.uint8 else -1
    wanted = {
        "bytes": ((count,), np.int64), "changed": ((count,), np.int64),
        "sizes": ((count, 2), np.int32), "orientation": ((count,), np.uint8),
        "state": ((count,), np.uint8),
    }
    return all(
        name in kept and (kept[name].shape, kept[name].dtype) == form
        for name, form in wanted.items()
    )


def _keep(path: Path | None, listing: Listing, known: _Known, options: ReadOptions) -> None:
    try:
        write_kept(
            path, version=np.array(VERSION), names=listing.names.block, bytes=listing.bytes,
            changed=listing.changed, **known._asdict(),
        )
    except OSError as error:
        options.say(_not_kept(path, error))


def _look(
    where: str, listing: Listing, content: Callable[[int], str | bytes], options: ReadOptions,
    known: _Known, rows: np.ndarray,
) -> None:
    """Opens the images `rows`, and writes into `known` what they are."""
    skip = options.bad_images == "skip"

    def look(chunk: np.ndarray) -> list[Header | DataError]:
        return [_header(where, listing.names[row], content, row, options) for row in chunk.tolist()]

    chunks = np.split(rows, np.arange(CHUNK, len(rows), CHUNK))
    bar = Bar(options, f"indexing {where}", len(rows))
    threads = index_threads()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for chunk, headers in zip(chunks, _in_order(pool, look, chunks, 4 * threads), strict=True):
            for row, header in zip(chunk.tolist(), headers, strict=True):
                if isinstance(header, Header):
                    known.sizes[row] = header.height, header.width
                    known.orientation[row] = header.orientation
                    known.state[row] = DECODED if skip else HEADER
                elif skip:
                    known.sizes[row], known.state[row] = 0, BAD
                else:
                    raise header
            bar.add(len(chunk))


def _in_order(
    pool: concurrent.futures.Executor, function: Callable, items: list, ahead: int
) -> Iterator:
    """Maps in order with at most `ahead` calls waiting, so that an error ends it soon."""
    waiting = [pool.submit(function, item) for item in items[:ahead]]
    try:
        for following in [*items[ahead:], *[None] * len(waiting)]:
            yield waiting.pop(0).result()
            if following is not None:
                waiting.append(pool.submit(function, following))
    finally:
        for future in waiting:
            future.cancel()


def _header(
    where: str, name: str, content: Callable[[int], str | bytes], row: int, options: ReadOptions
) -> Header | DataError:
    """Returns the header of an image that can be read, or why it cannot.

    Transparent images count as good ones: their remedy is another option.
    """
    path = printable(os.path.join(where, name))
    try:
        file = content(row)
        if options.bad_images == "skip":
            file = read_file(file, row) if isinstance(file, str) else file
            open_image(file, path, row, options.decoding._replace(alpha="drop"))
        file = io.BytesIO(file) if isinstance(file, bytes) else file
        return read_header(file, path, row, options.decoding)
    except DataError as error:
        return error


def _tell(where: str, listing: Listing, known: _Known, options: ReadOptions) -> None:
    bad, turned = np.flatnonzero(known.state == BAD), known.orientation > 1
    if len(bad):
        options.say(
            f"{where}: {len(bad)} of {len(known.state)} images cannot be decoded and are replaced "
            f"by the next good one (first: {printable(listing.names[bad[0]])})"
        )
    if not turned.any():
        return
    first = printable(listing.names[int(np.argmax(turned))])
    some = f"{where}: EXIF notes another orientation (images: {turned.sum()}, first: {first})"
    if options.exif == "ignore":
        options.say(f"{some}; they are left as they are stored, data.exif='apply' turns them")
        return
    quarter = known.orientation >= 5
    stored = np.where(quarter[:, None], known.sizes[:, ::-1], known.sizes)
    differ = len(np.unique(known.sizes, axis=0)) > 1 and len(np.unique(stored, axis=0)) == 1
    options.say(f"{some}; they are turned" + (
        ", which makes sizes differ; data.exif='ignore' leaves them as they are stored"
        if differ else ""
    ))


class Bar:
    """Shows how far a long task is, at most once a second, and its end if it was shown.

    Args:
      options: of which `progress` is called.
      text: what is done.
      total: how many there are to do.
      unit: what is counted.
    """

    def __init__(self, options: ReadOptions, text: str, total: int, unit: str = "images"):
        self._progress, self._text, self._total = options.progress, text, total
        self._unit = unit
        self._done, self._next = 0, time.monotonic() + SECONDS_BETWEEN_BARS
        self._shown = False

    def add(self, count: int) -> None:
        """Counts what was done."""
        self._done += count
        last = self._done == self._total and self._shown
        if last or time.monotonic() >= self._next:
            self._next, self._shown = time.monotonic() + SECONDS_BETWEEN_BARS, True
            text = f"{self._text}: {self._done:,} of {self._total:,} {self._unit}"
            self._progress(self._done / self._total, text)
