"""Tar archives of images and labels ("shards"), as WebDataset writes them."""

from __future__ import annotations

import dataclasses
import errno
import functools
import glob
import itertools
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import BinaryIO, NamedTuple

import numpy as np

from kdaug_jax.data.dataset import (
    Dataset,
    Deferred,
    Split,
    classes_of,
    directory,
    make_split,
    numbered,
)
from kdaug_jax.data.index import Bar, Listing, build_index, keep_scan, recall_scan
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.sources.shards import (
    ordered_shards,
    parse_shard,
    shards_by_split,
    split_of_stem,
    split_of_word,
)  # fmt: skip
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.files import expanded, open_file, read_text, reason
from kdaug_jax.images.decode import SUFFIXES
from kdaug_jax.images.encoded import stamp_of
from kdaug_jax.images.readers import Names
from kdaug_jax.images.readers_tar import TarReader, common_folder

LAYOUT = "name the archives train-0000.tar, or put them into folders like train/"
IMAGE_SUFFIXES = frozenset(
    suffix[1:] for suffixes in SUFFIXES.values() for suffix in suffixes
)
LABEL_SUFFIX = "cls"
# First bytes of compressed files, and the program that unpacks them.
COMPRESSED = {
    b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd",
}
BLOCK = 512
# Two blocks of zeros end an archive.
END = 2 * BLOCK
# More archives are a slip of the pen.
MANY = 1_000_000
_PRIVATE = re.compile(r"(^|/)(__[^/]*__|__MACOSX)(/|$)")


class Sample(NamedTuple):
    """One image of an archive: member, first byte and bytes of its content, class number."""

    member: str
    offset: int
    length: int
    label: int


