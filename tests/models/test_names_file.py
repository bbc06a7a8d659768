"""Lists of class names: what is read, and what is refused instead of being misread."""

import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.models.foreign.names_file import read_names

NAMES = ("ant", "bee", "cat")


@pytest.mark.parametrize("text", [
    "ant\nbee\ncat", "ant\r\nbee\r\ncat\r\n\r\n", "\ufeffant\nbee\ncat\n",
    '["ant", "bee", "cat"]', '{"2": "cat", "0": "ant", "1": "bee"}',
    '{"bee": 1, "cat": 2, "ant": 0}',
    "2 cat\n0 ant\n1 bee\n", "1: ant\n3: cat\n2: bee\n", "cat,2\nant,0\nbee,1\n",
    "class,name\n1,bee\n0,ant\n2,cat\n", "name\tlabel\nbee\t1\nant\t0\ncat\t2\n",
    '"ant"\n"bee"\n"cat"\n', '2;"cat"\n0;ant\n1;bee',
])  # fmt: skip
def test_lists(tmp_path, text):
    path = tmp_path / "names"
    path.write_text(text, encoding="utf-8")
    assert read_names("--class_names", path) == NAMES


def test_names_that_are_numbers_or_begin_with_them(tmp_path):
    path = tmp_path / "names"
    path.write_text("\n".join(map(str, range(12))))
    assert read_names("--class_names", path) == tuple(map(str, range(12)))
    path.write_text("tench, Tinca tinca\n7 eleven")
    assert read_names("--class_names", path) == ("tench, Tinca tinca", "7 eleven")


@pytest.mark.parametrize(("text", "message"), [
    ("ant\nbee\nant", "gives classes 0 and 2 the same name 'ant'"),
    ("ant\n\nbee", "has nothing in line 2"),
    ("", "has nothing in line 1"),
    ('{"id": 0, "name": "ant"}\n{"id": 1, "name": "bee"}', "begins like JSON, but cannot be read"),
    ('ant\n{"name": "bee"}', "holds JSON in single lines"),
    ("[1, 2]", "is JSON, but no list of texts"),
    ('{"a": "ant", "b": "bee"}', "is a JSON object, but not of names by number"),
    ("0 ant\n2 bee\n2 cat", "numbers its names, but not 0..2, each once"),
    ("0,ant\n1,bee\n3,cat", "numbers its names, but not 0..2"),
    ('["ant", ""]', "has no name for class 1"),
    ("[]", "has no name for class 0"),
    ("ant\nb\x07ee", "cannot be printed for class 1"),
])  # fmt: skip
def test_what_is_no_list(tmp_path, text, message):
    path = tmp_path / "names"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_names("--class_names", path)
    assert message in str(caught.value) and "one name a line" in str(caught.value)


def test_other_encodings(tmp_path):
    path = tmp_path / "names"
    path.write_bytes("ant\nbee".encode("utf-16"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_names("--class_names", path)
