import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.errors import ConfigError

SPLITS = {name: name for name in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", SPLITS)


def test_digits_are_split_once_and_for_all(digits):
    sizes = {name: len(split.label) for name, split in digits.splits.items()}
    assert sizes == {"train": 1200, "validation": 297, "test": 300}
    images = np.concatenate([split.image for split in digits.splits.values()])
    assert images.shape == (1797, 32, 32, 3) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    # Every image of the set is there once; some digits of the set are equal to each other.
    from sklearn.datasets import load_digits

    raw = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(map(bytes, images[:, ::4, ::4, 0].copy())) == sorted(map(bytes, raw))
    for split in digits.splits.values():
        counts = np.bincount(split.label, minlength=10) / len(split.label)
        assert counts.min() > 0.09 and counts.max() < 0.11
    # The split is part of every published number: pin it.
    assert digits.splits["train"].label[:12].tolist() == [8, 2, 2, 9, 9, 9, 8, 4, 6, 2, 8, 7]


def test_facts_of_the_training_split(digits):
    info = data.describe(digits)
    pixels = digits.splits["train"].image.astype(np.float64)
    assert (info.num_classes, info.size) == (10, (32, 32))
    np.testing.assert_allclose(info.mean, pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(info.std, pixels.std((0, 1, 2)), atol=1e-4)


def test_synthetic_data_are_the_same_every_time():
    first, second = (data.load("synthetic:6x10,3,20", SPLITS) for _ in range(2))
    train = first.splits["train"]
    assert train.image.shape == (20, 6, 10, 3) and len(first.splits["test"].label) == 5
    np.testing.assert_array_equal(train.image, second.splits["train"].image)
    assert sorted(set(train.label.tolist())) == [0, 1, 2]


@pytest.mark.parametrize(
    "source, message",
    [
        ("digit", "did you mean digits"),
        ("digits:x", "takes no argument"),
        ("synthetic:32,10", "synthetic:32x32,10,256"),
        ("synthetic:8x8,10,5", "at least one image a class"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(ConfigError) as caught:
        data.load(source, SPLITS)
    assert message in str(caught.value)


def test_unknown_splits():
    with pytest.raises(ConfigError, match="data.test: 'digits' has no split 'tset'"):
        data.load("digits", {**SPLITS, "test": "tset"})


def test_an_epoch_visits_each_example_once_and_drops_the_remainder():
    dataset = data.load("synthetic:8x8,4,10", SPLITS)
    feed = data.resident(dataset.splits["train"], 0, 4)
    first, second = ([feed.item(step) for step in steps] for steps in ((0, 1), (2, 3)))
    for epoch in (first, second):
        assert len(set(np.concatenate(epoch).tolist())) == 8
    assert not np.array_equal(first, second)
    batch = feed.batch(tuple(map(jnp.asarray, feed.constants)), jnp.asarray(first[0]))
    np.testing.assert_array_equal(batch.image, dataset.splits["train"].image[first[0]])
    np.testing.assert_array_equal(batch.label, dataset.splits["train"].label[first[0]])


def test_the_order_is_a_function_of_seed_and_epoch():
    assert data.indices(0, 0, 6).tolist() == [3, 5, 4, 0, 2, 1]  # stored outputs rely on it
    np.testing.assert_array_equal(data.indices(1, 2, 50), data.indices(1, 2, 50))
    assert not np.array_equal(data.indices(1, 2, 50), data.indices(1, 3, 50))
    assert not np.array_equal(data.indices(1, 2, 50), data.indices(2, 2, 50))


def test_evaluation_batches_hold_every_example_once():
    split = data.load("synthetic:8x8,4,10", SPLITS).splits["train"]
    batches = list(data.eval_batches(split, 4))
    kept = np.concatenate([batch.index[batch.mask] for batch in batches])
    assert kept.tolist() == list(range(10))
    assert {batch.image.shape for batch in batches} == {(4, 8, 8, 3)}