def tar(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads tar archives of images and labels, as WebDataset writes them.

    Members whose names are equal up to the first dot of the last part, and which follow each other,
    are a sample: an image and a class number as text in `.cls`. Archives are scanned once, and
    images are read by their offsets; nothing is unpacked.

    Args:
      argument: a directory with archives named train-0000.tar, val-0000.tar and so on, or with
        folders of archives named train, val and test; or a pattern of the archives of "train", with
        `*`, `{0000..0012}` and `{a,b}`. Options: validation=PATTERN and test=PATTERN, further
        splits beside a pattern; classes=FILE, one class name a line (numbers if left out).
      options: `image` and `label` are the suffixes of members to read where samples hold several,
        such as data.image='png' and data.label='cls2'.

    Returns:
      A `Dataset` with one split a name, read from the disk.

    Raises:
      ConfigError: no directory or pattern is given, or an option cannot be read.
      DataError: an archive is missing, compressed, cut short, damaged, sparse or two in one file,
        or holds links; a member comes twice or apart from its sample; a sample lacks its image or
        its label.

    Source: the format is https://github.com/webdataset/webdataset@e0953f9.
    """
    path, given = split_argument("tar", argument, ("validation", "test", "classes"))
    classes = given.pop("classes", None)
    shards = _shards(path, given)
    samples = functools.cache(lambda name: _samples(name, shards[name], options))
    if classes is not None:
        names = _class_names(expanded("data.source", classes, DataError))
    else:
        first = "train" if "train" in shards else min(shards)
        where = common_folder([str(path.absolute()) for path in shards[first]])
        names = numbered(classes_of(samples(first).label, f"{where} ({first})"))
    readers = {
        name: functools.partial(_split, name, paths, samples, names, options)
        for name, paths in shards.items()
    }
    return Dataset(Deferred(readers), names)


def _shards(path: str, given: Mapping[str, str]) -> dict[str, list[Path]]:
    """Finds the archives of each split."""
    root = directory("tar", path)
    if root.is_dir():
        if given:
            option = min(given)
            raise ConfigError(
                "data.source", f"{option}= stands beside a pattern, and {root} is a directory",
                f"write tar:'{root}/train-*.tar?{option}={given[option]}'",
            )
        shards = shards_by_split(root, ".tar", LAYOUT)
        for end in ("*.tar.*", "*.tgz"):
            for file in sorted(root.rglob(end)):
                # Where some were unpacked, the others of their split would be missed.
                split = (
                    split_of_word(file.parent.name) if file.parent != root
                    else split_of_stem(parse_shard(_unpacked(file)).stem)
                )
                left = not shards or split in shards and not _unpacked(file).is_file()
                if left and file.is_file():
                    _check_format(file)
        if not shards:
            raise DataError(str(root), "holds no .tar file", LAYOUT)
        return shards
    patterns = {"train": path, **given}
    return {name: _expanded(pattern, name) for name, pattern in patterns.items()}


def _expanded(pattern: str, name: str) -> list[Path]:
    """Returns the archives that a pattern names, in order."""
    files: list[Path] = []
    for text in _braces(os.path.expanduser(pattern)):
        matches = sorted(map(Path, glob.glob(text))) if "*" in text else [Path(text)]
        if not matches or not matches[0].is_file():
            raise DataError(text, f"is not a file ({name} of tar)", "check the pattern")
        files += matches if "*" not in text else _one_split(text, matches)
    if len(set(files)) != len(files):
        raise DataError(pattern, "names an archive twice", "check the pattern")
    return files


def _one_split(pattern: str, files: list[Path]) -> list[Path]:
    splits = {split_of_stem(parse_shard(file).stem) for file in files}
    if len(splits) > 1:
        raise DataError(
            pattern, "names archives of several splits: " + ", ".join(sorted(map(str, splits))),
            f"write tar:{files[0].parent}, or a pattern of one split",
        )
    return ordered_shards(files)


def _braces(text: str) -> Iterator[str]:
    """Yields the texts that `{0000..0012}` and `{a,b}` in a text stand for, as bash does."""
    parts = re.split(r"\{([^{}]*)\}", text)
    choices = []
    for number, part in enumerate(parts):
        span = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", part)
        if number % 2 == 0:
            choices.append([part])
        elif span:
            first, last = int(span[1]), int(span[2])
            if last - first >= MANY:
                raise DataError(text, f"names {last - first + 1:,} archives", "check the pattern")
            choices.append([f"{value:0{len(span[1])}}" for value in range(first, last + 1)])
        elif "," in part:
            choices.append(part.split(","))
        else:
            choices.append([f"{{{part}}}"])
    yield from map("".join, itertools.product(*choices))


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        lines = read_text(path, "text").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"cannot be read ({reason(error)})", "name a file") from None
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    empty = names.index("") if "" in names else None
    if not names or empty is not None:
        what = "is empty" if not names else f"line {empty + 1} is empty"
        raise DataError(str(path), what, "one class name a line is wanted, that of class 0 first")
    return tuple(names)


# Arrays of a scan that are kept.
SCANNED = ("names", "shard", "offset", "length", "label", "passed")


@dataclasses.dataclass(frozen=True)
class _Scan:
    """The images of a split in the order of the archives: fields of `TarReader`, and labels."""

    names: Names
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    passed: tuple[str, ...]


def _split(
    name: str, paths: list[Path], samples: Callable[[str], _Scan], names: tuple[str, ...],
    options: ReadOptions,
) -> Split:
    scan = samples(name)
    files = [str(path.absolute()) for path in paths]
    place = common_folder(files)
    where = f"{place} ({name})"
    stamps = [stamp_of(path) for path in files]
    reader = TarReader(
        where, np.arange(len(scan.label)), np.zeros((len(scan.label), 2), np.int32),
        options.decoding, tuple(files), tuple(stamps), scan.shard, scan.offset, scan.length,
        scan.names,
    )
    make_split(reader, scan.label, len(names), where)  # before all images are opened
    changed = np.array([stamp[1] for stamp in stamps], np.int64)[scan.shard]
    listing = Listing(scan.names, scan.label.astype(np.int32), scan.length, changed)
    index = build_index(place, listing, reader.content, options, f"tar {name} {options.image}")
    reader = dataclasses.replace(reader, rows=index.rows, sizes=index.sizes)
    return make_split(reader, scan.label[index.rows], len(names), where, index.digest)


def _samples(name: str, paths: list[Path], options: ReadOptions) -> _Scan:
    """Returns the images of a split, scanned or as they were kept."""
    files = [str(path.absolute()) for path in paths]
    stamps = np.array([stamp_of(path) for path in files], np.int64)
    key = ("tar", *files, options.image, options.label)
    arrays = recall_scan(key, stamps, SCANNED)
    if arrays is None:
        scan = _scan_all(files, options)
        keep_scan(
            key, stamps, options, names=scan.names.block, shard=scan.shard, offset=scan.offset,
            length=scan.length, label=scan.label, passed=Names.of(scan.passed).block,
        )
    else:
        names, passed = Names(arrays.pop("names")), tuple(Names(arrays.pop("passed")))
        scan = _Scan(names=names, passed=passed, **arrays)
    if scan.passed:
        options.say(
            f"{paths[0].parent} ({name}): {len(scan.passed)} members are passed over "
            f"(first: {scan.passed[0]})"
        )
    return scan


def _scan_all(files: list[str], options: ReadOptions) -> _Scan:
    samples, shard, passed = [], [], []
    bar = Bar(options, f"scanning {common_folder(files)}", len(files), "archives")
    for number, file in enumerate(files):
        in_file, passed_here = scan_shard(file, options.image, options.label)
        samples += in_file
        shard += [number] * len(in_file)
        passed += passed_here
        bar.add(1)
    shown = [os.path.relpath(file, common_folder(files)) for file in files]
    return _Scan(
        Names.of(
            f"{shown[number]}: {sample.member}"
            for number, sample in zip(shard, samples, strict=True)
        ),
        np.array(shard, np.int32),
        np.array([sample.offset for sample in samples], np.int64),
        np.array([sample.length for sample in samples], np.int64),
        np.array([sample.label for sample in samples], np.int64), tuple(passed),
    )


def scan_shard(path: str, image: str = "", label: str = "") -> tuple[list[Sample], list[str]]:
    """Finds the samples of one archive, and validates the archive to its last byte.

    Args:
      path: of the archive, uncompressed.
      image: suffix of the images; any of `IMAGE_SUFFIXES` if empty.
      label: suffix of the labels; "cls" if empty.

    Returns:
      The samples in their order, and the names of members that are passed over: hidden ones and
      those of macOS, names like __this__, and names without a dot.

    Raises:
      DataError: as `tar`.
    """
    _check_format(Path(path))
    samples: list[Sample] = []
    passed: list[str] = []
    members: list[tarfile.TarInfo] = []  # of the sample that is being read
    first_of: dict[str, str] = {}
    end = 0
    with open_file(path, "shard") as file:
        for member in _members(path, file):
            size = member.size if member.isreg() else 0
            end = member.offset_data + -(-size // BLOCK) * BLOCK
            if member.isdir():
                continue
            if not member.isreg():
                kind = "a link" if member.islnk() or member.issym() else "no regular file"
                raise DataError(
                    path, f"member {member.name} is {kind}", "write the archive with its files"
                )
            if member.issparse():
                raise DataError(
                    path, f"member {member.name} is stored as a sparse file",
                    "write the archive without --sparse",
                )
            base = os.path.basename(member.name)
            if _PRIVATE.search(member.name) or base.startswith(".") or "." not in base:
                passed.append(member.name)
                continue
            key = _key(member)
            if members and _key(members[0]) != key:
                samples.append(_sample(path, file, members, image, label))
                members = []
            if not members and key in first_of:
                raise DataError(
                    path, f"member {member.name} stands apart from {first_of[key]}, of the same "
                    "sample", "write the archive sorted, with tar --sort=name",
                )
            first_of.setdefault(key, member.name)
            members.append(member)
        if members:
            samples.append(_sample(path, file, members, image, label))
        _check_end(path, file, end)
    return samples, passed


def _unpacked(path: Path) -> Path:
    """Returns the archive that a compressed one is unpacked to, beside it."""
    return path.with_name(path.name.removesuffix(".tgz").partition(".tar")[0] + ".tar")


def _check_format(path: Path) -> None:
    with open_file(path, "shard") as file:
        magic = file.read(8)
    for start, program in COMPRESSED.items():
        if magic.startswith(start):
            target = _unpacked(path)
            if target == path:  # which a shell would empty before it is read
                target = path.with_name(f"unpacked-{path.name}")
            command = f"{program} < {quote(str(path))} > {quote(str(target))}"
            if target != _unpacked(path):
                command += f" && mv {quote(str(target))} {quote(str(path))}"
            raise DataError(
                str(path), "is compressed, so no image in it can be read by its place",
                f"unpack it once: {command}",
            )


def _members(path: str, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # Kept members would take a kilobyte each.
                archive.members = []
                yield member
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            path, f"is cut short or damaged ({error})", "fetch the archive again"
        ) from None


def _skip_hole(file: BinaryIO) -> int:
    """Moves a file from a hole, which reads as zeros, to the next data; returns where it is."""
    try:
        return file.seek(file.tell(), os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole to the end of the file
            return file.seek(0, os.SEEK_END)
        return file.tell()  # a file system that knows no holes


def _check_end(path: str, file: BinaryIO, end: int) -> None:
    """Validates that zeros follow the last member to the end of the file.

    Python's reader takes a damaged header, the end of a file that was cut between two members, and
    the second of two concatenated archives for the end of the archive.
    """
    length = os.fstat(file.fileno()).st_size
    file.seek(end)
    position = _skip_hole(file)
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            position += next(number for number, byte in enumerate(chunk) if byte)
            if position - end >= END:
                raise DataError(
                    path, f"holds another archive after its end, at byte {position}",
                    "keep each archive in a file of its own",
                )
            raise DataError(
                path, f"has a damaged member header at byte {position // BLOCK * BLOCK}",
                "fetch the archive again",
            )
        position = _skip_hole(file)
    if length - end < END:
        raise DataError(
            path, f"is cut short: it has no two blocks of zeros at its end, byte {end}",
            "fetch the archive again; if its writer leaves them out, append them with "
            f"truncate -s +1024 {quote(path)}",
        )


def _key(member: tarfile.TarInfo) -> str:
    folder, slash, base = member.name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _suffix(member: tarfile.TarInfo) -> str:
    return os.path.basename(member.name).split(".", 1)[1].lower()


def _sample(
    path: str, file: BinaryIO, members: list[tarfile.TarInfo], image: str, label: str
) -> Sample:
    """Returns the sample that some members make."""
    where = f"{path}: sample {_key(members[0])}"
    by_suffix: dict[str, tarfile.TarInfo] = {}
    for member in members:
        if _suffix(member) in by_suffix:
            raise DataError(
                where, f"holds .{_suffix(member)} twice, {by_suffix[_suffix(member)].name} and "
                f"{member.name}", "remove one of them",
            )
        by_suffix[_suffix(member)] = member
    # As messages show them, suffixes may be given with their dot.
    image, label = image.lower().removeprefix("."), label.lower().removeprefix(".") or LABEL_SUFFIX
    known = {image} if image else IMAGE_SUFFIXES
    images = [suffix for suffix in by_suffix if suffix in known]
    hint = "give each sample an image and a class number"
    if any("." in suffix for suffix in by_suffix):
        hint += "; what follows the first dot of a name counts as its suffix"
    held = ", ".join(f".{suffix}" for suffix in by_suffix)
    if not images:
        raise DataError(where, f"holds no image, but {held}", hint)
    if len(images) > 1:
        raise DataError(
            where, f"holds several images, {held}", f"choose one, such as data.image='{images[0]}'"
        )
    if label not in by_suffix:
        raise DataError(where, f"holds no .{label}, but {held}", hint)
    number = by_suffix[label]
    file.seek(number.offset_data)
    text = file.read(min(number.size, 64)).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        raise DataError(
            f"{path}: {number.name}", f"holds {text[:20]!r}, not a class number",
            "one integer as text is wanted",
        )
    chosen = by_suffix[images[0]]
    return Sample(chosen.name, chosen.offset_data, chosen.size, int(text))
