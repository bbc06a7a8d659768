"""The names of shards: which split, which number, and whether all are there."""

from pathlib import Path

import pytest

from kdaug_jax.data.sources.shards import WORDS, ordered_shards, split_of_stem, split_of_word
from kdaug_jax.errors import DataError


def names(*texts):
    return [Path("/set", text) for text in texts]


@pytest.mark.parametrize(
    "files",
    [
        ["train-00000-of-00002.parquet", "train-00001-of-00002-0123456789abcdef.parquet"],
        ["0.tar", "1.tar"],
        [f"{number}.tar" for number in range(11)],
        ["a-1.tar", "a-2.tar"],
        ["a_0000.tar"],
        ["train2017.tar"],
        ["train.tar"],
    ],
)
def test_shards_in_the_order_of_their_numbers(files):
    assert ordered_shards(names(*files)[::-1]) == names(*files)


@pytest.mark.parametrize(
    "files, what",
    [
        (["a-00001-of-00002.tar"], r"shard 00000 is missing beside .*-of-00002.tar \(1 of 2\)"),
        (["a-00000-of-00001.tar", "a-00001-of-00001.tar"], "a-00001-of-00001.tar is none of 1 sh"),
        (["a-0000.tar", "a-0002.tar"], r"shard 0001 is missing beside a-0002.tar \(1 of 3\)"),
        (["a-2.tar", "a-3.tar"], r"shard 0 is missing beside a-3.tar \(2 of 4\)"),
        (["a-0003.tar"], "shard 0000 is missing"),
        (["a-1.tar", "a-01.tar"], "a-01.tar and a-1.tar have the same number; remove one"),
        (["a-0.tar", "b-1.tar"], "a-0.tar and b-1.tar are not shards of one numbering"),
        (["a-00000-of-00002.tar", "a-00001-of-00003.tar"], "are not shards of one numbering"),
        (["a.tar", "a-0.tar"], "are not shards of one numbering"),
    ],
)
def test_shards_that_do_not_make_a_set(files, what):
    with pytest.raises(DataError, match=f"^/set: .*{what}"):
        ordered_shards(names(*files))


def test_words_of_splits():
    for split, words in WORDS.items():
        assert {split_of_word(word) for word in words} == {split}
        assert {split_of_stem(f"imagenet1k-{word.upper()}") for word in words} == {split}
    assert split_of_word("trains") is None
    assert split_of_stem("unlabeled") == "unlabeled"  # a split of its own
    assert split_of_stem("train-test") is None and split_of_stem("my set") is None
