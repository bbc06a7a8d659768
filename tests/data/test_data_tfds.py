"""A set prepared as array_record without TensorFlow: its builder yields encoded PNG."""

import gc
import io
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.images.decode import DecodeOptions
from kdaug_jax.images.readers_records import RecordReader
from tests.data import made

SPLITS = {
    "train": "stratified(train[:75%])",
    "validation": "stratified(train[75%:])",
    "test": "test",
}
BUILDER = """
    import io
    import numpy as np
    from PIL import Image
    import tensorflow_datasets as tfds
    from tests.data import made


    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = "mini"

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=list(made.CLASSES)),
                }),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, manager):
            return {name: self._generate_examples(*two) for name, two in made.arrays().items()}

        def _generate_examples(self, image, label):
            for number, (pixels, class_number) in enumerate(zip(image, label)):
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "PNG")
                content.seek(0)
                yield number, {"image": content, "label": int(class_number)}


    class Mixed(Builder):
        name = "mixed"

        def _generate_examples(self, image, label):
            for number, (pixels, class_number) in enumerate(zip(image, label)):
                content = io.BytesIO()
                Image.fromarray(pixels[: 1 + number % 3]).save(content, "PNG")
                content.seek(0)
                yield number, {"image": content, "label": int(class_number)}
"""
PREPARE = """
    import sys
    sys.path[:0] = sys.argv[1:3]
    from mini.mini_dataset_builder import Builder, Mixed
    Builder(data_dir=sys.argv[3], file_format="array_record").download_and_prepare()
    Mixed(data_dir=sys.argv[3], file_format="array_record").download_and_prepare()
    assert "tensorflow" not in sys.modules
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module", autouse=True)
def swept():
    """tfds imports lazily in a way that cannot bear what other tests left being collected then."""
    import tracemalloc  # noqa: F401, which pytest imports in that moment

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The directory that holds the prepared set "mini"; another process wrote it."""
    root = tmp_path_factory.mktemp("tfds")
    package = root / "code" / "mini"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "mini_dataset_builder.py").write_text(textwrap.dedent(BUILDER))
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PREPARE), str(root / "code"), here, str(root)],
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    return root


def test_a_prepared_set(prepared):
    dataset = data.load(f"tfds:mini?data_dir={prepared}", SPLITS)
    assert dataset.class_names == made.CLASSES
    assert {use: len(split) for use, split in dataset.splits.items()} == {
        "train": 9,
        "validation": 3,
        "test": 6,
    }
    # The order of records is that of TFDS's shuffle at preparation.
    for name, uses in {"train": ("train", "validation"), "test": ("test",)}.items():
        labels = {}
        for use in uses:
            split = dataset.splits[use]
            assert not split.in_memory
            for pixels, class_number in zip(split.image, split.label, strict=True):
                labels[pixels.tobytes()] = class_number
        image, label = made.arrays()[name]
        assert labels == {
            pixels.tobytes(): number for pixels, number in zip(image, label, strict=True)
        }
    train = dataset.splits["train"]
    again = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(again.read([4, 0]), train.image[[4, 0]])
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["mini:1.0.0", "mini/1.0.0"])
def test_the_version_may_be_named(prepared, name, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(data.load(f"tfds:{name}", {"train": "train"}).splits["train"]) == 12


def test_what_is_not_prepared_is_told_how_to(prepared):
    for name in ("mnist", "mini:2.0.0"):
        with pytest.raises(DataError) as caught:
            data.load(f"tfds:{name}?data_dir={prepared}", SPLITS)
        line = str(caught.value)
        assert "no prepared set lies here; prepare it once where tensorflow is installed" in line
        assert f"tfds build {name} --file_format=array_record --data_dir={prepared}" in line
    for text in ("", "../mini", "mini?dir=x", "a b"):
        with pytest.raises(ConfigError, match="tfds:NAME"):
            data.load(f"tfds:{text}", SPLITS)


def test_images_of_many_sizes(prepared):
    train = data.load(f"tfds:mixed?data_dir={prepared}", {"train": "train"}).splits["train"]
    image, label = made.arrays()["train"]
    wanted = {
        pixels[: 1 + number % 3].tobytes(): class_number
        for number, (pixels, class_number) in enumerate(zip(image, label, strict=True))
    }
    assert train.size is None and len(train.digest) == 64
    for row in range(len(train)):
        pixels = np.asarray(train.image_at(row))
        assert list(pixels.shape[:2]) == train.sizes[row].tolist()
        assert wanted.pop(pixels.tobytes()) == train.label[row]
    assert not wanted
    with pytest.raises(DataError, match="several sizes"):
        train.read(np.arange(12))


def test_labels_are_read_once(prepared, monkeypatch):
    from kdaug_jax.data import index

    source = f"tfds:mini?data_dir={prepared}"
    first = data.load(source, {"train": "train"}).splits["train"]
    tfds = sys.modules["kdaug_jax.data.sources.tfds"]
    monkeypatch.setattr(tfds, "_scan", None)
    monkeypatch.setattr(index, "_look", None)
    again = data.load(source, {"train": "train"}).splits["train"]
    assert again.label.tolist() == first.label.tolist() and again.digest == first.digest


def test_a_preparation_that_was_not_finished(prepared, tmp_path):
    unfinished = tmp_path / "mini" / "incomplete.AB12CD_1.0.0"
    shutil.copytree(prepared / "mini" / "1.0.0", unfinished)
    for name in ("mini", "mini/incomplete.AB12CD_1.0.0"):
        with pytest.raises(DataError, match="incomplete.AB12CD_1.0.0: its preparation was not fin"):
            data.load(f"tfds:{name}?data_dir={tmp_path}", SPLITS)
    # It does not hinder a version that was finished.
    shutil.copytree(prepared / "mini" / "1.0.0", tmp_path / "mini" / "1.0.0")
    assert data.load(f"tfds:mini?data_dir={tmp_path}", SPLITS).class_names == made.CLASSES


def test_a_set_in_another_format_or_damaged(prepared, tmp_path):
    directory = tmp_path / "mini" / "1.0.0"
    shutil.copytree(prepared / "mini" / "1.0.0", directory)
    source = f"tfds:mini?data_dir={tmp_path}"
    (record,) = directory.glob("*test*array_record*")
    whole = record.read_bytes()
    for change in (lambda: record.write_bytes(whole[:100]),
                   lambda: record.write_bytes(whole[: len(whole) // 2]), record.unlink):
        change()
        with pytest.raises(DataError, match=rf"1\.0\.0 \(test\): {record.name} cannot be read"):
            data.load(source, SPLITS)
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="is not prepared as array_record; prepare it once"):
        data.load(source, SPLITS)
    info.write_text("{")
    with pytest.raises(DataError):
        data.load(source, SPLITS)


def test_images_of_records_are_checked():
    class Records(list):
        def __getitems__(self, keys):
            return [self[key] for key in keys]

    content = io.BytesIO()
    Image.new("RGB", (5, 6)).save(content, "PNG")
    records = Records([{"image": content.getvalue()}, {"image": b"?"}])
    reader = RecordReader(
        "set", np.arange(3), np.full((3, 2), 6, np.int32), DecodeOptions(), records, "image"
    )
    for row, what in (
        (0, "set record 0: image 0 has 5×6 pixels, and had 6×6 when it was indexed"),
        (1, "set record 1: image 1 is not a PNG"), (2, "set: record 2 cannot be read"),
    ):
        with pytest.raises(DataError, match=what):
            reader.read([row])
