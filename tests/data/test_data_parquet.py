"""Parquet files as Hugging Face writes them, and as others do."""

import builtins
import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data import ReadOptions
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.images import readers_parquet
from tests.data import made

BOTH = {"train": "train", "test": "test"}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(number, size=(5, 4)):
    content = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), number, np.uint8)).save(content, "PNG")
    return content.getvalue()


def features(names=made.CLASSES, image="image", label="label"):
    """The schema metadata that Hugging Face's `datasets` writes."""
    kinds = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": kinds}})}


def structs(contents):
    return pa.array([content and {"bytes": content, "path": None} for content in contents], IMAGE)


def write(path, numbers, *, metadata=None, sizes=((5, 4),), rows=2, **columns):
    """Images of one colour a number, whose class is the number modulo 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = list(numbers)
    columns = {
        "image": structs(png(number, sizes[number % len(sizes)]) for number in numbers),
        "label": pa.array([number % 3 for number in numbers], pa.int64()),
    } | columns
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    metadata = features() if metadata is None else metadata
    pq.write_table(table.replace_schema_metadata(metadata or None), path, row_group_size=rows)
    return path


def colours(split):
    return [split.image_at(row).getpixel((0, 0))[0] for row in range(len(split))]


def no_line(text):
    pass


def load(source, splits=("train",), **options):
    return data.load(source, {name: name for name in splits}, ReadOptions(say=no_line, **options))


def refused(source, what, splits=("train",), error=DataError, **options):
    with pytest.raises(error, match=what) as caught:
        load(source, splits, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shards(place, **more):
    write(place / "train-00000-of-00002.parquet", range(5), **more)
    write(place / "train-00001-of-00002-0123456789abcdef.parquet", range(5, 8), **more)
    write(place / "test-00000-of-00001.parquet", range(8, 11), **more)


def test_shards_of_hugging_face(tmp_path):
    shards(tmp_path / "data")
    for place in (tmp_path, tmp_path / "data"):
        dataset = load(f"parquet:{place}", BOTH)
        assert dataset.class_names == made.CLASSES
        train = dataset.splits["train"]
        assert colours(train) == list(range(8)) and train.label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
        assert train.size == (4, 5) and not train.in_memory and len(train.digest) == 64
        assert colours(dataset.splits["test"]) == [8, 9, 10]
    part = pickle.loads(pickle.dumps(train.take(np.array([7, 0, 4]))))
    assert part.read([0, 2])[:, 0, 0, 0].tolist() == [7, 4]
    assert part.index.tolist() == [7, 0, 4] and part.digest == train.digest


def test_images_of_many_sizes(tmp_path):
    shards(tmp_path, sizes=((5, 4), (4, 5), (6, 6)))
    train = load(f"parquet:{tmp_path}").splits["train"]
    assert train.size is None and train.sizes.tolist()[:3] == [[4, 5], [5, 4], [6, 6]]
    assert train.image_at(5).size == (6, 6)
    with pytest.raises(DataError, match="several sizes, such as 5×4 and 4×5"):
        train.read([0, 1])


@pytest.mark.parametrize(
    "layout",
    [
        ("train.parquet", "val.parquet", "evaluation.parquet"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/dev-00000-of-00001.parquet",
         "plain_text/test-00000-of-00001.parquet"),
        ("all/training/0000.parquet", "all/valid/0000.parquet", "all/test/0000.parquet"),
        ("set-train-0.parquet", "set-validation-0.parquet", "set-eval-0.parquet"),
    ],
)
def test_names_of_splits(tmp_path, layout):
    for name, numbers in zip(layout, (range(3), range(3, 5), range(5, 9)), strict=True):
        write(tmp_path / name, numbers)
    splits = load(f"parquet:{tmp_path}", ("train", "validation", "test")).splits
    assert [colours(splits[name]) for name in splits] == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]


def test_files_that_do_not_make_a_set(tmp_path):
    shards(tmp_path / "a")
    source = f"parquet:{tmp_path}"
    os.remove(tmp_path / "a" / "train-00000-of-00002.parquet")
    refused(source, r"shard 00000 is missing beside train-00001-of-00002.*\(1 of 2\)")
    write(tmp_path / "a" / "train-00000-of-00003.parquet", range(2))
    refused(source, "are not shards of one numbering")
    for file in (tmp_path / "a").glob("train*"):
        file.unlink()
    refused(source, "has no split 'train', but test", error=ConfigError)
    write(tmp_path / "b" / "partial-train" / "0000.parquet", range(2))
    line = refused(source, "holds several configurations: a, b; choose one, such as parquet:")
    load(line.split("such as ")[1], ("test",))
    refused(f"{source}/b", "partial-train: holds only the first part of a split")
    (tmp_path / "c").mkdir()
    refused(f"{source}/c", "holds no .parquet file; files are named like train-00000-of-00002")
    (tmp_path / "c" / "data-00000-of-00001.arrow").touch()
    refused(f"{source}/c", "which save_to_disk wrote; .*to_parquet")
    refused(f"{source}/d", "is not a directory")
    refused("parquet:", "needs a directory", error=ConfigError)
    refused(f"{source}?config=a", "no option 'config'", error=ConfigError)
    (tmp_path / "c" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 text")
    refused(f"{source}/c", "train-00000-of-00001.parquet: cannot be read as parquet")


def test_columns_that_have_to_be_chosen(tmp_path):
    more = {"mask": structs(png(100 + number) for number in range(4)),
            "coarse": pa.array([0, 0, 1, 1]), "name": pa.array(list("bbca"))}
    write(tmp_path / "train.parquet", range(4), metadata={}, **more)
    source = f"parquet:{tmp_path}"
    refused(source, "data.image: .*several columns that may be the image: image, mask; "
            "choose one, such as data.image='image'", error=ConfigError)
    refused(source, "data.label: .*may be the label: label, coarse", error=ConfigError,
            image="mask")
    dataset = load(source, image="mask", label="coarse")
    assert colours(dataset.splits["train"]) == [100, 101, 102, 103]
    assert dataset.splits["train"].label.tolist() == [0, 0, 1, 1]
    assert dataset.class_names == ("0", "1")
    refused(source, "has no column 'masks'; did you mean mask", error=ConfigError, image="masks")
    refused(source, r"column 'name' is string, not encoded", image="name", label="label")
    refused(source, r"column 'mask' is struct<.*integers or texts", image="image", label="mask")
    write(tmp_path / "train.parquet", range(4), metadata={}, label=None,
          id=pa.array(range(4)), fine_label=pa.array([0, 1, 0, 1]))  # fmt: skip
    refused(source, "may be the label: id, fine_label; choose one, such as data.label='fine_label'",
            error=ConfigError)
    # The schema of Hugging Face says which they are.
    write(tmp_path / "train.parquet", range(4), **more)
    assert load(source).splits["train"].label.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("names, what", [
    (("bee", "apple", "car"), "has 'bee' for class 0, and the set has 'apple'; use files whose"),
    (("apple", "bee"), "has no name for class 2, and the set has 'car'"),
    (("apple", "bee", "car", "dog"), "has 'dog' for class 3, and the set has no name"),
])  # fmt: skip
def test_files_that_name_other_classes_are_refused(tmp_path, names, what):
    """Each file counts its labels by its own names: what is read as the others' would shift."""
    write(tmp_path / "train-0.parquet", range(4))
    write(tmp_path / "test.parquet", range(2), metadata=features(names))
    source = f"parquet:{tmp_path}"
    load(source)  # what a run does not use hinders it not
    refused(source, f"test.parquet: {what}", BOTH)
    write(tmp_path / "test.parquet", range(2), metadata={})  # names nothing
    load(source, BOTH)
    write(tmp_path / "train-1.parquet", range(4), metadata=features(names))
    refused(source, f"train-1.parquet: {what}")


