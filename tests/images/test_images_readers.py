import os
import pickle

import numpy as np
import pytest
from PIL import Image

from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import DecodeOptions
from kdaug_jax.images.readers import FileReader, Names

NAMES = ("a/1.png", "a/ä ö.png", "b/\udcff.png")


def reader_of(directory, sizes, options=DecodeOptions()):  # noqa: B008
    names = [f"{number}.png" for number in range(len(sizes))]
    for number, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
        Image.new("RGB", (width, height), (number, 0, 0)).save(directory / name)
    rows = np.arange(len(sizes))
    return FileReader(str(directory), Names.of(names), rows, np.array(sizes, np.int32), options)


def test_names_are_kept_in_one_block():
    names = Names.of(NAMES)
    assert list(names) == list(NAMES) and len(names) == 3
    copied = pickle.loads(pickle.dumps(names))
    assert copied[2] == NAMES[2] and len(pickle.dumps(Names.of(["x" * 9] * 10_000))) < 101_000
    assert list(Names.of([])) == []
    with pytest.raises(IndexError):
        names[3]


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    name = os.fsdecode(b"\xff.png")
    (tmp_path / name).write_bytes(b"text")
    reader = FileReader(str(tmp_path), Names.of([name]), np.arange(1), np.ones((1, 2), np.int32))
    with pytest.raises(DataError, match=r"xff\.png: image 0 is not a PNG") as told:
        reader.image(0)
    str(told.value).encode()


def test_images_of_several_sizes_are_read_one_by_one(tmp_path):
    reader = reader_of(tmp_path, [(5, 4), (3, 7), (5, 4)])
    assert reader.size is None
    part = pickle.loads(pickle.dumps(reader.take([1, 0])))
    image = part.image(0)
    assert image.mode == "RGB" and image.size == (7, 3) and image.getpixel((0, 0)) == (1, 0, 0)
    with pytest.raises(DataError, match="images of several sizes, such as 4×5 and 7×3; let every"):
        reader.read(np.array([0, 1]))
    pair = reader.read(np.array([2, 0]))
    assert pair.shape == (2, 5, 4, 3) and pair[:, 0, 0, 0].tolist() == [2, 0]
    assert reader.take([0, 2]).size == (5, 4)
    assert reader.take([0, 2]).read(np.array([], int)).shape == (0, 5, 4, 3)


def test_a_file_that_changed_after_it_was_indexed(tmp_path):
    reader = reader_of(tmp_path, [(5, 4), (5, 4)])
    Image.new("RGB", (6, 7)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="image 1 has 6×7 pixels, and had 4×5 when it was indexed"):
        reader.read(np.array([0, 1]))
    os.unlink(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"0.png: image 0 cannot be read \(No such file"):
        reader.image(0)
