"""Parquet files with a column of encoded images and one of labels, as Hugging Face has them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
from kdaug_jax.data.index import Listing, build_index
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.sources.shards import shards_by_split
from kdaug_jax.errors import ConfigError, DataError, suggest
from kdaug_jax.files import open_file, parse_json, read_json, read_text
from kdaug_jax.images.encoded import stamp_of
from kdaug_jax.images.readers import Names
from kdaug_jax.images.readers_parquet import ParquetReader, row_name, unreadable

LAYOUT = "files are named like train-00000-of-00002.parquet, or lie in folders like train/"
# A row group is decoded for each image of a shuffled order. Of JPEGs of 76 kB a core reads 95 in a
# second from groups of 7.6 MB and 180 from groups of 0.8 MB, but 320 in the order of rows.
SLOW_GROUP_BYTES = 1 << 21


class Columns(NamedTuple):
    """The two columns that are read.

    Attributes:
      image: path of the column of bytes, such as "image.bytes".
      label: name of the column of labels.
      names: of the classes; empty where the schema has none.
      text: whether the labels are texts.
    """

    image: str
    label: str
    names: tuple[str, ...]
    text: bool


def parquet(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads parquet files of images and labels.

    Splits are the words before the numbers of the files, such as train-00000-of-00002.parquet, or
    the folders in which files lie; "val", "valid" and "dev" mean "validation", other synonyms are
    those of `shards.WORDS`. Class names are those of the schema's ClassLabel, else of
    dataset_info.json, dataset_infos.json or the README's dataset_info, else numbers.

    Args:
      argument: the directory; where it holds several configurations, that of one.
      options: `image` and `label` name the columns where several come into question. A label
        column of texts has to be named: its classes are the sorted texts of "train".

    Returns:
      A `Dataset` with one split a name, read from the disk.

    Raises:
      ConfigError: no directory is given, or columns that do not exist.
      DataError: pyarrow is not installed, shards are missing, columns are of another type, or
        images or labels are absent.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise DataError(
            "parquet", "needs pyarrow, which is not installed", "pip install 'pyarrow>=16'"
        ) from None
    path, _ = split_argument("parquet", argument, ())
    root = directory("parquet", path)
    files = _files(root)
    first = "train" if "train" in files else min(files)
    columns = _columns(files[first][0], options)
    names = columns.names
    if not names and not columns.text:
        names = _names_beside(files[first][0].parent, root, columns.label)
    labels = functools.cache(lambda name: _labels(files[name], columns))
    if columns.text:
        names = tuple(sorted(set(labels(first))))
    elif not names:
        where = f"{files[first][0].parent.absolute()} ({first})"
        names = numbered(classes_of(labels(first), where))
    readers = {
        name: functools.partial(_split, name, paths, columns, names, labels, options)
        for name, paths in files.items()
    }
    return Dataset(Deferred(readers), names)


def _files(root: Path) -> dict[str, list[Path]]:
    """Finds the files of each split at or below a directory."""
    if not root.is_dir():
        raise DataError(str(root), "is not a directory", LAYOUT)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    for path in folders:
        if path.name.startswith("partial-"):
            raise DataError(
                str(path), "holds only the first part of a split",
                "fetch the set in full, or remove this folder",
            )
    files = shards_by_split(root, ".parquet", LAYOUT)
    if files:
        return files
    below = [path for path in folders if next(path.rglob("*.parquet"), None)]
    if len(below) == 1:
        return _files(below[0])
    if below:
        raise DataError(
            str(root), "holds several configurations: " + ", ".join(path.name for path in below),
            f"choose one, such as parquet:{below[0]}",
        )
    arrow = next(root.rglob("*.arrow"), None)
    if arrow:
        raise DataError(
            str(root), f"holds no parquet but {arrow.name}, which save_to_disk wrote",
            "write each split with datasets.load_from_disk(DIR)[SPLIT].to_parquet(FILE)",
        )
    raise DataError(str(root), "holds no .parquet file", LAYOUT)


def _schema(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path, "shard") as file:
            return pyarrow.parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(str(path), error) from None


def _columns(path: Path, options: ReadOptions) -> Columns:
    """Chooses the columns of images and labels by the schema of one file."""
    schema = _schema(path)
    features = _features((schema.metadata or {}).get(b"huggingface", b""))
    kinds = {name: features.get(name, {}).get("_type") for name in schema.names}
    types = {field.name: field.type for field in schema}
    images = [name for name in types if kinds[name] == "Image" and bytes_column(name, types[name])]
    images = images or [name for name in types if bytes_column(name, types[name])]
    image = _choose("image", options.image, images, types, path)
    source = bytes_column(image, types[image])
    if source is None:
        raise DataError(
            str(path), f"column '{image}' is {types[image]}, not encoded images",
            "bytes, or a struct with a field 'bytes', are wanted",
        )
    labels = [name for name in types if kinds[name] == "ClassLabel"]
    labels = labels or [name for name in types if _is_integer(types[name])]
    texts = [name for name in types if _is_text(types[name])]
    if not labels and not options.label and texts:
        raise DataError(
            str(path), f"has no column of class numbers, but of texts: {', '.join(texts)}",
            f"data.label='{texts[0]}' takes its sorted texts as classes",
        )
    label = _choose("label", options.label, labels, types, path)
    if not _is_integer(types[label]) and not _is_text(types[label]):
        raise DataError(
            str(path), f"column '{label}' is {types[label]}", "integers or texts are wanted"
        )
    names = features.get(label, {}).get("names", ())
    names = tuple(map(str, names)) if isinstance(names, list) else ()
    if _is_text(types[label]) and kinds[label] == "ClassLabel":
        raise DataError(
            str(path), f"column '{label}' is {types[label]}, and the schema says ClassLabel",
            "fetch the file again",
        )
    return Columns(source, label, names, _is_text(types[label]))


def _choose(
    use: str, given: str, candidates: list[str], types: Mapping[str, Any], path: Path
) -> str:
    where = f"data.{use}"
    if given:
        if given not in types:
            raise ConfigError(where, f"{path} has no column '{given}'", suggest(given, types))
        return given
    if len(candidates) > 1:
        example = next((name for name in candidates if use in name.lower()), candidates[0])
        raise ConfigError(
            where, f"{path} has several columns that may be the {use}: {', '.join(candidates)}",
            f"choose one, such as {where}='{example}'",
        )
    if not candidates:
        what = "encoded images" if use == "image" else "class numbers"
        held = ", ".join(f"{name} ({kind})" for name, kind in types.items())
        raise DataError(
            str(path), f"has no column of {what}, but {held}", "choose a set for classification"
        )
    return candidates[0]


def bytes_column(name: str, kind: Any) -> str | None:
    """Returns the path of the bytes in an image column of a type; None if it holds none."""
    import pyarrow.types as types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return name
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes" if bytes_column(name, kind.field("bytes").type) else None
    return None


def _is_integer(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_integer(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind)


def _features(metadata: bytes) -> dict[str, dict[str, Any]]:
    """Returns the features that Hugging Face wrote into a schema; empty where there are none."""
    try:
        features = parse_json(metadata.decode())["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    features = features if isinstance(features, dict) else {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _names_beside(place: Path, root: Path, label: str) -> tuple[str, ...]:
    """Returns the class names in the descriptions of a set, from the files up to the root."""
    folders = [place, *place.parents]
    folders = folders[: folders.index(root) + 1]
    for folder in folders:
        for config, names in _described(folder, label):
            if config in ("", "default", place.name, root.name) or len(folders) == 1:
                return names
        described = {names for _, names in _described(folder, label)}
        if len(described) == 1:
            return described.pop()
    return ()


def _described(folder: Path, label: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (configuration, class names) of the descriptions in a folder."""
    for file in ("dataset_info.json", "dataset_infos.json"):
        try:
            info = read_json(folder / file)
        except (OSError, ValueError):
            continue
        infos = {"": info} if file == "dataset_info.json" else info
        for config, entry in infos.items() if isinstance(infos, dict) else ():
            features = entry.get("features") if isinstance(entry, dict) else None
            feature = features.get(label) if isinstance(features, dict) else None
            if isinstance(feature, dict) and isinstance(feature.get("names"), list):
                yield config, tuple(map(str, feature["names"]))
    yield from _described_in_readme(folder / "README.md", label)


