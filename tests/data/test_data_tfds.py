"""A set prepared as array_record without TensorFlow: its builder yields encoded PNG."""

import gc
import io
import os
import pickle
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.errors import ConfigError, DataError
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
"""
PREPARE = """
    import sys
    sys.path[:0] = sys.argv[1:3]
    from mini.mini_dataset_builder import Builder
    Builder(data_dir=sys.argv[3], file_format="array_record").download_and_prepare()
    assert "tensorflow" not in sys.modules
"""


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


def test_a_set_in_another_format_or_damaged(prepared, tmp_path):
    import shutil

    directory = tmp_path / "mini" / "1.0.0"
    shutil.copytree(prepared / "mini" / "1.0.0", directory)
    source = f"tfds:mini?data_dir={tmp_path}"
    (record,) = directory.glob("*test*array_record*")
    record.write_bytes(record.read_bytes()[:100])
    with pytest.raises(DataError, match=r"1\.0\.0 \(test\): .*cannot be read"):
        data.load(source, SPLITS)
    record.unlink()
    with pytest.raises(DataError, match=r"1\.0\.0 \(test\): .*cannot be read"):
        data.load(source, SPLITS)
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="is not prepared as array_record; prepare it once"):
        data.load(source, SPLITS)
    info.write_text("{")
    with pytest.raises(DataError):
        data.load(source, SPLITS)


def test_images_of_records_are_checked(prepared):
    from kdaug_jax.data.sources.tfds import RecordReader

    class Records(list):
        def __getitems__(self, keys):
            return [self[key] for key in keys]

    content = io.BytesIO()
    Image.new("RGB", (5, 6)).save(content, "PNG")
    reader = RecordReader(
        Records([{"image": content.getvalue()}, {"image": b"?"}]),
        "image",
        np.arange(2),
        (6, 6),
        "set",
    )
    for row, what in ((0, "image 0 has 5×6 pixels"), (1, "image 1 is not a"), (2, "cannot be")):
        with pytest.raises(DataError, match=f"set: .*{what}"):
            RecordReader(reader.records, "image", np.arange(3), (6, 6), "set").read([row])
