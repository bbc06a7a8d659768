import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.errors import ConfigError, DataError
from tests.conftest import EXTRAS_REQUIRED
from tests.data import made

FASHION = Path("/usr/share/datasets/fashion-mnist")
SPLITS = {"train": "train", "validation": "stratified(test[:50%])", "test": "test"}


def fails(source, *words, splits=SPLITS):
    """Loads what must fail in one line that holds all of `words`, and gives the line."""
    with pytest.raises(DataError) as caught:
        dataset = data.load(source, splits)
        for split in dataset.splits.values():
            split.read(np.arange(len(split)))
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert str(word) in line
    return line


def same(split, image, label):
    assert split.image.dtype == np.uint8 and split.label.dtype == np.int32
    np.testing.assert_array_equal(split.image, image)
    np.testing.assert_array_equal(split.label, label)


@pytest.mark.parametrize("channels", [3, 1])
def test_the_same_images_through_every_source(tmp_path, channels):
    arrays = made.arrays(channels=channels)
    sources = [
        f"folder:{made.folder(tmp_path / 'folder', arrays)}",
        f"arrays:{made.npz(tmp_path / 'set.npz', arrays, class_names=made.CLASSES)}",
        data.register("mine", data.from_arrays(arrays, made.CLASSES)),
    ]
    if channels == 1:
        sources += [f"idx:{made.idx(tmp_path / 'idx', arrays)}"]
        sources += [f"idx:{made.idx(tmp_path / 'gz', arrays, pack=True)}"]
    facts = set()
    for source in sources:
        dataset = data.load(source, SPLITS)
        names = ("0", "1", "2") if source.startswith("idx") else made.CLASSES
        assert dataset.class_names == names
        for name, (image, label) in arrays.items():
            wanted = image if channels == 3 else np.repeat(image[..., None], 3, -1)
            same(dataset.splits[name], wanted, label)
        assert dataset.splits["validation"].index.tolist() == [0, 2, 4]
        facts.add(str(data.describe(dataset)._replace(class_names=())))
    assert len(facts) == 1


def test_images_on_the_disk_are_read_when_asked_for(tmp_path):
    arrays = made.arrays()
    split = data.load(f"folder:{made.folder(tmp_path, arrays)}", SPLITS).splits["train"]
    image, label = arrays["train"]
    assert not split.in_memory and split.size_bytes == image.nbytes
    part = pickle.loads(pickle.dumps(split.take(np.array([7, 2, 2]))))
    same(part, image[[7, 2, 2]], label[[7, 2, 2]])
    np.testing.assert_array_equal(part.read([2, 0]), image[[2, 7]])
    assert part.index.tolist() == [7, 2, 2] and part.read([]).shape == (0, 6, 6, 3)
    assert part.loaded().in_memory and part.loaded().index.tolist() == [7, 2, 2]
    same(part.loaded(), image[[7, 2, 2]], label[[7, 2, 2]])


def test_splits_that_are_not_used_are_not_read(tmp_path):
    made.idx(tmp_path, made.arrays(channels=1))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"damaged")
    data.load(f"idx:{tmp_path}", {"train": "train"})
    fails(f"idx:{tmp_path}", "t10k-images-idx3-ubyte")


def test_fashion_mnist():
    if not FASHION.is_dir() and not EXTRAS_REQUIRED:
        pytest.skip("not installed: apt-get install dataset-fashion-mnist")
    dataset = data.load(
        f"idx:{FASHION}", {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
    )
    assert {use: len(split) for use, split in dataset.splits.items()} == {
        "train": 54_000,
        "validation": 6_000,
        "test": 10_000,
    }
    test = dataset.splits["test"]
    assert np.bincount(test.label).tolist() == [1000] * 10
    assert test.label[:5].tolist() == [9, 2, 1, 1, 6]  # boot, pullover, trouser, trouser, shirt
    assert test.image.shape == (10_000, 28, 28, 3)
    info = data.describe(dataset)
    # 0.286 and 0.353 of 255, as published for the 60,000.
    assert info.mean == pytest.approx([72.9] * 3, abs=0.3)
    assert info.std == pytest.approx([90.0] * 3, abs=0.3)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path, classes):
    directory = tmp_path / ("cifar-10-batches-bin" if classes == 10 else "cifar-100-binary")
    written = made.cifar(directory, classes)
    for place in (directory, tmp_path):
        dataset = data.load(f"cifar{classes}:{place}", SPLITS)
        for name in ("train", "test"):
            same(dataset.splits[name], *written[name])
    assert dataset.class_names[0] == ("airplane" if classes == 10 else "apple")
    assert len(set(dataset.class_names)) == classes
    file = directory / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")
    names = tuple(f"kind_{number}" for number in range(classes))
    file.write_text("\n".join(names) + "\n\n")
    assert data.load(f"cifar{classes}:{directory}", SPLITS).class_names == names
    file.write_text("one\n")
    fails(f"cifar{classes}:{directory}", file, "names 1 classes")