@pytest.mark.parametrize("labels, what", [
    (pa.array([0, 9**10]), r"\(train\): example 1 has label 3486784401 .*must be 0..999999"),
    (pa.array([0, 2**63], pa.uint64()), "row 1: has the label 9223372036854775808; class numbers"),
])  # fmt: skip
def test_a_stray_class_number_makes_no_million_of_names(tmp_path, labels, what):
    write(tmp_path / "train.parquet", range(2), metadata={}, label=labels)
    refused(f"parquet:{tmp_path}", what)


def test_labels_of_text_are_named(tmp_path):
    texts = pa.array(["pear", "apple", "pear", "fig"])
    write(tmp_path / "train.parquet", range(4), metadata={}, label=None, kind=texts)
    write(tmp_path / "test.parquet", range(2), metadata={}, label=None, kind=texts[1:3])
    source = f"parquet:{tmp_path}"
    refused(source, "has no column of class numbers, but of texts: kind; data.label='kind' takes")
    dataset = load(source, BOTH, label="kind")
    assert dataset.class_names == ("apple", "fig", "pear")
    assert dataset.splits["train"].label.tolist() == [2, 0, 2, 1]
    assert dataset.splits["test"].label.tolist() == [0, 2]
    write(tmp_path / "test.parquet", range(1), metadata={}, label=None, kind=pa.array(["plum"]))
    refused(source, "has the class 'plum'.*which 'train' has not", BOTH, label="kind")
    categories = texts.dictionary_encode()  # as pandas writes its categories
    write(tmp_path / "train.parquet", range(4), metadata={}, label=None, kind=categories)
    assert load(source, label="kind").class_names == ("apple", "fig", "pear")


