"""Pickles are read without running them."""

import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.data.sources.pickles import read_pickle
from kdaug_jax.errors import DataError
from tests.data import made


def python2(value):
    """The bytes that Python 2 writes at protocol 2 for dicts, lists, integers, str and arrays."""
    out = io.BytesIO()
    out.write(b"\x80\x02")

    def text(content):
        out.write(b"T" + len(content).to_bytes(4, "little") + content)

    def write(value):
        if isinstance(value, dict):
            out.write(b"}(")
            for key, entry in value.items():
                write(key)
                write(entry)
            out.write(b"u")
        elif isinstance(value, list):
            out.write(b"](")
            for entry in value:
                write(entry)
            out.write(b"e")
        elif isinstance(value, int):
            out.write(b"J" + value.to_bytes(4, "little", signed=True))
        elif isinstance(value, str):
            text(value.encode())
        else:
            out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85")
            text(b"b")
            out.write(b"\x87R(K\x01")
            out.write(b"(")
            for size in value.shape:
                write(int(size))
            out.write(b"t")
            out.write(b"cnumpy\ndtype\n")
            text(value.dtype.str[1:].encode())
            out.write(b"K\x00K\x01\x87R(K\x03")
            text(b"|")
            out.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
            out.write(b"\x89")
            text(value.tobytes())
            out.write(b"tb")

    write(value)
    out.write(b".")
    return out.getvalue()


def batch(image, label, **more):
    rows = image.transpose(0, 3, 1, 2).reshape(len(image), -1)
    return {"batch_label": "testing batch 1 of 1", "labels": label.tolist(), "data": rows, **more}


IMAGE, LABEL = made.cifar_images(8)
DATA = batch(IMAGE, LABEL)["data"]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_python_3(tmp_path, protocol):
    path = tmp_path / "batch"
    wide = np.arange(6, dtype=">i4").reshape(2, 3).T
    path.write_bytes(
        pickle.dumps({**batch(IMAGE, LABEL), "wide": wide, "raw": b"\xff"}, protocol)
    )
    read = read_pickle(path)
    np.testing.assert_array_equal(read["data"], DATA)
    assert read["data"].dtype == np.uint8 and not read["data"].flags.writeable
    assert read["labels"] == LABEL.tolist() and read["raw"] == b"\xff"
    np.testing.assert_array_equal(read["wide"], wide)


def test_bytes_of_python_2(tmp_path):
    content = python2(batch(IMAGE, LABEL))
    assert pickle.loads(content, encoding="latin1")["labels"] == LABEL.tolist()
    (tmp_path / "batch").write_bytes(content)
    read = read_pickle(tmp_path / "batch")
    np.testing.assert_array_equal(read["data"], DATA)
    assert read["labels"] == LABEL.tolist() and read["batch_label"] == "testing batch 1 of 1"


class Call:
    """Pickled, it calls a function when it is read by `pickle.load`."""

    def __init__(self, function, *arguments):
        self.made_of = function, arguments

    def __reduce__(self):
        return self.made_of


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [os.system, exec, eval, np.load, np.fromfile, getattr])
def test_a_malicious_pickle_is_refused_by_name_and_runs_nothing(tmp_path, function, protocol):
    mark = tmp_path / "mark"
    argument = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    content = pickle.dumps({"data": DATA, "labels": Call(function, argument)}, protocol)
    path = tmp_path / "test_batch"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_pickle(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: is a pickle that holds more than plain data (it calls ")
    assert function.__name__ in line and "nothing of it was run" in line and "\n" not in line
    assert not mark.exists()


def test_a_malicious_cifar_runs_nothing(tmp_path):
    made.cifar_python(tmp_path, 10)
    mark = tmp_path / "mark"
    file = tmp_path / "data_batch_2"
    file.write_bytes(pickle.dumps({"data": Call(os.system, f"touch {mark}")}))
    with pytest.raises(DataError, match="data_batch_2: is a pickle that holds more than plain"):
        data.load(f"cifar10:{tmp_path}", {"train": "train"})
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",  # a dotted name
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cnumpy.testing\nmeasure\n.",  # another function of NumPy
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x01O\x85R.",  # objects
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x03V64\x85R.",
        b"c_codecs\nencode\n(Va\nVrot13\ntR.",
        b"Pfile\n.",  # a persistent id
        b"\x82\x01.",  # an extension
    ],
)
def test_what_is_near_to_the_list_is_refused(tmp_path, program):
    pickletools.dis(program, io.StringIO())  # it is a pickle
    (tmp_path / "file").write_bytes(program)
    with pytest.raises(DataError, match="file: is a (pickle that holds more|damaged pickle)"):
        read_pickle(tmp_path / "file")


def test_the_list_itself_cannot_be_changed(tmp_path):
    """BUILD sets attributes of what lies on the stack: not those of the list's entries."""
    from kdaug_jax.data.sources import pickles

    before = dict(vars(pickles._Array))
    for name in (b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"):
        (tmp_path / "file").write_bytes(b"c" + name + b"\n(N}Vx\nI1\nsVarray\nI1\nstb.")
        with pytest.raises(DataError):
            read_pickle(tmp_path / "file")
    assert dict(vars(pickles._Array)) == before


def test_objects_and_damage_are_refused(tmp_path):
    path = tmp_path / "file"
    objects = np.array([{}, []], dtype=object)
    for value, what in (
        ({"data": objects}, "more than plain data .an array of dtype 'O8'"),
        ({"data": np.zeros(2, "U3")}, "an array of dtype 'U3'"),
        ({"data": np.zeros(2, [("x", "i4")])}, "an array of dtype 'V4'"),
        ([1, 2], "holds list, not a dict"),
    ):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(DataError, match=what):
            read_pickle(path)
    whole = pickle.dumps({"data": DATA}, 2)
    for content in (whole[:-1], whole[:40], b"", b"?", whole.replace(b"K\x08", b"K\x09", 1)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="file: is a damaged pickle") as caught:
            read_pickle(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_pickle(tmp_path / "none")
