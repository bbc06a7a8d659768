import io
import json
import shutil

import numpy as np
import pytest

from kdaug_jax.analysis import rank_da
from kdaug_jax.training import loop
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    directory = tmp_path_factory.mktemp("teacher")
    loop.train(tiny_config(train=dict(epochs=6.0)), directory, stream=io.StringIO())
    return directory


def ranked(capsys, teacher, *words):
    status = rank_da.main([str(teacher), *words, "--batch=8"])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_views_are_ranked_by_the_teacher_alone(teacher, capsys):
    texts = ("", "cutout(8)", "flip", 'repeat(2)|cutmix(1.0)|pick("teacher_entropy")')
    status, out, err = ranked(capsys, teacher, *texts, "--epochs=4", "--group=40")
    assert status == 0 and "40 images are few for samples of 40" in err
    head, line, *rows = out.splitlines()
    assert head.split()[:2] == ["view,", "best"] and len(rows) == 4
    values = [float(row.split()[-5]) for row in rows]
    assert values == sorted(values)
    # Each sample holds every image once, as it is stored.
    assert rows[0].startswith("(as stored)") and values[0] == pytest.approx(0, abs=1e-6)
    assert ranked(capsys, teacher, *texts, "--epochs=4", "--group=40")[1] == out


def test_the_number_is_that_of_numpy(teacher, capsys):
    """On views that draw nothing the order of the images is all there is."""
    from kdaug_jax import data
    from kdaug_jax.experiment import config as configs
    from kdaug_jax.experiment import networks
    from kdaug_jax.experiment.frozen.stored import load

    dataset = data.load("synthetic:8x8,4,40", {"train": "train"})
    info = data.describe(dataset)
    section = configs.network("", checkpoint=str(teacher))
    network = networks.build_network("teacher", section, info, 1, 0, "float32")
    variables = load("t", network, info, print)
    ranked = rank_da.measure(
        "", network, variables, dataset.splits["train"], info, epochs=2, batch_size=8, group=16
    )
    feed = data.resident(dataset.splits["train"], 0, 8)
    images = np.concatenate([
        np.asarray(feed.batch(feed.constants, feed.item(step)).image) for step in range(10)
    ])
    logits = np.asarray(network.model.apply(variables, images, train=False)[0].logits, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    means = p.reshape(5, 16, 4).mean(axis=1)
    assert ranked.stddev == pytest.approx(means.std(axis=0, ddof=1).mean(), rel=1e-4)
    assert ranked.error > 0 and 1 <= ranked.classes <= 4 and 0 <= ranked.agreement <= 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["flipp"], "error: views.view: unknown stage 'flipp'; did you mean flip"),
        (["flip", 'view("x")|flip'], "starts from another view; write its stages out"),
        (['pick("kl")'], "picks by a student; pick(\"teacher_entropy\") needs none"),
        (["flip", "--epochs=1"], "40 views of 'flip' are 0 samples of 640; 2 are needed"),
        (["flip", "--network=other"], "trained no 'other'; known: student"),
    ],
)
def test_what_does_not_fit_is_one_line(teacher, capsys, words, message):
    status, out, err = ranked(capsys, teacher, *words)
    lines = [line for line in err.splitlines() if not line.startswith("warning")]
    assert status == 2 and out == "" and len(lines) == 1 and message in lines[0]


def test_a_directory_without_a_run(tmp_path, capsys):
    assert ranked(capsys, tmp_path, "flip")[0] == 2


def test_the_teacher_of_a_population_is_named(tmp_path, capsys):
    population = (("seed", (0, 1)),)
    loop.train(tiny_config(population=population), tmp_path, stream=io.StringIO())
    words = ("cutout(8)", "--epochs=4", "--group=40")
    status, _, err = ranked(capsys, tmp_path, *words)
    assert status == 2 and err.splitlines()[0] == (
        "error: --member: is missing, and the run has 2 members; --member='seed=0' or another: "
        "seed=1"
    )
    assert "no member 'seed=2'; did you mean" in ranked(
        capsys, tmp_path, *words, "--member=seed=2"
    )[2]
    (status, first, _), (_, second, _) = (
        ranked(capsys, tmp_path, *words, f"--member=seed={seed}") for seed in (0, 1)
    )
    assert status == 0 and first != second


def test_policies_go_through_the_epochs_of_the_run(teacher, capsys, monkeypatch):
    """Two views of each image are of the first epoch and the middle one of six."""
    epochs, example_keys = [], rank_da.Clock
    monkeypatch.setattr(
        rank_da, "Clock", lambda *args: epochs.append(int(args[1])) or example_keys(*args)
    )
    assert ranked(capsys, teacher, "cutout(8)", "--epochs=2", "--group=40")[0] == 0
    assert epochs == [0] * 5 + [3] * 5


def test_data_that_changed_since_the_teacher_was_trained(teacher, tmp_path, capsys):
    run = shutil.copytree(teacher, tmp_path / "run")
    stored = json.loads((run / "config.json").read_text())
    stored["data"]["splits"]["train"]["digest"] = "other"
    del stored["seal"]  # written so on purpose
    (run / "config.json").write_text(json.dumps(stored))
    status, out, err = ranked(capsys, run, "flip")
    assert status == 3 and out == ""
    assert "changed since the run was started (train: names, labels, sizes or bytes of its" in err
