import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.data.splits import choose, missing_classes, stratified_order
from kdaug_jax.errors import ConfigError

RANDOM = np.random.RandomState(0)
LABEL = RANDOM.choice(4, 1003, p=(0.6, 0.25, 0.1, 0.05))
IMAGE = RANDOM.randint(0, 256, (1003, 2, 2, 3), dtype=np.uint8)
BASE = data.from_arrays({"train": (IMAGE, LABEL), "test": (IMAGE[:9], LABEL[:9])}).splits
SORTED = data.from_arrays({"train": (IMAGE, np.sort(LABEL))}).splits


def rows(text, use="train", splits=BASE):
    part = choose(splits, use, text, "made")
    np.testing.assert_array_equal(part.label, splits["train"].label[part.index])
    np.testing.assert_array_equal(part.image, IMAGE[part.index])
    return part.index.tolist()


@pytest.mark.parametrize(
    "text, start, stop",
    [
        ("train", 0, 1003),
        ("train[:]", 0, 1003),
        (" train[:100%] ", 0, 1003),
        ("train[:90%]", 0, 902),
        ("train[ : 97.5% ]", 0, 977),
        ("train[-10%:]", 902, 1003),
        ("train[10%:20%]", 100, 200),
        ("train[1000:]", 1000, 1003),
        ("train[5:7]", 5, 7),
        ("train[-3:-1]", 1000, 1002),
        ("train[-1003:]", 0, 1003),
        ("train[50%:600]", 501, 600),
    ],
)
def test_slices(text, start, stop):
    assert rows(text) == list(range(start, stop))


@pytest.mark.parametrize(
    "form", ["train[{}]", "stratified(train[{}])", "stratified(train[{}], shuffle=0)"]
)
@pytest.mark.parametrize("bound", ["90%", "-10%", "33.3%", "0.1%", "99.9%", "500", "-1", "1"])
def test_complementary_slices_share_nothing_and_leave_nothing_out(form, bound):
    before, after = (rows(form.format(part)) for part in (f":{bound}", f"{bound}:"))
    assert sorted(before + after) == list(range(1003))
    thirds = [rows(form.format(part)) for part in (":33%", "33%:66%", "66%:")]
    assert sorted(sum(thirds, [])) == list(range(1003))


@pytest.mark.parametrize("text", ["train[:90%]", "train[90%:]", "train[100:300]"])
@pytest.mark.parametrize("splits", [BASE, SORTED], ids=["mixed", "sorted"])
def test_a_stratified_slice_is_taken_of_every_class(text, splits):
    label = splits["train"].label
    positions = rows(f"stratified({text})", splits=splits)
    assert positions == sorted(positions)
    share = len(positions) / len(label)
    expected = np.bincount(label) * share
    np.testing.assert_allclose(np.bincount(label[positions]), expected, atol=1.0)
    start = {"train[:90%]": 0, "train[90%:]": 902, "train[100:300]": 100}[text]
    assert len(positions) == len(range(1003)[start:][: {0: 902, 902: 101, 100: 200}[start]])


@pytest.mark.parametrize("splits", [BASE, SORTED], ids=["mixed", "sorted"])
def test_a_stratified_slice_may_be_random(splits):
    """The end of a class is its last folders; a random part is like the rest."""
    label = splits["train"].label
    text = "stratified(train[80%:], shuffle={})"
    positions = rows(text.format(0), splits=splits)
    share = len(positions) / len(label)
    np.testing.assert_allclose(np.bincount(label[positions]), np.bincount(label) * share, atol=1.0)
    for number in np.unique(label):
        members = np.flatnonzero(label == number).tolist()
        places = np.array([members.index(row) for row in positions if label[row] == number])
        assert 0.35 < places.mean() / len(members) < 0.65
    assert rows(text.format(0), splits=splits) == positions != rows(text.format(1), splits=splits)
    assert rows("stratified(train[80%:],shuffle = 0 )", splits=splits) == positions


def test_a_class_of_one_example_is_in_one_part():
    assert stratified_order(np.array([0, 0, 0, 1, 0])).tolist() == [0, 1, 3, 2, 4]


def test_classes_that_end_at_one_place_are_drawn():
    """A hundred classes of five: the last tenth of each is half an example."""
    label = np.tile(np.arange(100), 5)
    for seed in (None, 0):
        order = stratified_order(label, seed)
        assert sorted(order) == list(range(500))
        kept, rest = np.unique(label[order[:450]], return_counts=True), label[order[450:]]
        assert len(kept[0]) == 100 and set(kept[1]) == {4, 5} and len(np.unique(rest)) == 50
        # Neither the lower half of the classes nor the upper one.
        assert 15 < np.sum(np.unique(rest) < 50) < 35 and abs(np.mean(rest) - 49.5) < 12
    np.testing.assert_array_equal(order, stratified_order(label, 0))