def test_what_is_wrong_with_cifar_files(tmp_path):
    made.cifar(tmp_path, 10)
    file = tmp_path / "data_batch_3.bin"
    content = bytearray(file.read_bytes())
    file.write_bytes(content[:-1])
    fails(f"cifar10:{tmp_path}", file, "12291 bytes, not a multiple of 3073")
    content[2 * 3073] = 10
    file.write_bytes(content)
    fails(f"cifar10:{tmp_path}", file, "example 2 has label 10", "0..9")
    file.unlink()
    line = fails(f"cifar10:{tmp_path}", "has no data_batch_3.bin", "cifar-10-binary.tar.gz")
    assert "python" not in line
    fails(f"cifar100:{tmp_path}", "has no train.bin, test.bin", "cifar-100-binary.tar.gz")
    fails(f"cifar10:{tmp_path / 'no'}", "is not a directory")
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(f"cifar10:{empty}", "cifar-10-binary.tar.gz or cifar-10-python.tar.gz")


def test_what_is_wrong_with_idx_files(tmp_path):
    arrays = made.arrays(channels=1)
    made.idx(tmp_path, arrays)
    source, file = f"idx:{tmp_path}", tmp_path / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    for content, what in (
        (whole[:-1], "holds 447 bytes; its header says 448"),
        (whole + b"!", "holds 449 bytes"),
        (whole[:10], "holds 10 bytes"),
        (whole[:3] + b"\1" + whole[4:], "starts with the bytes 00000801; an idx file"),
        (b"", "starts with"),
    ):
        file.write_bytes(content)
        fails(source, file, what)
    file.unlink()
    fails(source, tmp_path, "has no train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    fails(f"idx:{tmp_path / 'no'}", "is not a directory", "train-images-idx3-ubyte")
    made.write_idx(file.with_suffix(".gz"), arrays["train"][0], pack=True)
    packed = file.with_suffix(".gz").read_bytes()
    file.with_suffix(".gz").write_bytes(packed[: len(packed) // 2])
    fails(source, file.with_suffix(".gz"), "cannot be read")
    made.write_idx(file, arrays["train"][0][:-1])
    fails(source, file, "11 images and 12 labels")
    made.idx(tmp_path, arrays | {"test": (arrays["test"][0], arrays["test"][1] + 5)})
    fails(source, "t10k-labels-idx1-ubyte", "example 0 has label 5 (6 such)", "0..2")
    empty = np.zeros((0, 6, 6)), np.zeros(0)
    made.idx(tmp_path, arrays | {"test": empty})
    fails(source, "t10k-labels-idx1-ubyte", "holds no example")


def test_what_is_wrong_with_arrays(tmp_path):
    (image, label), test = made.arrays().values()
    for train, *words in (
        ((image.astype(np.float32) / 255, label), "float32 from 0.0 to 1.0; uint8 0..255"),
        ((image.view(np.int8), label), "int8 from -1", "uint8 0..255 is wanted"),
        ((image.astype(np.uint16), label), "uint16 from"),
        ((image[:, 0, 0], label), "shape (12, 3)"),
        ((image.transpose(0, 3, 1, 2), label), "shape (12, 3, 6, 6); [N,H,W,3]"),
        ((image[:5], label), "5 images and 12 labels"),
        ((image, np.eye(3)[label]), "labels are float64"),
        ((image, np.eye(3, dtype=int)[label]), "labels are int64 of shape (12, 3)"),
        ((image, label - 1), "example 0 has label -1 (4 such)"),
        ((image[:0], label[:0]), "holds no example"),
    ):
        file = made.npz(tmp_path / "set.npz", {"train": train, "test": test})
        fails(f"arrays:{file}", file, "(train)", *words)
        with pytest.raises(DataError, match=r"arrays \(train\)"):
            data.from_arrays({"train": train, "test": test})
    with pytest.raises(DataError, match=r"arrays \(test\): example 2 has label 1"):
        data.from_arrays({"test": test}, ["only one"])
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    fails(f"arrays:{file}", file, "cannot be read")
    np.savez(file, train_image=image)
    fails(f"arrays:{file}", file, "has no train_label")
    np.savez(file, images=image)
    fails(f"arrays:{file}", file, "has no images", "train_image, train_label")
    np.savez(file, train_image=image, train_label=np.array([[1], None], object))
    fails(f"arrays:{file}", "train_label cannot be read", "without objects")
    np.save(tmp_path / "one.npy", image)
    fails(f"arrays:{tmp_path / 'one.npy'}", "cannot be read")
    data.register("dots", data.from_arrays({"train": (image, label)}))
    fails("arrays:dot", "neither a file nor a registered name", "did you mean dots?")


def test_splits_may_differ_in_size():
    (image, label), test = made.arrays().values()
    other = data.from_arrays({"train": (image, label), "test": (test[0][:, :4], test[1])})
    splits = data.load(data.register("sizes", other), SPLITS).splits
    assert splits["train"].size == (6, 6) and splits["test"].size == (4, 6)
    assert splits["test"].sizes.tolist() == [[4, 6]] * 6


def test_a_path_needs_the_name_of_a_source(tmp_path):
    photographs = tmp_path / "photographs" / "cat"
    photographs.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(photographs / "1.png")
    with pytest.raises(ConfigError) as caught:
        data.load(str(photographs.parent), {"train": "train"})
    typed = str(caught.value).partition("; write ")[2].partition(", or another name")[0]
    assert data.load(typed, {"train": "train"}).class_names == ("cat",)


@pytest.mark.parametrize("source", ["idx", "cifar10:", "cifar100: ", "folder:"])
def test_a_directory_must_be_given(source):
    with pytest.raises(ConfigError, match="needs a directory; .*:DIR"):
        data.load(source, SPLITS)


def test_a_validation_split_can_be_taken_from_train(tmp_path):
    made.idx(tmp_path, made.arrays(channels=1))
    with pytest.raises(ConfigError, match="but train, test; take it from train: ") as caught:
        data.load(f"idx:{tmp_path}", SPLITS | {"validation": "validation"})
    # What the line says to type works, though the set is sorted by class.
    typed = dict(re.findall(r"data\.(\w+)='([^']*)'", str(caught.value)))
    assert set(typed) == {"train", "validation"}
    assert len(data.load(f"idx:{tmp_path}", SPLITS | typed).splits["validation"]) == 2


def test_statistics_of_a_large_split_are_those_of_evenly_spaced_images(monkeypatch):
    random = np.random.RandomState(0)
    image = random.randint(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    dataset = data.from_arrays({"train": (image, np.arange(10) % 2)})
    monkeypatch.setattr("kdaug_jax.data.statistics.STATISTICS_BYTES", 5 * 48 + 1)
    info = data.describe(dataset)
    np.testing.assert_allclose(info.mean, image[::2].mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(info.std, image[::2].std((0, 1, 2)), atol=1e-4)


@pytest.mark.parametrize("names, message", [
    ({"cat": 1, "dog": 0}, "arrays: class_names are a dict; give a list, in the order of the "),
    ({"cat", "dog"}, "arrays: class_names are a set; give a list, in the order of the class"),
    ("ab", "arrays: class_names are a str; give a list"),
    (("cat", "cat"), "arrays: two classes are called 'cat'; give each its own name"),
])
def test_class_names_have_an_order_and_are_distinct(names, message, tmp_path):
    image = np.full((2, 4, 4, 3), 9, np.uint8)
    with pytest.raises(DataError, match=message):
        data.from_arrays({"train": (image, np.arange(2))}, names)
    if isinstance(names, tuple):
        np.savez(tmp_path / "x.npz", train_image=image, train_label=[0, 1], class_names=names)
        with pytest.raises(DataError, match="x.npz: two classes are called 'cat'"):
            data.load(f"arrays:{tmp_path}/x.npz", {"train": "train"})


def test_images_of_0_and_1_are_refused():
    image = (np.arange(96).reshape(2, 4, 4, 3) % 2).astype(np.uint8)
    with pytest.raises(DataError, match="images hold 0 and 1 alone; multiply them by 255"):
        data.from_arrays({"train": (image, np.arange(2))})
    data.from_arrays({"train": (255 * image, np.arange(2))})
    data.from_arrays({"train": (0 * image, np.arange(2))})
