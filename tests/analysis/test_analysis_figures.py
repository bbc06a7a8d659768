"""Figures: arrays in, PNG or SVG out, and one line for what cannot be drawn."""

import json

import numpy as np
import pytest

from kdaug_jax.analysis import bars, calibration, curves, embeddings, figures, matrices, plots
from kdaug_jax.errors import ConfigError
from kdaug_jax.metrics import Reliability
from kdaug_jax.runtime import records

RUN = {
    "config": {"terms": {"kd": {"weight": 1.0}}, "data": {}, "networks": {}, "views": {}},
    "networks": {"student": {"trainable": True}}, "members": [""],
    "data": {"class_names": ["cat", "dog"]},
}


def make_run(path, weight=1.0, seed=0, accuracy=0.5):
    """Writes the files of a finished run, without training."""
    path.mkdir()
    config = {**RUN["config"], "terms": {"kd": {"weight": weight}}, "seed": seed}
    records.record(path, {**RUN, "config": config}, ["cat", "dog"])
    results = {"eval/test/accuracy": accuracy, "eval/test/nll": 1.0, "eval/test/ece": 0.1,
               "eval/test/teacher/accuracy": 0.9}
    (path / "results.json").write_text(json.dumps({"": results}))
    rows = [{"step": step, "eval/validation/accuracy": step / 10} for step in (1, 2, 3)]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "ev')
    generator = np.random.default_rng(0)
    (path / "evaluations").mkdir()
    np.savez(
        path / "evaluations" / "3-test.npz", **{
            "0/eval/test/confusion": np.array([[3, 1], [2, 4]]),
            "0/eval/test/reliability_count": np.array([2.0, 8.0]),
            "0/eval/test/reliability_right": np.array([1.0, 4.0]),
            "0/eval/test/reliability_confidence": np.array([0.8, 6.4]),
            "0/eval/test/human_kl_matrix": np.array([[0.1, 2.0], [3.0, 0.2]]),
            "embeddings": generator.normal(size=(8, 5)).astype(np.float32),
            "labels": np.arange(8, dtype=np.int32) % 2, "members": np.array([""]),
        },
    )
    return path


@pytest.mark.parametrize("name", ["curves", "overview", "ece", "networks", "reliability",
                                  "confusion", "human", "tsne"])
def test_each_figure_of_one_run_is_drawn(name, tmp_path, capsys):
    run, to = make_run(tmp_path / "run"), tmp_path / "figure.svg"
    assert figures.main([name, str(run), f"--to={to}"]) == 0
    assert to.read_text().startswith("<?xml") and capsys.readouterr().out == f"wrote {to}\n"


def test_a_png_is_drawn_of_several_runs(tmp_path):
    runs = [make_run(tmp_path / f"{weight}-{seed}", weight, seed, 0.5 + weight / 10)
            for weight in (0.0, 1.0) for seed in (0, 1)]
    to = tmp_path / "figure.png"
    assert figures.main(["wei2020-weight", *map(str, runs), f"--to={to}"]) == 0
    assert to.read_bytes()[:4] == b"\x89PNG"


