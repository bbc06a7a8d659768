import pytest

from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.errors import ConfigError

KNOWN = ("order", "val_labels")


@pytest.mark.parametrize("argument, path, options", [
    ("data/set", "data/set", {}),
    ("  data/my set ", "data/my set", {}),
    ("d?order=string", "d", {"order": "string"}),
    ("d?val_labels=a%26b=c&order=x", "d", {"val_labels": "a&b=c", "order": "x"}),
    ("d?val_labels=what?.txt", "d", {"val_labels": "what?.txt"}),
    ("d?val_labels=a+b 100%25", "d", {"val_labels": "a+b 100%"}),
    ("", "", {}),
])  # fmt: skip
def test_a_path_and_options(argument, path, options):
    assert split_argument("folder", argument, KNOWN) == (path, options)


def test_paths_with_a_question_mark(tmp_path):
    place = tmp_path / "who?order=me"
    place.mkdir()
    assert split_argument("folder", str(place), KNOWN) == (str(place), {})
    assert split_argument("folder", f"{place}?order=string", KNOWN) == (
        str(place), {"order": "string"}
    )  # fmt: skip


@pytest.mark.parametrize("query, message", [
    ("ordr=string", "folder has no option 'ordr'; did you mean order?"),
    ("order=string&order=numeric", "folder has 'order' twice; keep one order="),
    ("order", "folder cannot read the option 'order'; folder:PATH.order=….val_labels=…"),
    ("order=", "folder cannot read the option 'order='"),
    ("order=string&", "folder cannot read the option ''"),
    ("", "folder cannot read the option ''"),
])  # fmt: skip
def test_what_is_wrong_with_options(query, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        split_argument("folder", f"d?{query}", KNOWN)


def test_a_source_without_options():
    with pytest.raises(ConfigError, match="cinic10 has no option 'a'; write cinic10:PATH"):
        split_argument("cinic10", "d?a=b", ())
