"""How splits and their shards are named on disk, in tar and parquet sets alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdaug_jax.data.tree import check_link
from kdaug_jax.errors import DataError

# The words of each split in names of files and folders, as Hugging Face's `datasets` knows them.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLITS = {word: split for split, words in WORDS.items() for word in words}
_OF = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(?:-[0-9a-f]{16})?")
_NUMBERED = re.compile(r"(.*?)[-_.]?(\d+)")


class Shard(NamedTuple):
    """What the name of a shard says.

    Attributes:
      stem: the name without its number.
      number: text of the number; "" where there is none.
      count: of all shards; None where it is not said.
    """

    stem: str
    number: str
    count: int | None


def parse_shard(path: Path) -> Shard:
    """Returns what the name of a shard says, such as set-train-00000-of-00002.parquet."""
    if match := _OF.fullmatch(path.stem):
        return Shard(match[1], match[2], int(match[3]))
    if match := _NUMBERED.fullmatch(path.stem):
        return Shard(match[1], match[2], None)
    return Shard(path.stem, "", None)


def split_of_word(word: str) -> str | None:
    """Returns the split that a word means, such as "validation" for "val"; None if no split."""
    return _SPLITS.get(word.lower())


def split_of_stem(stem: str) -> str | None:
    """Returns the split that a name without a number means.

    Returns:
      The split of the only split word in it ("validation" for "imagenet-val"), else the name
      itself if it is one word, else None.
    """
    splits = {split_of_word(word) for word in re.split(r"[^A-Za-z]+", stem)} - {None}
    if len(splits) == 1:
        return splits.pop()
    return stem if not splits and re.fullmatch(r"\w+", stem) else None


def shards_by_split(root: Path, suffix: str, layout: str) -> dict[str, list[Path]]:
    """Finds the shards that lie in a directory, or in folders of it that are named after splits.

    Args:
      root: the directory.
      suffix: of the files, such as ".tar".
      layout: how they should lie, for messages.

    Returns:
      The shards of each split in the order of their numbers; nothing if there are none.

    Raises:
      DataError: a file is named after no split, two names mean one split, or a shard is missing.
    """
    direct = files_with(root, suffix)
    folders = {
        path: files_with(path, suffix) for path in sorted(root.iterdir())
        if path.is_dir() and split_of_word(path.name)
    }
    folders = {path: files for path, files in folders.items() if files}
    if direct and folders:
        raise DataError(
            str(root), f"holds {direct[0].name} beside the folder {min(folders).name}",
            "keep the files or the folders",
        )
    groups: dict[str, dict[str, list[Path]]] = {}
    for path in direct:
        stem = parse_shard(path).stem
        split = split_of_stem(stem)
        if split is None:
            raise DataError(str(path), "is named after no split", layout)
        groups.setdefault(split, {}).setdefault(stem, []).append(path)
    for folder, files in folders.items():
        groups.setdefault(split_of_word(folder.name), {})[folder.name] = files
    for split, stems in groups.items():
        if len(stems) > 1:
            raise DataError(
                str(root), f"{' and '.join(sorted(stems))} mean the same split, {split}",
                "keep one of them",
            )
    return {
        split: ordered_shards(files) for split, stems in groups.items() for files in stems.values()
    }


def files_with(folder: Path, suffix: str) -> list[Path]:
    """Returns the files of a folder that have a suffix and are not hidden, by name.

    Raises:
      DataError: one is a link that leads nowhere.
    """
    paths = [
        path for path in sorted(folder.iterdir())
        if path.name.endswith(suffix) and not path.name.startswith(".")
    ]
    for path in paths:
        if path.is_symlink():
            check_link(path)
    return [path for path in paths if path.is_file()]


def ordered_shards(paths: Sequence[Path]) -> list[Path]:
    """Returns the shards of a split in the order of their numbers.

    Args:
      paths: at least one; a single file needs no number.

    Raises:
      DataError: a number is missing: of 0..N-1 where "-of-N" is said, else from 0 or 1 to the
        highest; or the files do not share one numbering.
    """
    paths = sorted(paths)
    where = str(paths[0].parent)
    shards: Mapping[Path, Shard] = {path: parse_shard(path) for path in paths}
    first = shards[paths[0]]
    for path, shard in shards.items():
        if len(paths) > 1 and (shard[::2] != first[::2] or not shard.number):
            raise DataError(
                where, f"{paths[0].name} and {path.name} are not shards of one numbering",
                "keep those of one",
            )
    if len(paths) == 1 and first.count is None and not first.number.startswith("0"):
        return paths
    by_number: dict[int, Path] = {}
    for path, shard in shards.items():
        number = int(shard.number)
        if number in by_number:
            raise DataError(
                where, f"{by_number[number].name} and {path.name} have the same number",
                "remove one of them",
            )
        by_number[number] = path
    highest = max(by_number)
    if first.count is not None:
        wanted = range(max(first.count, highest + 1))
    else:
        wanted = range(0 if min(by_number) != 1 else 1, highest + 1)
    missing = [number for number in wanted if number not in by_number]
    if missing:
        width = len(first.number)
        raise DataError(
            where, f"shard {missing[0]:0{width}} is missing beside {by_number[highest].name} "
            f"({len(missing)} of {len(wanted)})", "fetch the missing files",
        )
    if first.count is not None and highest >= first.count:
        raise DataError(
            where, f"{by_number[highest].name} is none of {first.count} shards", "remove it"
        )
    return [by_number[number] for number in sorted(by_number)]