def test_the_same_runs_make_the_same_svg(tmp_path):
    run = make_run(tmp_path / "run")
    for file in ("a.svg", "b.svg"):
        assert figures.main(["curves", str(run), f"--to={tmp_path / file}"]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["curvs", "{run}", "--to={out}.png"], "name: 'curvs' is no figure"),
        (["curves", "{run}", "--to={out}.gif"], "--to: out.gif ends in neither .png nor .svg"),
        (["curves", "{run}", "--to={out}/no/x.png"], "cannot be written"),
        (["curves", "{run}", "--metric=eval/validation/acuracy", "--to={out}.png"],
         "--metric: 'eval/validation/acuracy' is not in"),
        (["curves", "{run}", "{run}", "--to={out}.png"], "workdir: names a run twice"),
        (["curves", "{out}", "--to={out}.png"], "holds no run"),
        (["by-setting", "{run}", "--to={out}.png"], "--x: is missing"),
        (["by-setting", "{run}", "--x=seed", "--lines=seed", "--to={out}.png"], "named twice"),
        (["by-setting", "{run}", "--x=seed", "--metric=eval/test/nll", "--error",
          "--to={out}.png"], "--error: 'eval/test/nll' is no accuracy"),
        (["overview", "{run}", "--metric=eval/test/f1", "--to={out}.png"],
         "--metric: 'eval/test/f1' is not in"),
        (["networks", "{run}", "--split=tset", "--to={out}.png"], "--split: no run has"),
        (["confusion", "{run}", "--split=validation", "--to={out}.png"],
         "no run has 'confusion' of 'validation'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_drawn_is_told_in_one_line(words, message, tmp_path, capsys):
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    assert figures.main([word.format(run=run, out=out) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_damaged_file_and_an_unfinished_run_are_told(tmp_path, capsys):
    run, to = make_run(tmp_path / "run"), tmp_path / "x.png"
    (run / "evaluations" / "3-test.npz").write_bytes(b"PK\3\4 cut")
    assert figures.main(["confusion", str(run), f"--to={to}"]) == 2
    assert "run --mode=evaluate again" in capsys.readouterr().err
    (run / "results.json").unlink()
    assert figures.main(["overview", str(run), f"--to={to}"]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_a_row_that_was_written_again_replaces_the_first(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 3, "eval/validation/accuracy": 0.75}\n')
    (steps, values), = figures.read_curves([run], "eval/validation/accuracy").values()
    np.testing.assert_array_equal(steps, [1, 2, 3])
    np.testing.assert_allclose(values, [0.1, 0.2, 0.75])


def test_points_with_the_same_features_are_neighbours_in_the_plane():
    centres = np.repeat(np.eye(3) * 50, 10, axis=0)
    points = embeddings.plane(centres + np.random.default_rng(0).normal(size=(30, 3)))
    middle = points.reshape(3, 10, 2).mean(1)
    spread = np.linalg.norm(points.reshape(3, 10, 2) - middle[:, None], axis=-1).max()
    apart = min(np.linalg.norm(middle[a] - middle[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert spread < apart
    figure = embeddings.draw_planes({"": (points, np.repeat([0, 1, 2], 10))}, ())
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["0", "1", "2"]


def test_shares_of_a_class_without_examples_are_zero():
    np.testing.assert_allclose(
        matrices.shares(np.array([[3, 1], [0, 0]])), [[0.75, 0.25], [0.0, 0.0]]
    )


def test_a_reliability_diagram_tells_the_error():
    bins = Reliability(np.array([2.0, 0.0]), np.array([1.0, 0.0]), np.array([0.8, 0.0]))
    assert "ECE 10.00 %" in calibration.draw_reliability({"a": bins}).axes[0].get_title()


def test_lines_over_a_setting_tell_mean_and_spread():
    figure = curves.draw_by_setting(
        {"view": {"CE": {1: [1.0, 3.0], 2: [4.0]}, "KD": {1: [2.0]}}, "other": {"CE": {1: [0.0]}}},
        "epochs", "error",
    )
    first, second = figure.axes
    line = first.get_lines()[0]
    np.testing.assert_allclose(line.get_xydata(), [[1, 2], [2, 4]])
    assert first.get_ylim() == second.get_ylim()
    words = curves.draw_by_setting({"": {"": {"flip": [1.0], "crop": [2.0]}}}, "view", "error")
    assert [text.get_text() for text in words.axes[0].get_xticklabels()] == ["flip", "crop"]


def test_bars_write_their_means():
    axis = bars.draw_bars({"accuracy": {"a": [1.0, 2.0], "b": [3.0]}}).axes[0]
    assert [text.get_text() for text in axis.texts] == ["1.5", "3"]


def test_a_folder_is_no_place_for_a_figure(tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(ConfigError, match="is there and is no file"):
        plots.save(plots.new_figure()[0], folder)
