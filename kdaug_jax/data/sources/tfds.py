"""Sets that TensorFlow Datasets has prepared as array_record, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdaug_jax.data.dataset import Dataset, Deferred, Split, make_split
from kdaug_jax.data.index import Bar, Listing, build_index, keep_scan, recall_scan
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.files import expanded
from kdaug_jax.images.encoded import stamp_of
from kdaug_jax.images.readers import Names
from kdaug_jax.images.readers_records import RecordReader, first_line, read_records

# Records read at once for their labels.
CHUNK = 1024


def tfds(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads a prepared set of TensorFlow Datasets.

    Nothing is downloaded or prepared, and no code of a builder runs: only the directory is read.
    Labels are read in one pass over the records of each split that is used, and kept with the
    index; images are decoded when they are read, see `images.decode`.

    Args:
      argument: NAME, NAME/CONFIG or NAME:VERSION (the newest if left out), and perhaps
        ?data_dir=DIR; by default `$TFDS_DATA_DIR` or ~/tensorflow_datasets.
      options: how images are decoded, see `ReadOptions`.

    Returns:
      A `Dataset` with the splits of the set, read from the disk.

    Raises:
      ConfigError: the argument cannot be read.
      DataError: the set is not prepared as array_record, or has no image and label.
    """
    name, _, data_dir = argument.partition("?data_dir=")
    if not re.fullmatch(r"\w+(/[\w.-]*\w[\w.-]*)*(:[\d.]+)?", name):
        raise ConfigError(
            "data.source", f"tfds cannot read '{argument}'", "tfds:NAME or tfds:NAME?data_dir=DIR"
        )
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = expanded("data.source", data_dir or default, DataError)
    prepare = (
        "prepare it once where tensorflow is installed: "
        f"tfds build {name} --file_format=array_record --data_dir={root}"
    )
    place = root / name.replace(":", "/")
    directory = _newest(place)
    unfinished = [place, *sorted(place.glob("incomplete.*"))]
    unfinished = [path for path in unfinished if path.name.startswith("incomplete.")]
    if unfinished and directory in (None, place):
        raise DataError(str(unfinished[0]), "its preparation was not finished", prepare)
    if directory is None:
        raise DataError(str(place), "no prepared set lies here", prepare)
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(directory)
        features = dict(builder.info.features or {})
        image, label = builder.info.supervised_keys or ("image", "label")
    except Exception as error:  # whatever the parsers of its JSON files raise
        raise DataError(
            str(directory), f"its description cannot be read ({first_line(error)})", prepare
        ) from None
    if not (
        isinstance(features.get(image), tensorflow_datasets.features.Image)
        and isinstance(features.get(label), tensorflow_datasets.features.ClassLabel)
    ):
        raise DataError(
            str(directory), f"has no image and class label, but {', '.join(features)}",
            "choose a set for classification",
        )
    names = tuple(features[label].names)
    readers = {}
    for split in builder.info.splits:
        readers[split] = functools.partial(
            _split, builder, split, image, label, len(names), directory, prepare, options
        )
    return Dataset(Deferred(readers), names)


def _newest(directory: Path) -> Path | None:
    """Finds the prepared version at or below a directory."""
    if (directory / "dataset_info.json").is_file():
        return directory
    versions = [path.parent for path in directory.glob("*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def _split(
    builder: Any, split: str, image: str, label: str, classes: int, directory: Path, prepare: str,
    options: ReadOptions,
) -> Split:
    import tensorflow_datasets

    where = f"{directory} ({split})"
    files = [str(path) for path in builder.info.splits[split].filepaths]
    try:
        records = builder.as_data_source(
            split, decoders={image: tensorflow_datasets.decode.SkipDecoding()}
        )
        stamps = np.array([stamp_of(file) for file in files], np.int64)
    except NotImplementedError:
        raise DataError(where, "is not prepared as array_record", prepare) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(where, files, error, prepare) from None
    key = ("tfds", *files, image, label)
    columns = recall_scan(key, stamps, ("label", "bytes"))
    if columns is None:
        try:
            columns = _scan(records, image, label, where, options)
        except DataError as error:
            raise _unreadable(where, files, error, prepare) from None
        keep_scan(key, stamps, options, **columns)
    count = len(columns["label"])
    if not count:
        raise DataError(where, "holds no example", prepare)
    reader = RecordReader(
        where, np.arange(count), np.zeros((count, 2), np.int32), options.decoding, records, image
    )
    make_split(reader, columns["label"], classes, where)  # before all images are opened
    listing = Listing(
        Names.of(f"{split} record {row}" for row in range(count)),
        columns["label"].astype(np.int32), columns["bytes"],
        np.full(count, stamps[:, 1].max(), np.int64),
    )
    index = build_index(str(directory.absolute()), listing, reader.content, options, split)
    reader = dataclasses.replace(reader, rows=index.rows, sizes=index.sizes)
    return make_split(reader, columns["label"][index.rows], classes, where, index.digest)


def _scan(
    records: Any, image: str, label: str, where: str, options: ReadOptions
) -> dict[str, np.ndarray]:
    """Reads all records, for their labels and the bytes of their images."""
    labels, sizes = [], []
    bar = Bar(options, f"reading labels of {where}", len(records), "records")
    for start in range(0, len(records), CHUNK):
        part = read_records(records, range(start, min(start + CHUNK, len(records))), where)
        empty = [
            row for row, record in enumerate(part, start) if None in (record[label], record[image])
        ]
        if empty:
            raise DataError(where, f"record {empty[0]} is empty", "prepare it again")
        labels += [int(record[label]) for record in part]
        sizes += [len(record[image]) for record in part]
        bar.add(len(part))
    return {"label": np.array(labels, np.int64), "bytes": np.array(sizes, np.int64)}


def _unreadable(where: str, files: Sequence[str], error: Exception, prepare: str) -> DataError:
    """Returns the error of a data source; what array_record raises does not name the file."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for file in files:
        try:
            records = ArrayRecordDataSource([file])
            if len(records):
                records[0]
        except Exception as damage:  # whatever its C++ code raises
            return DataError(
                where, f"{os.path.basename(file)} cannot be read ({first_line(damage)})", prepare
            )
    if isinstance(error, DataError):
        return error
    return DataError(where, f"cannot be read ({first_line(error)})", prepare)