def test_images_in_other_forms_of_bytes(tmp_path):
    contents = [png(number) for number in range(3)]
    for column in (
        pa.array(contents, pa.binary()),
        pa.array(contents, pa.large_binary()),
        pa.array([{"bytes": content} for content in contents], pa.struct([("bytes", pa.binary())])),
    ):
        write(tmp_path / "train.parquet", range(3), metadata={}, image=column)
        assert colours(load(f"parquet:{tmp_path}").splits["train"]) == [0, 1, 2]
    for column, kind in (
        (pa.array(["a.png"] * 3), "string"),
        (pa.array([[content] for content in contents]), "list<"),
        (pa.array([{"path": "a.png"}] * 3), "struct<path"),
    ):
        write(tmp_path / "train.parquet", range(3), metadata={}, image=column)
        refused(f"parquet:{tmp_path}", f"has no column of encoded images, but image .{kind}")


def test_what_is_null_or_of_another_type(tmp_path):
    source, file = f"parquet:{tmp_path}", tmp_path / "train.parquet"
    contents = [png(0), None, png(2)]
    for column in (
        structs(contents),
        pa.array([{"bytes": content, "path": "a.png"} for content in contents], IMAGE),
        pa.array(contents, pa.binary()),
    ):
        write(file, range(3), image=column)
        line = refused(source, "train.parquet row 1: has no bytes in image")
        assert "only the path of a file of the writer" in line
    write(file, range(3), label=pa.array([0, 1, None]))
    refused(source, r"train.parquet row 2: has no label \(1 such\)")
    for column, kind in ((pa.array([0.0, 1, 2]), "double"), (pa.array([True, False, True]), "bool"),
                         (pa.array([[0], [1], [2]]), "list")):
        write(file, range(3), label=column)
        refused(source, f"column 'label' is {kind}.*integers or texts are wanted")
    write(file, range(3), label=pa.array(["a", "b", "c"]))
    refused(source, "column 'label' is string, and the schema says ClassLabel")
    write(file, range(3), label=pa.array([0, 1, 3]))
    refused(source, "example 2 has label 3")
    write(file, range(3), label=pa.array([0, -1, 1]))
    refused(source, "example 1 has label -1")
    write(file, range(2), image=structs([b"text", png(0)]))
    refused(source, "train.parquet row 0: image 0 is not a PNG")
    write(file, range(3), label=None)
    refused(source, "has no column of class numbers, but image .struct<.*choose a set for class")
    write(tmp_path / "train-00000-of-00002.parquet", range(2))
    file.unlink()
    write(tmp_path / "train-00001-of-00002.parquet", range(2), label=pa.array([0.5, 1]))
    refused(source, "train-00001-of-00002.parquet: column 'label' is double; an integer is wanted")
    write(tmp_path / "train-00001-of-00002.parquet", range(2), image=None)
    refused(source, "train-00001-of-00002.parquet: has no column of images 'image.bytes'")


def test_a_test_split_without_labels_hinders_no_other(tmp_path):
    shards(tmp_path)
    write(tmp_path / "test-00000-of-00001.parquet", range(3), label=pa.array([-1, -1, -1]))
    assert len(load(f"parquet:{tmp_path}").splits["train"]) == 8
    line = refused(f"parquet:{tmp_path}", r"\(test\): has no labels: all are -1", BOTH)
    assert "data.test=''" in line


def test_class_names_beside_the_files(tmp_path):
    names = ["ant", "bee", "cow"]
    write(tmp_path / "data" / "train-00000-of-00001.parquet", range(4), metadata={})
    source = f"parquet:{tmp_path}"
    assert load(source).class_names == ("0", "1", "2")
    kinds = {"features": {"label": {"names": names, "_type": "ClassLabel"}}}
    readme = (
        "---\nlicense: mit\ndataset_info:\n{indent}features:\n  - name: image\n    dtype: image\n"
        "  - name: label\n    dtype:\n      class_label:\n        names:\n          '0': ant\n"
        "          '10': zebra\n          '2': cow\n          '1': bee\n---\n# Card\n"
    )
    for file, text, wanted in (
        ("dataset_info.json", json.dumps(kinds), names),
        ("data/dataset_info.json", json.dumps(kinds), names),
        ("dataset_infos.json", json.dumps({"plain_text": kinds}), names),
        ("README.md", readme.format(indent="  "), [*names, "zebra"]),
        ("README.md", readme.format(indent="- config_name: default\n  "), [*names, "zebra"]),
        ("README.md", "# Card\n", ["0", "1", "2"]),
        ("README.md", "---\na: [\n---\n", ["0", "1", "2"]),
        ("dataset_info.json", "{", ["0", "1", "2"]),
    ):
        (tmp_path / file).write_text(text)
        assert load(source).class_names == tuple(wanted), file
        (tmp_path / file).unlink()


