"""Rows of all examples, such as penultimate embeddings, that the last evaluation writes."""

import io

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.evaluation.exported import file_of
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import checkpoint, workdir
from kdaug_jax.training import loop
from tests.conftest import tiny_config
from tests.training.bench import DATASET, INFO

EMBEDDING = dict(metrics=("accuracy", "nll", "embedding"), embedding="pooled", batch_size=3)


def config(**sections):
    return tiny_config(**{"eval": EMBEDDING, "train": dict(epochs=0.4), **sections})


def arrays_of(directory, step, use="test"):
    with np.load(file_of(directory, step, use, ".npz")) as arrays:
        return dict(arrays)


def pooled(directory, number, image, network="student"):
    stored = checkpoint.load_subtree(directory / "checkpoints", (), print)[str(number)]
    variables = {
        "params": stored["params"][network], "batch_stats": stored["network_state"][network],
    }
    model = models.create("tiny", 4, normalize=(INFO.mean, INFO.std))
    return jax.jit(lambda image: model.apply(variables, image, train=False)[0])(image).features[
        "pooled"
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_family):
    directory = tmp_path_factory.mktemp("trained")
    networks = {name: configs.network("tiny", trainable=True) for name in ("student", "two")}
    terms = {name: configs.term("cross_entropy", ("x",), student=name) for name in networks}
    return directory, config(networks=networks, terms=terms)


def test_a_run_ends_with_the_embeddings_of_its_splits(trained, tmp_path):
    directory, settings = trained
    results = loop.train(settings, directory, stream=io.StringIO())[""]
    assert not any("embedding" in name for name in results)
    split = DATASET.splits["test"]
    arrays = arrays_of(directory, 2)
    assert set(arrays) == {"embeddings", "two/embeddings", "labels", "index", "members"}
    np.testing.assert_array_equal(arrays["index"], split.index)
    np.testing.assert_array_equal(arrays["labels"], split.label)
    for network, front in (("student", ""), ("two", "two/")):
        rows = arrays[f"{front}embeddings"]
        assert rows.dtype == np.float32
        expected = pooled(directory, 0, split.image, network)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
    assert file_of(directory, 2, "validation", ".npz").exists()
    # Evaluated again, on another number of devices and beside other arrays.
    more = {**EMBEDDING, "metrics": (*EMBEDDING["metrics"], "confusion")}
    again = config(networks=settings.networks, terms=settings.terms, eval=more, mesh=dict(data=4))
    evaluate_run(again, directory, stream=io.StringIO())
    both = arrays_of(directory, 2)
    assert set(both) == {*arrays, "0/eval/test/confusion", "0/eval/test/two/confusion"}
    for name, array in arrays.items():
        if name == "members":
            continue
        np.testing.assert_allclose(both[name], array, rtol=1e-5, atol=1e-6)


def test_members_and_sets_have_embeddings_of_their_own(tmp_path):
    sets = (("more", "synthetic:8x8,4,40,train[:7]"),)
    settings = config(population=(("seed", (0, 3)),), eval={**EMBEDDING, "sets": sets})
    loop.train(settings, tmp_path, stream=io.StringIO())
    arrays = arrays_of(tmp_path, 2, "more")
    assert set(arrays) == {"0/embeddings", "1/embeddings", "labels", "index", "members"}
    assert list(arrays["members"]) == ["seed=0", "seed=3"] and len(arrays["index"]) == 7
    image = DATASET.splits["train"].image[:7]
    for number in range(2):
        np.testing.assert_allclose(
            arrays[f"{number}/embeddings"], pooled(tmp_path, number, image), rtol=1e-5, atol=1e-6
        )


def test_batches_with_statistics_of_their_own_leave_the_last_rows_out(tmp_path):
    section = {**EMBEDDING, "batch_statistics": True, "batch_size": 4}
    loop.train(
        config(data=dict(validation="train[:10]", test=""), eval=section), tmp_path,
        stream=io.StringIO(),
    )
    arrays = arrays_of(tmp_path, 2, "validation")
    assert len(arrays["embeddings"]) == len(arrays["labels"]) == len(arrays["index"]) == 8


def test_rows_of_a_metric_of_a_user_are_written(tmp_path):
    name = "tests.training.metrics_of_a_user:answers"
    loop.train(
        config(eval=dict(metrics=("accuracy", "nll", name))), tmp_path, stream=io.StringIO()
    )
    arrays = arrays_of(tmp_path, 2)
    assert arrays["logits"].shape == (len(DATASET.splits["test"]), 4)


def test_parts_are_written_as_one_array(tmp_path):
    rows = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    streamed = workdir.Streamed("a/b", 6, iter((rows[:4], rows[4:])))
    workdir.write_arrays(tmp_path / "x.npz", {}, ("",), [streamed])
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["a/b"], rows)
