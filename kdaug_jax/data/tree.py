"""Lists the images below folders of classes, and makes splits of them."""

from __future__ import annotations

import concurrent.futures
import errno
import operator
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kdaug_jax.data.dataset import Split, make_split
from kdaug_jax.data.index import Listing, build_index, index_threads
from kdaug_jax.data.options import ReadOptions
from kdaug_jax.errors import ConfigError, DataError, printable, suggest
from kdaug_jax.files import explained
from kdaug_jax.images.decode import SHOWN_FORMATS, SUFFIXES
from kdaug_jax.images.readers import ILSVRC_PNG, FileReader, Names

IMAGE_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
ORDERS = ("string", "numeric")


class Files:
    """Files of images, in three lists: a million structs would keep Python's collector busy.

    Attributes:
      names: below the split's folder.
      bytes: their sizes.
      changed: their modification times in nanoseconds.
    """

    def __init__(self):
        self.names: list[str] = []
        self.bytes: list[int] = []
        self.changed: list[int] = []

    def __len__(self) -> int:
        return len(self.names)

    def extend(self, others: Files) -> None:
        """Appends other files."""
        self.names += others.names
        self.bytes += others.bytes
        self.changed += others.changed


class Passed:
    """Counts what is passed over, by kind."""

    def __init__(self):
        self._kinds: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Counts one entry of a directory."""
        count, first = self._kinds.get(kind, (0, name))
        self._kinds[kind] = count + 1, printable(first)

    def merge(self, other: Passed) -> None:
        """Counts what another counted, too."""
        for kind, (number, name) in other._kinds.items():
            count, first = self._kinds.get(kind, (0, name))
            self._kinds[kind] = count + number, first

    def below(self, place: str | os.PathLike[str]) -> str:
        """Returns the counts as text, with names relative to a directory."""
        return ", ".join(
            f"{count} {kind} (first: {first.removeprefix(os.path.join(place, ''))})"
            for kind, (count, first) in self._kinds.items()
        )

    def __bool__(self) -> bool:
        return bool(self._kinds)


def entries(place: str | os.PathLike[str], passed: Passed) -> list[os.DirEntry[str]]:
    """Returns the entries of a directory by name, in the order of code points.

    Hidden names, `__MACOSX` and macOS's `._*` are passed over.

    Raises:
      DataError: it cannot be listed, or an entry is a link that leads nowhere.
    """
    try:
        with os.scandir(place) as scan:
            listed = sorted(scan, key=operator.attrgetter("name"))
    except OSError as error:
        raise DataError(
            str(place), f"cannot be listed ({explained(error, place).strerror})",
            "check the path and who may read it",
        ) from None
    visible = []
    for entry in listed:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            passed.add("hidden", entry.path)
            continue
        if entry.is_symlink():
            check_link(entry.path)
        visible.append(entry)
    return visible


def check_link(path: str | os.PathLike[str]) -> None:
    """Validates that a link leads somewhere.

    Raises:
      DataError: it does not.
    """
    try:
        os.stat(path)
    except OSError as error:
        what = f"is a link to {printable(os.readlink(path))}, which does not exist"
        if error.errno != errno.ENOENT:
            what = f"is a link that cannot be followed ({explained(error, path).strerror})"
        raise DataError(printable(str(path)), what, "mend or remove it") from None


def folders(place: str | os.PathLike[str], passed: Passed) -> tuple[str, ...]:
    """Returns the names of the visible folders of a directory, in the order of code points."""
    return tuple(entry.name for entry in entries(place, passed) if entry.is_dir())


def images(place: str | os.PathLike[str], passed: Passed) -> Files:
    """Returns the images that lie directly in a directory, by name."""
    return _images((entry for entry in entries(place, passed) if not entry.is_dir()), "", passed)


def images_below(place: str | os.PathLike[str], folder: str, passed: Passed) -> Files:
    """Returns the images of a folder and of all folders below it.

    They are sorted by folder, then by name, both in the order of code points, as torchvision's
    ImageFolder has them. Links are followed, but each folder is listed once, and none that `place`
    lies in: a link to it would make every class a part of this one.

    Args:
      place: the directory of the split.
      folder: its name below `place`.
      passed: counts what is passed over.

    Returns:
      The files, named relative to `place`.

    Raises:
      DataError: a folder cannot be listed, or a link leads nowhere.
    """
    listed: dict[str, Files] = {}
    home = Path(place).resolve()
    seen = {_identity(path) for path in (home, *home.parents)}
    waiting = [folder]
    while waiting:
        inside = waiting.pop(0)
        path = os.path.join(place, inside)
        identity = _identity(path)
        if identity in seen:
            passed.add("links back to a folder", path)
            continue
        seen.add(identity)
        inner = []
        for entry in entries(path, passed):
            if entry.is_dir():
                waiting.append(os.path.join(inside, entry.name))
            else:
                inner.append(entry)
        listed[inside] = _images(inner, inside + os.sep, passed)
    files = Files()
    for inside in sorted(listed):
        files.extend(listed[inside])
    return files


def _identity(path: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _images(listed: Iterable[os.DirEntry[str]], prefix: str, passed: Passed) -> Files:
    """Returns those of the files whose suffix is that of an image; `prefix` is put before names."""
    files = Files()
    for entry in listed:  # a million times for ImageNet
        name = entry.name
        dot = name.rfind(".")
        suffix = name[dot:].lower() if dot > 0 else ""
        if not entry.is_file():  # opening a FIFO would wait for ever
            passed.add("not regular files", entry.path)
        elif suffix not in IMAGE_SUFFIXES:
            passed.add(suffix or "without suffix", entry.path)
        else:
            status = entry.stat()
            files.names.append(prefix + name)
            files.bytes.append(status.st_size)
            files.changed.append(status.st_mtime_ns)
    return files


def class_order(
    names: Sequence[str], order: str | None, where: str, advice: str
) -> tuple[str, ...]:
    """Returns class names in the order of their numbers.

    Args:
      names: of the class folders.
      order: "string", by code point, "numeric", or None if nothing was said.
      where: for messages.
      advice: how to say it, with a gap `{}` for the order.

    Raises:
      ConfigError: there is no such order, names are not numbers where "numeric" is said, or
        nothing is said where the two orders differ.
      DataError: two names differ in case or Unicode form only, or one is not UTF-8.
    """
    if order is not None and order not in ORDERS:
        raise ConfigError("data.source", f"unknown order '{order}'", suggest(order, ORDERS))
    names = sorted(names)
    _check_names(names, where)
    numbers = bool(names) and all(name.isascii() and name.isdigit() for name in names)
    if order == "numeric" and not numbers:
        other = next(name for name in names if not (name.isascii() and name.isdigit()))
        raise ConfigError(
            "data.source", f"order=numeric, but class '{other}' is no number",
            f"write {advice.format('string')}",
        )
    numeric = sorted(names, key=int) if numbers else names
    if order is None and numeric != names:
        at = next(place for place in range(len(names)) if names[place] != numeric[place])
        raise DataError(
            where, f"classes are numbers, and class {at} is '{names[at]}' in string order, as "
            f"torchvision has it, but '{numeric[at]}' in numeric order",
            f"write {advice.format('string')} or {advice.format('numeric')}",
        )
    return tuple(numeric if order == "numeric" else names)


def folded(name: str) -> str:
    """Returns a name in the form in which names that look alike are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _check_names(names: Iterable[str], where: str) -> None:
    alike: dict[str, str] = {}
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            what = f"the folder name '{printable(name)}' is not UTF-8"
            raise DataError(where, what, "rename it") from None
        other = alike.setdefault(folded(name), name)
        if other != name:
            raise DataError(
                where, f"class folders {ascii(other)} and {ascii(name)} differ in case or Unicode "
                "form only, so other file systems make them one", "rename or merge them",
            )