def _described_in_readme(file: Path, label: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    import yaml

    try:
        _, header, _ = read_text(file, "text").split("---\n", 2)
        infos = yaml.safe_load(header)["dataset_info"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
        return
    for info in infos if isinstance(infos, list) else [infos]:
        features = info.get("features") if isinstance(info, dict) else None
        for feature in features if isinstance(features, list) else ():
            kind = feature.get("dtype") if isinstance(feature, dict) else None
            classes = kind.get("class_label") if isinstance(kind, dict) else None
            names = classes.get("names") if isinstance(classes, dict) else None
            if not names or feature.get("name") != label:
                continue
            if isinstance(names, dict) and all(str(number).isdecimal() for number in names):
                names = [names[number] for number in sorted(names, key=int)]
            if isinstance(names, list):
                yield str(info.get("config_name", "")), tuple(map(str, names))


def _labels(paths: list[Path], columns: Columns) -> np.ndarray:
    """Reads the labels of a split: `i64[N]`, or N texts as objects."""
    import pyarrow
    import pyarrow.parquet

    parts = []
    for path in paths:
        schema = _schema(path)
        if columns.label not in schema.names:
            raise DataError(
                str(path), f"has no column '{columns.label}'", "fetch the files of one version"
            )
        kind = schema.field(columns.label).type
        if not (_is_text(kind) if columns.text else _is_integer(kind)):
            raise DataError(
                str(path), f"column '{columns.label}' is {kind}",
                ("texts are" if columns.text else "an integer is") + " wanted, as in other files",
            )
        try:
            with open_file(path, "shard") as file:
                column = pyarrow.parquet.read_table(file, columns=[columns.label]).column(0)
        except (OSError, pyarrow.ArrowException) as error:
            raise unreadable(str(path), error) from None
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(
                row_name(str(path), row), f"has no label ({column.null_count} such)",
                "use a split with labels",
            )
        if columns.text:
            parts.append(np.array(column.to_pylist(), object))
            continue
        numbers = column.to_numpy()
        above = np.flatnonzero(numbers > np.iinfo(np.int64).max)
        if len(above):
            raise DataError(
                row_name(str(path), above[0]), f"has the label {numbers[above[0]]}",
                "class numbers from 0 are wanted",
            )
        parts.append(numbers.astype(np.int64))
    return np.concatenate(parts)


def _split(
    name: str, paths: list[Path], columns: Columns, names: tuple[str, ...],
    labels: Callable[[str], np.ndarray], options: ReadOptions,
) -> Split:
    files = [str(path.absolute()) for path in paths]
    place = str(paths[0].parent.absolute())
    where = f"{place} ({name})"
    for path in paths:
        _check_names(path, columns.label, names)
    label = _numbers(labels(name), names, columns, where)
    stamps = tuple(stamp_of(path) for path in files)
    starts = _starts(paths, columns, options)
    reader = ParquetReader(
        where, np.arange(len(label)), np.zeros((len(label), 2), np.int32), options.decoding,
        tuple(files), stamps, columns.image, *starts,
    )
    make_split(reader, label, len(names), where)  # before all images are opened
    rows = np.diff(reader.file_start)
    listing = Listing(
        Names.of(
            row_name(path.name, row)
            for path, count in zip(paths, rows, strict=True) for row in range(count)
        ),
        label.astype(np.int32),
        *(np.repeat(np.array(column, np.int64), rows) for column in zip(*stamps, strict=True)),
    )
    index = build_index(place, listing, reader.content, options, f"{name} {columns.image}")
    reader = dataclasses.replace(reader, rows=index.rows, sizes=index.sizes)
    return make_split(reader, label[index.rows], len(names), where, index.digest)


def _check_names(path: Path, label: str, names: tuple[str, ...]) -> None:
    """Validates that a file, if it names classes, names those of the set: numbers count them."""
    features = _features((_schema(path).metadata or {}).get(b"huggingface", b""))
    told = tuple(map(str, features.get(label, {}).get("names", ()) or names))
    if told == names:
        return
    pairs = itertools.zip_longest(told, names)
    number, (here, ours) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    here, ours = ("no name" if name is None else f"'{name}'" for name in (here, ours))
    raise DataError(
        str(path), f"has {here} for class {number}, and the set has {ours}",
        "use files whose classes have the same names in the same order",
    )


def _starts(
    paths: list[Path], columns: Columns, options: ReadOptions
) -> tuple[np.ndarray, ...]:
    """Returns `ParquetReader`'s `file_start`, `file_group` and `group_start`."""
    import pyarrow
    import pyarrow.parquet

    in_file, groups, in_group, largest = [], [], [], 0
    for path in paths:
        try:
            with open_file(path, "shard") as file:
                footer = pyarrow.parquet.read_metadata(file)
        except (OSError, pyarrow.ArrowException) as error:
            raise unreadable(str(path), error) from None
        kind = footer.schema.to_arrow_schema()
        name = columns.image.split(".")[0]
        if name not in kind.names or bytes_column(name, kind.field(name).type) != columns.image:
            raise DataError(
                str(path), f"has no column of images '{columns.image}'",
                "fetch the files of one version",
            )
        in_file.append(footer.num_rows)
        groups.append(footer.num_row_groups)
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            in_group.append(group.num_rows)
            largest = max(largest, group.total_byte_size)
    if largest > SLOW_GROUP_BYTES:
        example = paths[0]
        options.say(
            f"{example.parent}: a row group holds up to {largest / 1e6:.0f} MB, all of which is "
            "decoded for each image of a shuffled order; to write files with small ones: "
            f"mkdir -p NEW && python -c \"import pyarrow.parquet as p; "
            f"p.write_table(p.read_table('{example}'), 'NEW/{example.name}', row_group_size=10)\""
        )
    return tuple(np.cumsum([0, *counts], dtype=np.int64) for counts in (in_file, groups, in_group))


def _numbers(
    label: np.ndarray, names: tuple[str, ...], columns: Columns, where: str
) -> np.ndarray:
    """Returns class numbers, `i64[N]`, and validates that there are labels."""
    if columns.text:
        position = {name: number for number, name in enumerate(names)}
        unknown = [row for row, text in enumerate(label) if text not in position]
        if unknown:
            raise DataError(
                where, f"example {unknown[0]} has the class '{label[unknown[0]]}' "
                f"({len(unknown)} such), which 'train' has not", "use splits of one set of classes",
            )
        return np.array([position[text] for text in label], np.int64)
    if len(label) and (label == -1).all():
        raise DataError(
            where, "has no labels: all are -1",
            "use another split, such as data.test='validation', or data.test='' for none",
        )
    return label
