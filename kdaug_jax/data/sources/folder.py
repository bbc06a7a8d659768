"""Directories of image files, DIR/SPLIT/CLASS/…/FILE, decoded on demand."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.splits import SYNONYMS, base_name
from kdaug_jax.data.tree import (
    Files,
    Passed,
    class_order,
    folded,
    folders,
    images,
    list_classes,
    split_of_files,
)
from kdaug_jax.errors import ConfigError, DataError, distinct, printable
from kdaug_jax.files import expanded, read_text, reason

SPLITS = ("train", "validation", "test", *SYNONYMS)
LAYOUT = "the layout is DIR/SPLIT/CLASS/IMAGE.jpg, such as DIR/train/cat/1.jpg"
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
QUOTED = " \t\"'"  # what may stand around a field of a label file
KAGGLE_LABELS = "LOC_val_solution.csv"


def folder(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads a directory of split folders of class folders of images.

    Splits are named as their folders are, but "val" and "valid" are "validation". Where no folder
    has one of these names and the folders hold images themselves, they are the classes of one
    split, "train". Kaggle's tree of ILSVRC2012 is read as it is unpacked.

    Classes are those of "train", in string order by code point; folders below a class folder
    belong to the class. Examples are sorted by class, then as torchvision's ImageFolder has them.
    Hidden names, `__MACOSX`, files with other suffixes than those of images and what is no regular
    file are passed over and counted.

    Args:
      argument: DIR, and perhaps ?order=string or ?order=numeric, which has to be said where classes
        are numbers whose two orders differ, and val_labels=FILE, the classes of a validation folder
        without class folders: lines of a file name and a class, separated by a tab, comma or space.
      options: how images are read.

    Returns:
      A `Dataset` with one split a folder, read from the disk.

    Raises:
      ConfigError: no directory is given, or an option cannot be read.
      DataError: the layout is another, another split has classes that "train" has not, a link leads
        nowhere, or an image cannot be read.
    """
    path, given = split_argument("folder", argument, ("order", "val_labels"))
    root = directory("folder", path)
    if not root.is_dir():
        raise DataError(str(root), "is not a directory", LAYOUT)
    labels = _labels_file(root, given)
    if (root / KAGGLE).is_dir():
        root = root / KAGGLE
    advice = f"folder:{path}?order={{}}" + (
        f"&val_labels={quote(given['val_labels'])}" if "val_labels" in given else ""
    )
    return read_tree(root, options, order=given.get("order"), advice=advice, labels=labels)


def read_tree(
    root: Path, options: ReadOptions, *, order: str | None, advice: str, labels: Path | None
) -> Dataset:
    """Reads a directory of split folders, see `folder`.

    Args:
      root: the directory.
      options: how images are read.
      order: see `class_order`.
      advice: see `class_order`.
      labels: the file of the classes of a validation folder without class folders.

    Returns:
      A `Dataset`.
    """
    names = folders(root, Passed())
    if not names:
        raise DataError(str(root), "holds no folders", LAYOUT)
    if not set(names) & set(SPLITS):
        inner = [name for name in names if set(folders(root / name, Passed())) & set(SPLITS)]
        if inner:
            remedy = f"write folder:{root / inner[0]}"
            raise DataError(str(root), f"holds no split, but '{inner[0]}' does", remedy)
        if any(len(images(root / name, Passed())) for name in names):
            classes = class_order(names, order, str(root), advice)
            options.say(f"{root}: its folders hold images, so they are the {len(names)} classes of "
                        "one split, 'train'")
            read = functools.partial(read_classes, root, names, classes, options)
            return Dataset(Deferred({"train": read}), classes)
        elif len(names) > 1:
            options.say(printable(
                f"{root}: its folders {', '.join(names[:2])}{', …' * (len(names) > 2)} hold "
                "folders, so they are splits; if they are classes, move them into a folder 'train'"
            ))
    places = _splits(root, names)
    classes = class_order(_class_names(places), order, str(root), advice)
    if not classes:
        raise DataError(str(root), f"holds no class folders in {', '.join(names)}", LAYOUT)
    test = places.get("test")
    if test and not folders(test, Passed()):  # as that of ILSVRC2012, whose labels are not public
        options.say(f"{test}: holds no class folders, so it has no labels and is no split")
        del places["test"]
    return Dataset(
        Deferred({
            name: functools.partial(_read_split, name, place, classes, labels, advice, options)
            for name, place in places.items()
        }),
        classes,
    )


def _labels_file(root: Path, given: Mapping[str, str]) -> Path | None:
    """Returns the file that was named, or Kaggle's."""
    if "val_labels" not in given:
        kaggle = root / KAGGLE_LABELS
        return kaggle if kaggle.is_file() else None
    path = expanded("data.source", given["val_labels"], DataError)
    if not path.is_file():
        raise ConfigError("data.source", f"val_labels={path} is not a file", "name another")
    return path


def _splits(root: Path, names: Sequence[str]) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for name in names:
        split = base_name(name, ())
        if split in places:
            raise DataError(
                str(root), f"'{places[split].name}' and '{name}' are both folders of the split "
                f"'{split}'", "rename or remove one of them",
            )
        places[split] = root / name
    return places


def _class_names(places: Mapping[str, Path]) -> list[str]:
    if "train" in places:
        return list(folders(places["train"], Passed()))
    return sorted({name for place in places.values() for name in folders(place, Passed())})