@pytest.mark.parametrize("seed", [None, 3])
def test_parts_without_a_tie_at_their_ends_are_what_they_were(seed):
    def before(label):
        position, random = np.empty(len(label)), np.random.RandomState(seed)
        for number in np.unique(label):
            members = np.flatnonzero(label == number)
            members = members if seed is None else random.permutation(members)
            position[members] = (np.arange(len(members)) + 0.5) / len(members)
        return np.lexsort((label, position))

    label = np.random.RandomState(1).permutation(np.repeat(np.arange(10), 500))
    for stop in (4500, 4900, 2510):
        now, then = stratified_order(label, seed)[:stop], before(label)[:stop]
        np.testing.assert_array_equal(np.sort(now), np.sort(then))


BLOCKS = np.repeat([3, 0, 2, 1], 250)
SWAPPED = BLOCKS.copy()
SWAPPED[[0, 300, 600, 900]] = SWAPPED[[900, 600, 300, 0]]  # no longer blocks, to the letter
FEW = np.random.RandomState(0).permutation(np.repeat(np.arange(100), 10))


@pytest.mark.parametrize(
    "label, text, message",
    [
        (BLOCKS, "train[:90%]", "lies class by class, so 'train[:90%]' leaves classes out; use"),
        (BLOCKS, "train[90%:]", "lies class by class, so 'train[90%:]' leaves classes out; use"),
        (BLOCKS[::-1], "train[:10]", "lies class by class"),
        (SWAPPED, "train[-90:-10]", "'train[-90:-10]' leaves out 3 of the 4 classes of 'tra"),
        (SWAPPED, "train[1:240]", "than a part in random order would ("),
    ],
)
def test_slices_of_blocks_of_classes_are_refused(label, text, message):
    splits = data.from_arrays({"train": (IMAGE[:1000], label)}).splits
    with pytest.raises(ConfigError) as caught:
        choose(splits, "validation", text, "made")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert len(np.unique(choose(splits, "train", f"stratified({text})", "made").label)) == 4


def test_classes_that_a_part_lacks_are_told(tmp_path):
    splits = data.from_arrays({"train": (IMAGE[:1000], FEW)}).splits
    # By chance, so it is no error.
    parts = {
        "train": choose(splits, "train", "train[:300]", "made"),
        "validation": choose(splits, "validation", "train[300:]", "made"),
    }
    names = [f"c{number}" for number in range(100)]
    absent = np.setdiff1d(np.arange(100), parts["train"].label)
    count = np.isin(parts["validation"].label, absent).sum()
    (line,) = missing_classes(parts, names)
    assert line == (
        f"data.train has no example of {len(absent)} of 100 classes: "
        + ", ".join(f"'c{number}'" for number in absent)
        + f"; of these classes, which cannot be learnt, data.validation has {count}"
    )
    rare = {"train": splits["train"], "test": splits["train"].take(np.flatnonzero(FEW < 90))}
    (line,) = missing_classes(rare, names)
    assert line.endswith("of 10 of 100 classes: 'c90', 'c91', 'c92', 'c93', 'c94', ...")

    said = []
    label = np.array([0] * 6 + [1] + [0] * 6 + [1, 2])
    np.savez(tmp_path / "a.npz", train_image=IMAGE[:15], train_label=label)
    data.load(
        f"arrays:{tmp_path / 'a.npz'}",
        {"train": "stratified(train[:60%])", "validation": "stratified(train[60%:])"},
        data.ReadOptions(say=said.append),
    )
    assert [line for line in said if "no example" in line] == [
        "warning: data.validation has no example of 1 of 3 classes: '2'"
    ]


def test_reduced_sets_of_pba():
    order = np.random.RandomState(0).permutation(1003)
    text = "pba_reduced(400, 603)"
    assert rows(text) == order[:400].tolist()
    assert rows(text, "validation") == order[400:].tolist()
    assert rows("pba_reduced(2,3)", "validation") == order[2:5].tolist()
    # As the published code has it: np.random.seed(0), then a shuffle of the row numbers.
    shuffled = np.arange(1003)
    np.random.RandomState(0).shuffle(shuffled)
    np.testing.assert_array_equal(order, shuffled)


