"""The names under which MNIST's files lie on disks, and the class names of two sets."""

import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.data.sources.idx import CLASS_NAMES
from tests.data import made

BOTH = {"train": "train", "test": "test"}


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("folder", [False, True])
def test_the_names_that_unpackers_write(tmp_path, dot, pack, folder):
    arrays = made.arrays(channels=1)
    made.idx(tmp_path, arrays, pack)
    for file in list(tmp_path.iterdir()):
        name = file.name.replace("-idx", ".idx") if dot else file.name
        content = file.read_bytes()
        file.unlink()
        if folder:  # a folder of the file's name, with the file within
            (tmp_path / name).mkdir()
            name = f"{name}/{name}"
        (tmp_path / name).write_bytes(content)
    splits = data.load(f"idx:{tmp_path}", BOTH).splits
    for name, (image, label) in arrays.items():
        np.testing.assert_array_equal(splits[name].image[..., 1], image)
        np.testing.assert_array_equal(splits[name].label, label)


@pytest.mark.parametrize(
    "place, known",
    [
        ("FashionMNIST/raw", "fashionmnist"),
        ("fashion-mnist", "fashionmnist"),
        ("KMNIST", "kmnist"),
        ("MNIST/raw", ""),
        ("fashion", ""),
    ],
)
def test_class_names_by_the_name_of_the_folder(tmp_path, place, known):
    image = np.zeros((10, 4, 4), np.uint8)
    made.idx(tmp_path / place, dict.fromkeys(BOTH, (image, np.arange(10))))
    wanted = CLASS_NAMES.get(known, tuple("0123456789"))
    assert data.load(f"idx:{tmp_path / place}", BOTH).class_names == wanted
    if place.endswith("raw"):  # as torchvision lays them down
        parent = (tmp_path / place).parent
        assert data.load(f"idx:{parent}", BOTH).class_names == wanted


def test_classes_that_do_not_fit_the_name_stay_numbers(tmp_path):
    made.idx(tmp_path / "kmnist", made.arrays(channels=1))
    assert data.load(f"idx:{tmp_path / 'kmnist'}", BOTH).class_names == ("0", "1", "2")
