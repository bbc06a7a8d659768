import json

import numpy as np
import pytest
from scipy import stats

from kdaug_jax.analysis import compare


def write_run(directory, results, config=None):
    directory.mkdir()
    (directory / "results.json").write_text(json.dumps(results))
    (directory / "config.json").write_text(json.dumps({"config": config or {}}))
    return directory


def row(accuracy, nll):
    return {"eval/test/accuracy": accuracy, "eval/test/nll": nll}


def test_paired_difference_is_a_t_interval():
    first, second = [1.0, 2.0, 4.0], [2.0, 2.5, 6.0]
    difference = compare.paired(first, second)
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    np.testing.assert_allclose([difference.low, difference.high], [expected.low, expected.high])
    assert compare.paired([1.0], [2.0]).pairs == 1


def test_a_population_is_compared_by_seed(tmp_path, capsys):
    results = {
        f"terms.kd.weight={weight},seed={seed}": row(0.9 + gain + 0.01 * seed, 0.5)
        for weight, gain in ((0.0, 0.0), (1.0, 0.02))
        for seed in (0, 1, 2)
    }
    directory = write_run(tmp_path / "a", results)
    assert compare.main([str(directory), "--vary=terms.kd.weight"]) == 0
    text = capsys.readouterr().out
    assert "91.00 ± 1.00 %" in text and "93.00 ± 1.00 %" in text
    assert "terms.kd.weight 1.0 against 0.0: +2.00 points" in text and "over 3 pairs" in text


def test_plain_runs_are_compared_by_their_configs(tmp_path, capsys):
    directories = [
        str(
            write_run(tmp_path / str(k), {"": row(0.8 + k / 100, 0.4)}, {"terms": {"kd": {"k": k}}})
        )
        for k in (3, 5)
    ]
    assert compare.main([*directories, "--vary=terms.kd.k", "--metric=eval/test/accuracy"]) == 0
    assert "+2.00 points (one pair, no interval)" in capsys.readouterr().out


def test_plain_runs_are_paired_by_what_else_differs(tmp_path, capsys):
    directories = []
    for weight, gain in ((0.5, 0.0), (1.0, 0.02)):
        for seed in (0, 1, 2):
            config = {"seed": seed, "terms": {"kd": {"weight": weight}}, "mode": "train"}
            results = {"": row(0.8 + gain + seed / 100, 0.4)}
            directories.append(str(write_run(tmp_path / f"{weight}{seed}", results, config)))
    assert compare.main([*directories, "--vary=terms.kd.weight"]) == 0
    text = capsys.readouterr().out
    assert "+2.00 points, 95 % interval +2.00 to +2.00 over 3 pairs" in text
    assert compare.main([*directories, directories[0], "--vary=terms.kd.weight"]) == 2
    assert "two runs have" in capsys.readouterr().err


def test_runs_without_a_test_split_are_compared_on_validation(tmp_path, capsys):
    def validated(accuracy):
        return {"eval/validation/accuracy": accuracy, "eval/validation/nll": 0.5}

    results = {f"seed={seed}": validated(0.6 + 0.1 * seed) for seed in (0, 1)}
    directory = write_run(tmp_path / "a", results)
    assert compare.main([str(directory), "--vary=seed"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("these runs have no test split: compared on validation, where choices")
    assert "eval/validation/accuracy, seed 1 against 0: +10.00 points" in text
    words = [str(directory), "--vary=seed", "--metric=eval/validation/accuracy"]
    assert compare.main(words) == 0
    assert "no test split" not in capsys.readouterr().out
    # Numbers of different splits are not set side by side.
    tested = {"seed=2": {**validated(0.7), **row(0.7, 0.5)}}
    both = [str(directory), str(write_run(tmp_path / "b", tested)), "--vary=seed"]
    assert compare.main(both) == 2
    line = capsys.readouterr().err
    assert "--metric: 2 of 3 runs have no test split; compare them by --metric=eval/val" in line
    assert compare.main([*both, line.strip().rpartition(" ")[2]]) == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["--vary=seed"], "holds no finished run"),
        (["--vary=terms.kd.wieght"], "did you mean terms.kd.weight"),
        (["--vary=terms.kd.weight", "--metric=eval/test/acc"], "did you mean eval/test/accuracy"),
    ],
)
def test_errors(tmp_path, words, message, capsys):
    where = tmp_path / "none"
    if "finished" not in message:
        write_run(where, {"": row(0.5, 1.0)}, {"terms": {"kd": {"weight": 1.0}}})
    assert compare.main([str(where), *words]) == 2
    assert message in capsys.readouterr().err
