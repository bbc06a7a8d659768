"""The Python versions of CIFAR, the corrupted sets, and SVHN."""

import pickle

import numpy as np
import pytest
import scipy.io

from kdaug_jax import data
from kdaug_jax.data import corruptions
from kdaug_jax.errors import ConfigError, DataError
from tests.data import made

BOTH = {"train": "train", "test": "test"}


def same(split, image, label):
    assert split.image.dtype == np.uint8 and split.label.dtype == np.int32
    np.testing.assert_array_equal(split.image, image)
    np.testing.assert_array_equal(split.label, label)


def refused(source, what, splits=BOTH, error=DataError):
    with pytest.raises(error, match=what) as caught:
        data.load(source, splits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keys", [str, str.encode])
@pytest.mark.parametrize("classes, inner", [(10, "cifar-10-batches-py"), (100, "cifar-100-python")])
def test_the_python_version(tmp_path, classes, inner, keys):
    written = made.cifar_python(tmp_path / inner, classes, keys=keys)
    for place in (tmp_path, tmp_path / inner):
        dataset = data.load(f"cifar{classes}:{place}", BOTH)
        assert dataset.class_names == tuple(f"kind_{number}" for number in range(classes))
        for name, pair in written.items():
            same(dataset.splits[name], *pair)


def test_both_versions_give_the_same(tmp_path):
    image, label = made.cifar(tmp_path / "bin", 10)["test"]
    rows = image.transpose(0, 3, 1, 2).reshape(len(image), -1)
    made.cifar_python(tmp_path / "py", 10)
    (tmp_path / "py" / "test_batch").write_bytes(
        pickle.dumps({"data": rows, "labels": label.tolist()})
    )
    for version in ("bin", "py"):
        same(data.load(f"cifar10:{tmp_path / version}", {"test": "test"}).splits["test"],
             image, label)
    # Without batches.meta the names are the published ones.
    (tmp_path / "py" / "batches.meta").unlink()
    names = [data.load(f"cifar10:{tmp_path / version}", BOTH).class_names
             for version in ("bin", "py")]
    assert names[0] == names[1] and names[0][9] == "truck"


def test_what_is_wrong_with_batches(tmp_path):
    made.cifar_python(tmp_path, 10)
    rows, label = np.zeros((4, 3072), np.uint8), [0, 1, 2, 3]
    file = tmp_path / "data_batch_4"
    for batch, what in (
        ({"labels": label}, "has no 'data' and 'labels'"),
        ({"data": rows[:, 1:], "labels": label}, r"'data' is uint8\[4, 3071\]; uint8\[N,3072\]"),
        ({"data": rows.astype(int), "labels": label}, r"'data' is int64\[4, 3072\]"),
        ({"data": rows.tolist(), "labels": label}, "'data' is list"),
        ({"data": rows[:0], "labels": []}, r"'data' is uint8\[0, 3072\]"),
        ({"data": rows, "labels": label[:3]}, "holds 4 images and 3 labels"),
        ({"data": rows, "labels": [0, 1, 2, 10]}, "example 3 has label 10; with 10 classes"),
        ({"data": rows, "labels": [0, 1, 1 << 70, 0]}, f"example 2 has label {1 << 70}"),
        ({"data": rows, "labels": [0, 1, 2, "3"]}, "'labels' holds no integers"),
    ):
        file.write_bytes(pickle.dumps(batch))
        assert str(file) in refused(f"cifar10:{tmp_path}", what)
    file.unlink()
    refused(f"cifar10:{tmp_path}", "has no data_batch_4; unpack cifar-10-python.tar.gz there")
    meta = tmp_path / "batches.meta"
    made.cifar_python(tmp_path, 10)
    for names, what in (([b"a"], "names 1 classes; 10 are wanted"), ("a", "no list of class names"),
                        ([1] * 10, "no list of class names")):
        meta.write_bytes(pickle.dumps({"label_names": names}))
        refused(f"cifar10:{tmp_path}", f"batches.meta: .*{what}")


def corrupted(directory, classes=10, count=4):
    directory.mkdir()
    image = np.random.RandomState(0).randint(0, 256, (5 * count, 32, 32, 3), dtype=np.uint8)
    label = np.arange(count) % classes
    np.save(directory / "fog.npy", image)
    np.save(directory / "labels.npy", np.tile(label, 5))
    return image, label


@pytest.mark.parametrize("classes, name", [(10, "CIFAR-10-C"), (100, "CIFAR-100-C")])
def test_corrupted_cifar(tmp_path, classes, name):
    image, label = corrupted(tmp_path / name, classes)
    for place in (tmp_path, tmp_path / name):
        for severity in range(1, 6):
            dataset = data.load(
                f"cifar{classes}c:{place}?corruption=fog&severity={severity}", {"test": "test"}
            )
            same(dataset.splits["test"], image[4 * (severity - 1) : 4 * severity], label)
    made.cifar(tmp_path / "clean", classes)
    clean = data.load(f"cifar{classes}:{tmp_path / 'clean'}", BOTH)
    assert dataset.class_names == clean.class_names
    assert list(data.SOURCES[f"cifar{classes}c"](f"{tmp_path}?corruption=fog&severity=1").splits) \
        == ["test"]


def test_the_options_of_corrupted_cifar_are_listed(tmp_path):
    corrupted(tmp_path / "CIFAR-10-C")
    source = f"cifar10c:{tmp_path}"
    for text in (source, f"{source}?corruption=fog", f"{source}?severity=1"):
        line = refused(text, "cifar10c needs a corruption and a severity", error=ConfigError)
        assert all(name in line for name in corruptions.corruptions(extra=True))
        advice = line.split("; write ")[1].split(", ")[0]
        assert len(data.load(advice, {"test": "test"}).splits["test"]) == 4
    for options, what in (
        ("corruption=frog&severity=1", "no corruption 'frog'; did you mean fog"),
        ("corruption=fog&severity=6", "no severity '6'; 1 to 5 are known"),
        ("corruption=fog&level=1", "no option 'level'"),
    ):
        refused(f"{source}?{options}", what, error=ConfigError)
    refused(f"{source}?corruption=snow&severity=1", "has no snow.npy; unpack CIFAR-10-C.tar there")
    refused(f"cifar10c:{tmp_path / 'no'}?corruption=fog&severity=1", "is not a directory")


def test_the_corruptions_of_the_benchmark():
    assert len(corruptions.corruptions()) == 15 and len(corruptions.corruptions(extra=True)) == 19
    assert "saturate" not in corruptions.corruptions()


def test_what_is_wrong_with_corrupted_cifar(tmp_path):
    image, label = corrupted(tmp_path / "set")
    source = f"cifar10c:{tmp_path / 'set'}?corruption=fog&severity=2"
    labels, fog = tmp_path / "set" / "labels.npy", tmp_path / "set" / "fog.npy"
    for file, array, what in (
        (labels, np.repeat(label, 5), "not hold the same labels for each"),
        (labels, np.tile(label, 4), r"labels.npy: holds int64\[16\]; 20 labels are wanted"),
        (labels, np.tile(label + 9, 5), "example 1 has label 10"),
        (labels, np.tile(label, 5) * 1.0, "holds float64"),
        (fog, image[:-1], r"holds uint8\[19, 32, 32, 3\]"),
        (fog, image / 255, "holds float64"),
        (fog, image[:, :28], r"holds uint8\[20, 28, 32, 3\]"),
        (fog, np.array(3), "is not an array"),
        (fog, np.array([{}], object), "fog.npy: cannot be read .*[Oo]bject"),
    ):
        np.save(labels, np.tile(label, 5))
        np.save(fog, image)
        np.save(file, array, allow_pickle=True)
        refused(source, what, {"test": "test"})
    np.save(labels, np.tile(label, 5))
    np.save(fog, image)
    fog.write_bytes(fog.read_bytes()[:-1])
    refused(source, "fog.npy: cannot be read", {"test": "test"})


def mat(path, count, **changed):
    random = np.random.RandomState(count)
    image = random.randint(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    label = random.permutation(np.arange(count) % 10 + 1).astype(np.uint8)
    content = {"X": image.transpose(1, 2, 3, 0), "y": label[:, None], **changed}
    scipy.io.savemat(path, {key: value for key, value in content.items() if value is not None})
    return image, np.where(label == 10, 0, label)


def test_svhn(tmp_path):
    train, test = mat(tmp_path / "train_32x32.mat", 20), mat(tmp_path / "test_32x32.mat", 12)
    dataset = data.load(f"svhn:{tmp_path}", BOTH)
    assert dataset.class_names == tuple("0123456789")
    same(dataset.splits["train"], *train)
    same(dataset.splits["test"], *test)
    refused(f"svhn:{tmp_path}", "no split 'extra'", {"train": "extra"}, ConfigError)
    refused(f"svhn:{tmp_path}?extra=train", "has no extra_32x32.mat")
    extra = mat(tmp_path / "extra_32x32.mat", 11)
    same(data.load(f"svhn:{tmp_path}", {"train": "extra"}).splits["train"], *extra)
    both = data.load(f"svhn:{tmp_path}?extra=train", BOTH).splits
    same(both["train"], *(np.concatenate(pair) for pair in zip(train, extra, strict=True)))
    same(both["test"], *test)
    line = refused(f"svhn:{tmp_path}?extra=test", "cannot add", error=ConfigError)
    assert f"svhn:{tmp_path}?extra=train" in line


def test_what_is_wrong_with_svhn(tmp_path):
    mat(tmp_path / "train_32x32.mat", 20)
    refused(f"svhn:{tmp_path}", "has no test_32x32.mat; fetch the files of SVHN's format 2")
    refused(f"svhn:{tmp_path / 'no'}", "is not a directory")
    file = tmp_path / "test_32x32.mat"
    image = np.zeros((32, 32, 3, 2), np.uint8)
    for changed, what in (
        ({"X": None}, "has no variables X and y"),
        ({"X": image * 1.0}, r"X is float64\[32, 32, 3, 2\]"),
        ({"X": image[:28]}, r"X is uint8\[28, 32, 3, 2\]"),
        ({"X": image}, r"y is uint8\[12, 1\]; 2 integers are wanted"),
        ({"y": np.zeros((12, 1), np.uint8)}, "example 0 has label 0; SVHN's labels are 1 to 10"),
        ({"y": np.full((12, 1), 11)}, "example 0 has label 11"),
    ):
        mat(file, 12, **changed)
        assert str(file) in refused(f"svhn:{tmp_path}", what)
    mat(file, 12)
    file.write_bytes(file.read_bytes()[:200])
    refused(f"svhn:{tmp_path}", "cannot be read")
    # The header that MATLAB writes in front of HDF5: version 2.0.
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    file.write_bytes(header + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(512))
    refused(f"svhn:{tmp_path}", "is a MATLAB v7.3 file .HDF5.*fetch train_32x32.mat and test_32x")