def _read_split(
    name: str, place: Path, classes: tuple[str, ...], labels: Path | None, advice: str,
    options: ReadOptions,
) -> Split:
    names = folders(place, Passed())
    if not names or not set(names) & set(classes):
        # Perhaps a flat folder: archives of ILSVRC2012 unpack so.
        passed = Passed()
        flat = images(place, passed)
        if flat and name == "validation" and labels is not None:
            numbers = read_labels(labels, flat, classes, str(place), options)
            for folder_name in names:
                passed.add("folders beside the images", str(place / folder_name))
            return split_of_files(place, flat, numbers, classes, passed, options)
        if flat:
            remedy = "use another split"
            if name == "validation":
                remedy = ("name a file whose lines hold a file name and a class: "
                          + advice.split("?")[0] + "?val_labels=FILE")
            raise DataError(
                str(place), f"holds {len(flat)} images and no class folders", remedy
            )
        if not names:
            raise DataError(str(place), "holds no class folders", LAYOUT)
    if labels is not None and name == "validation" and labels.name != KAGGLE_LABELS:
        raise ConfigError(
            "data.source", f"val_labels={labels}, but {place} has class folders",
            "leave val_labels out",
        )
    return read_classes(place, names, classes, options)


def read_classes(
    place: Path, names: Sequence[str], classes: tuple[str, ...], options: ReadOptions
) -> Split:
    """Reads a directory of class folders.

    Args:
      place: the directory.
      names: its folders.
      classes: the class names, by number.
      options: how images are read.

    Returns:
      A `Split` whose images are decoded on demand.

    Raises:
      DataError: a folder is no class, or as `split_of_files`.
    """
    unknown = sorted(set(names) - set(classes))
    if unknown:
        alike = [name for name in classes if folded(name) == folded(unknown[0])]
        remedy = "rename it" if alike else "move it away, or give 'train' that class"
        if (place / "val_annotations.txt").is_file():
            remedy = f"write tinyimagenet:{place.parent}"
        raise DataError(
            str(place), f"has a class folder {ascii(unknown[0])} ({len(unknown)} such), and "
            + (f"'train' has {ascii(alike[0])}" if alike else "'train' has not"),
            remedy,
        )
    passed = Passed()
    for name in images(place, passed).names:
        passed.add("images beside the class folders", str(place / name))
    inner = folders(place / names[0], Passed()) if len(classes) == len(names) == 1 else ()
    if len(inner) > 1:  # perhaps an archive that was unpacked into a folder of its own
        options.say(printable(
            f"warning: {place}: there is one class, '{names[0]}', and its {len(inner)} folders "
            f"belong to it ({', '.join(inner[:2])}{', …' * (len(inner) > 2)})"
        ))
    files, label = list_classes(place, classes, passed)
    return split_of_files(place, files, label, classes, passed, options)


def read_labels(
    path: Path, files: Files, classes: Sequence[str], place: str, options: ReadOptions
) -> list[int]:
    """Reads the classes of files from a text file.

    Args:
      path: lines of a file name, with or without its suffix, and a class name, in quotes or not,
        separated by a tab, a comma, a semicolon or spaces; the class may be followed by more words,
        as in Kaggle's LOC_val_solution.csv and Tiny ImageNet's val_annotations.txt. A first line
        that names neither is a header.
      files: N files.
      classes: the class names, by number.
      place: where the files lie, for messages.
      options: of which `say` tells of names without a file.

    Returns:
      The N class numbers.

    Raises:
      DataError: a line or the file cannot be read, a class is unknown, a file is named twice with
        different classes, or a file has no line.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    present = set(map(os.path.basename, files.names))
    present |= {os.path.splitext(name)[0] for name in present}
    try:
        lines = read_text(path, "text", "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read ({reason(error)})"
        raise DataError(str(path), what, "write it as UTF-8 text") from None
    remedy = "a file name and a class are wanted in each line, such as 1.jpg,cat"
    known: dict[str, int] = {}
    absent = []
    for position, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        separator = next((mark for mark in "\t,;" if mark in line), None)
        name, _, rest = (part.strip(QUOTED) for part in line.strip().partition(separator or " "))
        words = rest.split(separator)[0].strip(QUOTED) if separator else rest
        number = next(
            (numbers[text] for text in (rest, words, *rest.split()[:1]) if text in numbers), None
        )
        name = os.path.basename(name)
        if number is None:
            if position == 1 and name not in present:
                continue
            what = f"line {position} has the class '{words[:40]}', which no folder of 'train' has"
            if not rest:
                what = f"line {position} has one word"
            alike = [text for text in classes if folded(text) == folded(words)]
            if alike:
                theirs, ours = distinct(words, alike[0])
                what = f"line {position} has the class '{theirs}', which no folder of 'train' has"
                remedy = f"write '{ours}', as the folder is called"
            raise DataError(str(path), what, remedy)
        if known.setdefault(name, number) != number:
            raise DataError(str(path), f"'{name}' has two classes", "keep one line for each file")
        if name not in present:
            absent.append(name)
    label = []
    for file in files.names:
        name = os.path.basename(file)
        number = known.get(name, known.get(os.path.splitext(name)[0]))
        if number is None:
            alike = [text for text in known if folded(text) == folded(name)]
            if alike:
                theirs, ours = distinct(alike[0], name)
                what = f"names '{theirs}', and the file is called '{ours}'"
                raise DataError(str(path), what, "write the name as the file has it")
            raise DataError(
                str(path), f"has no line for {os.path.join(place, file)}", remedy
            )
        label.append(number)
    if absent:
        options.say(f"{path}: {len(absent)} files are not in {place} (first: {absent[0]})")
    return label
