"""Sets that TensorFlow Datasets has prepared as array_record, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from kdaug_jax.data.dataset import Dataset, Deferred, Split, make_split
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.images.decode import decode

# Records read at once for their labels.
CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """Images in records of a prepared set.

    Attributes:
      records: the data source, whose records are dicts with undecoded images.
      image: name of the image feature.
      index: `i32[N]`, records of the N images.
      size: (height, width) that all must have.
      where: for messages.
    """

    records: Any
    image: str
    index: np.ndarray
    size: tuple[int, int]
    where: str

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes the images `rows`."""
        numbers = self.index[rows]
        image = np.empty((len(numbers), *self.size, 3), np.uint8)
        for position, record in enumerate(_records(self.records, numbers, self.where)):
            index = int(numbers[position])
            pixels = decode(record[self.image], self.where, index)
            if pixels.shape != image.shape[1:]:
                height, width = pixels.shape[:2]
                raise DataError(
                    self.where, f"image {index} has {width}×{height} pixels, the first one "
                    f"{self.size[1]}×{self.size[0]}", "prepare it with images of one size",
                )
            image[position] = pixels
        return image

    def take(self, rows: np.ndarray) -> RecordReader:
        """Returns a reader of the images `rows`."""
        return dataclasses.replace(self, index=self.index[rows])


def tfds(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads a prepared set of TensorFlow Datasets.

    Nothing is downloaded or prepared, and no code of a builder runs: only the directory is read.
    Labels are read in one pass over the records of each split that is used; images are decoded
    when they are read, see `images.decode`.

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
    root = Path(data_dir or default).expanduser()
    prepare = (
        "prepare it once where tensorflow is installed: "
        f"tfds build {name} --file_format=array_record --data_dir={root}"
    )
    directory = _newest(root / name.replace(":", "/"))
    if directory is None:
        raise DataError(str(root / name.replace(":", "/")), "no prepared set lies here", prepare)
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(directory)
        features = dict(builder.info.features or {})
        image, label = builder.info.supervised_keys or ("image", "label")
    except Exception as error:  # whatever the parsers of its JSON files raise
        raise DataError(
            str(directory), f"its description cannot be read ({_first_line(error)})", prepare
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
            _split, builder, split, image, label, len(names), f"{directory} ({split})", prepare
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
    builder: Any, split: str, image: str, label: str, classes: int, where: str, prepare: str
) -> Split:
    import tensorflow_datasets

    try:
        records = builder.as_data_source(
            split, decoders={image: tensorflow_datasets.decode.SkipDecoding()}
        )
    except NotImplementedError:
        raise DataError(where, "is not prepared as array_record", prepare) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(where, f"cannot be read ({_first_line(error)})", prepare) from None
    labels, first = [], None
    for start in range(0, len(records), CHUNK):
        part = _records(records, np.arange(start, min(start + CHUNK, len(records))), where)
        first = part[0][image] if first is None else first
        labels += [int(record[label]) for record in part]
    if first is None:
        raise DataError(where, "holds no example", prepare)
    size = decode(first, where, 0).shape[:2]
    index = np.arange(len(labels), dtype=np.int32)
    reader = RecordReader(records, image, index, size, where)
    return make_split(reader, np.asarray(labels, np.int64), classes, where)


def _records(records: Any, numbers: np.ndarray, where: str) -> list[dict[str, Any]]:
    try:
        return list(records.__getitems__([int(index) for index in numbers]))
    except Exception as error:  # array_record passes on any error of its C++ code
        raise DataError(
            where, f"records {numbers.min()} to {numbers.max()} cannot be read "
            f"({_first_line(error)})", "prepare it again",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