def test_files_and_row_groups_without_rows_shift_no_image(tmp_path):
    full = pq.read_table(write(tmp_path / "train-1.parquet", range(2, 6)))
    write(tmp_path / "train-2.parquet", [])
    with pq.ParquetWriter(tmp_path / "train-0.parquet", full.schema) as writer:
        for start, stop in ((0, 0), (0, 2), (2, 4), (4, 4)):
            writer.write_table(full.slice(start, stop - start))
    split = load(f"parquet:{tmp_path}").splits["train"]
    assert colours(split) == [2, 3, 4, 5] * 2
    assert split.label.tolist() == [2, 0, 1, 2] * 2


def test_row_groups_are_read_once_while_they_are_kept(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", range(12), rows=4)
    train = load(f"parquet:{tmp_path}").splits["train"]
    monkeypatch.setattr(readers_parquet, "_groups", readers_parquet._Groups())
    reads = []
    read = readers_parquet._read_group

    def counted(path, footer, group, column):
        reads.append(group)
        return read(path, footer, group, column)

    monkeypatch.setattr(readers_parquet, "_read_group", counted)
    assert colours(train) == list(range(12)) and reads == [0, 1, 2]
    assert colours(train) == list(range(12)) and len(reads) == 3
    # What does not fit gives way to what was read last.
    monkeypatch.setattr(readers_parquet, "_groups", readers_parquet._Groups())
    monkeypatch.setattr(readers_parquet, "KEPT_BYTES", 1)
    assert colours(train.take([0, 1, 11, 0])) == [0, 1, 11, 0]
    assert reads[3:] == [0, 2, 0]
    # No descriptor is kept.
    assert not [name for name in os.listdir("/proc/self/fd")
                if os.path.realpath(f"/proc/self/fd/{name}").endswith(".parquet")]


def test_large_row_groups_are_told(tmp_path, monkeypatch):
    parquet = sys.modules["kdaug_jax.data.sources.parquet"]
    write(tmp_path / "train.parquet", range(4), rows=4)
    lines = []
    options = ReadOptions(say=lines.append)
    data.load(f"parquet:{tmp_path}", {"train": "train"}, options)
    assert not lines
    monkeypatch.setattr(parquet, "SLOW_GROUP_BYTES", 1)
    data.load(f"parquet:{tmp_path}", {"train": "train"}, options)
    (line,) = lines
    command = line[line.index("mkdir ") :].replace("python ", sys.executable + " ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    new = tmp_path / "NEW" / "train.parquet"
    assert pq.read_schema(new).metadata[b"huggingface"]
    assert colours(load(f"parquet:{tmp_path / 'NEW'}").splits["train"]) == [0, 1, 2, 3]


def test_a_file_that_changed_is_named(tmp_path, monkeypatch):
    file = write(tmp_path / "train.parquet", range(4))
    train = load(f"parquet:{tmp_path}").splits["train"]
    write(file, range(4, 10))
    monkeypatch.setattr(readers_parquet, "_groups", readers_parquet._Groups())
    with pytest.raises(DataError, match="train.parquet: has changed since it was indexed"):
        train.take([3]).image_at(0)
    assert load(f"parquet:{tmp_path}").splits["train"].digest != train.digest


def test_bad_images_may_be_skipped(tmp_path):
    write(tmp_path / "train.parquet", range(4), image=structs([png(0), png(1)[:50], None, png(3)]))
    train = load(f"parquet:{tmp_path}", bad_images="skip").splits["train"]
    assert colours(train) == [0, 3, 3, 3] and train.label.tolist() == [0, 0, 0, 0]


def test_without_pyarrow_the_command_is_printed(tmp_path, monkeypatch):
    real = builtins.__import__

    def lacking(name, *words):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *words)

    monkeypatch.setattr(builtins, "__import__", lacking)
    refused(f"parquet:{tmp_path}", r"needs pyarrow, which is not installed; pip install 'pyarrow>")


def test_a_worker_reads_without_jax(tmp_path):
    shards(tmp_path)
    split = load(f"parquet:{tmp_path}").splits["train"]
    (tmp_path / "reader").write_bytes(pickle.dumps(split.reader))
    program = (
        "import pickle, sys; reader = pickle.load(open(sys.argv[1], 'rb'));"
        "print(reader.image(6).getpixel((0, 0))[0], 'jax' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "reader"], check=True, capture_output=True,
        text=True,
    ).stdout
    assert out.split() == ["6", "False"]