@pytest.mark.parametrize(
    "text, message",
    [
        ("trian[:90%]", r"data.train: 'made' has no split 'trian', but train, test; set data"),
        ("train[:90]%", r"cannot read 'train\[:90\]%'; write it like"),
        ("train[90%]", "cannot read"),
        ("train[:90%", "cannot read"),
        ("train[:1.5]", "cannot read"),
        ("train[::2]", "cannot read"),
        ("", "cannot read"),
        ("stratified()", "cannot read"),
        ("stratified(train[:9%], shuffle)", "cannot read"),
        ("stratified(train[:9%], shuffle=-1)", "cannot read"),
        ("stratified(train[:9%], seed=1)", "cannot read"),
        ("stratified(stratified(train))", "cannot read"),
        ("pba_reduced(400)", "cannot read"),
        ("train[:101%]", "'101%' goes past the end of 1003 examples; at most 100%"),
        ("train[:2000]", "'2000' goes past the end of 1003 examples; at most 1003"),
        ("train[50%:50%]", "holds none of the 1003 examples of 'train'; it goes from 501 to 501"),
        ("train[20:10]", "holds none"),
        ("pba_reduced(1000, 4)", "at most 1003"),
        ("pba_reduced(0, 4)", "must be positive"),
        ("holdout(15)", "cannot read"),
        ("holdout(100%)", "cannot read"),
        ("holdout(0.0%)", r"holdout\(0%\) leaves nothing for validation; take more than 0%"),
    ],
)
def test_what_is_wrong_with_a_split(text, message):
    with pytest.raises(ConfigError, match=message):
        choose(BASE, "train", text, "made")


def test_no_test_split_is_not_made_of_the_training_split():
    for splits, remedy in (
        ({"train": BASE["train"], "validation": BASE["train"]}, "set data.test='' if there is no "
         "test split"),
        ({"train": BASE["train"], "extra": BASE["train"]}, "set data.test='extra' or another of "
         "these, or data.test='' if there is no test split"),
    ):
        with pytest.raises(ConfigError) as caught:
            choose(splits, "test", "test", "made")
        assert str(caught.value).endswith(f"; {remedy}")


@pytest.mark.parametrize("text", ["pba_reduced(4, 4)", "holdout(15%)"])
def test_what_parts_train_in_two_has_no_test_part(text):
    with pytest.raises(ConfigError, match=r"data.test: (pba_reduced|holdout) has a part for"):
        choose(BASE, "test", text, "made")


def test_a_part_is_held_out_where_there_is_no_validation_split():
    for share, kept in (("15%", "85%"), (" 12.5 % ", "87.5%")):
        text = f"holdout({share})"
        assert rows(text) == rows(f"stratified(train[:{kept}], shuffle=0)")
        assert rows(text, "validation") == rows(f"stratified(train[{kept}:], shuffle=0)")
    given = {**BASE, "validation": SORTED["train"].take(np.arange(30))}
    assert choose(given, "train", "holdout(15%)", "made") is given["train"]
    assert choose(given, "validation", "holdout(15%)", "made") is given["validation"]


@pytest.mark.parametrize("splits, line", [
    ("train", "15 % of each class of 'train' are held out for validation, at random"),
    ("train validation", "nothing of 'train' is held out, since there is a split 'validation'"),
])  # fmt: skip
def test_what_is_held_out_is_said(splits, line):
    source = data.register("held", data.from_arrays({
        split: (IMAGE[:200], LABEL[:200]) for split in [*splits.split(), "test"]
    }))  # fmt: skip
    lines, texts = [], {"train": "holdout(15%)", "validation": "holdout(15%)"}
    options = data.ReadOptions(say=lines.append)
    chosen = data.load(source, texts, options).splits
    assert lines == [
        f"{source}: {line}",
        f"{source}: there is a split 'test', which is not used; --config.data.test=test reports on "
        "it",
    ]
    assert data.overlaps(chosen, texts) == {}
    lines.clear()
    data.load(source, {**texts, "test": "test"}, options)
    assert lines == [f"{source}: {line}"]
    for other in ("train", "holdout(20%)"):
        with pytest.raises(ConfigError) as caught:
            data.load(source, {**texts, "validation": other}, options)
        assert str(caught.value).endswith("; write data.validation='holdout(15%)'")


def test_a_set_sorted_by_class_is_not_sliced_unaware():
    with pytest.raises(ConfigError, match=r"use stratified\(train\[:90%\]\)"):
        choose(SORTED, "train", "train[:90%]", "made")
    assert choose(SORTED, "train", "train[:100%]", "made") is SORTED["train"]


def test_batches_of_a_part_carry_base_indices():
    part = choose(BASE, "train", "train[1000:]", "made")
    feed = data.resident(part, 0, 2)
    batch = feed.batch(feed.constants, feed.item(0))
    np.testing.assert_array_equal(batch.image, IMAGE[batch.index])
    assert set(batch.index.tolist()) < {1000, 1001, 1002}
    (batch,) = data.eval_batches(part, 4)
    assert batch.index.tolist() == [1000, 1001, 1002, 1000]
    assert batch.mask.tolist() == [True, True, True, False]


def test_parts_that_share_examples_are_counted():
    base = data.load("synthetic:8x8,2,20", {use: use for use in ("train", "validation", "test")})
    texts = {"train": "train[:90%]", "validation": "train[80%:]", "test": "test"}
    chosen = data.load("synthetic:8x8,2,20", texts).splits
    assert len(base.splits["train"]) == 20 and data.overlaps(chosen, texts) == {"validation": 2}
    apart = {**texts, "validation": "train[90%:]"}
    assert data.overlaps(data.load("synthetic:8x8,2,20", apart).splits, apart) == {}