def list_classes(
    place: str | os.PathLike[str], names: Sequence[str], passed: Passed, inner: str = ""
) -> tuple[Files, list[int]]:
    """Lists the images of class folders, class after class.

    Args:
      place: the directory of the split.
      names: the class folders, by class number; those that do not exist hold no image.
      passed: counts what is passed over.
      inner: a folder within each class folder, to which the list is restricted.

    Returns:
      The files and their class numbers.
    """
    def list_class(name: str) -> tuple[Files, Passed]:
        beside = Passed()
        if not os.path.isdir(os.path.join(place, name, inner)):
            return Files(), beside
        return images_below(place, os.path.join(name, inner).rstrip(os.sep), beside), beside

    files = Files()
    label: list[int] = []
    # Threads, since a disk elsewhere answers each question late.
    with concurrent.futures.ThreadPoolExecutor(index_threads()) as pool:
        for number, (below, beside) in enumerate(pool.map(list_class, names)):
            files.extend(below)
            label += [number] * len(below)
            passed.merge(beside)
    return files, label


def split_of_files(
    place: str | os.PathLike[str], files: Files, label: Sequence[int],
    names: Sequence[str], passed: Passed, options: ReadOptions,
) -> Split:
    """Makes a split of files.

    A line tells what was passed over. A class may have no image: `missing_classes` tells which.

    Args:
      place: the directory of the split.
      files: N files below it.
      label: their class numbers.
      names: the names of all classes.
      passed: what was passed over.
      options: how images are read.

    Returns:
      A `Split` whose images are decoded on demand.

    Raises:
      DataError: there is no image, or one cannot be read.
    """
    counted = passed.below(place)
    place = os.path.abspath(place)
    beside = f" (passed over: {counted})" if passed else ""
    if not files:
        raise DataError(place, f"holds no image{beside}", f"{SHOWN_FORMATS} files are wanted")
    numbers = np.asarray(label, np.int32)
    if passed:
        options.say(f"{place}: passed over {counted}")
    if any(name.endswith(ILSVRC_PNG) for name in files.names):
        options.say(f"{place}: {ILSVRC_PNG} is a PNG with transparency, which is dropped as "
                    "torchvision does")
    listing = Listing(
        Names.of(files.names), numbers, np.array(files.bytes, np.int64),
        np.array(files.changed, np.int64),
    )

    def path_of(row: int) -> str:
        return os.path.join(place, files.names[row])

    index = build_index(place, listing, path_of, options)
    reader = FileReader(place, listing.names, index.rows, index.sizes, options.decoding)
    return make_split(reader, numbers[index.rows], len(names), place, index.digest)
