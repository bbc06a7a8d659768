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


def compared(capsys, *words):
    """Gives the exit status of the command line and what it printed."""
    status = compare.main([*map(str, words)])
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def runs_of(tmp_path, **configs):
    return [
        write_run(tmp_path / name, {"": row(0.8, 0.4)}, config) for name, config in configs.items()
    ]


def test_a_path_is_varied_once(tmp_path, capsys):
    run = write_run(tmp_path / "a", {"": row(0.8, 0.4)}, {"seed": 0, "train": {"epochs": 1.0}})
    status, text = compared(capsys, run, "--vary=seed", "--vary=seed")
    assert status == 2 and "--vary: names a path twice; name each once" in text


def table_of_magnitudes(tmp_path):
    """A population over magnitudes, weights and seeds, as a table of a paper."""
    grid = [["m", [0, 3]], ["terms.kd.weight", [0.0, 1.0]], ["seed", [0, 1, 2]]]
    results = {
        f"m={m},terms.kd.weight={weight},seed={seed}":
            row(0.8 - m / 100 + weight * (0.01 + m / 100) + seed * (1 + weight) / 1000, 0.4)
        for m in (0, 3) for weight in (0.0, 1.0) for seed in (0, 1, 2)
    }
    config = {"population": grid, "m": 3, "seed": 0, "terms": {"kd": {"weight": 1.0}}}
    return write_run(tmp_path / "table", results, config)


def test_several_settings_make_a_grid_with_an_interval_a_cell(tmp_path, capsys):
    run = table_of_magnitudes(tmp_path)
    file = tmp_path / "grid.csv"
    status, text = compared(capsys, run, "--vary=terms.kd.weight", "--vary=m", f"--to={file}")
    assert status == 0
    expected = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)  # of 1.0, 1.1 and 1.2 points
    low, high = f"{1.1 - expected:+.2f}", f"{1.1 + expected:+.2f}"
    lines = text.splitlines()
    assert lines[0].startswith("eval/test/accuracy by terms.kd.weight, in brackets the difference")
    assert lines[1].split() == ["m", "0.0", "1.0"]
    assert f"80.10 ± 0.10 %  81.20 ± 0.20 % (+1.10 [{low}, {high}], 3 pairs)" in lines[3]
    assert "(+4.10 [" in lines[4] and lines[4].startswith("3")
    assert "± is the standard deviation over runs (n − 1); intervals are 95 %" in lines[-2]
    assert lines[-1] == f"wrote {file}"
    cells = [line.split(",") for line in file.read_text().splitlines()]
    assert cells[0][:3] == ["elsewhere", "m", "terms.kd.weight"] and len(cells) == 1 + 4 * 2
    gain = next(cell for cell in cells if cell[1:4] == ["3", "1.0", "eval/test/accuracy"])
    assert gain[4] == "3" and gain[7] == "0.0" and gain[11] == "3"
    np.testing.assert_allclose([float(gain[5]), float(gain[8])], [0.812, 0.041], atol=1e-6)


def test_runs_that_differ_elsewhere_are_not_pooled(tmp_path, capsys):
    run = table_of_magnitudes(tmp_path)
    status, text = compared(capsys, run, "--vary=terms.kd.weight", "--metric=eval/test/accuracy")
    assert status == 0
    assert f"warning: {run} m=3,terms.kd.weight=0.0,seed=0 has m=3, and {run} m=0," in text
    assert "runs that differ there stand in rows of their own; --vary=m compares them" in text
    lines = [line.split()[:3] for line in text.splitlines()]
    assert ["0.0", "3", "80.10"] in lines and ["m=3", "0.0", "3"] in lines
    assert "terms.kd.weight 1.0 against 0.0 (m=3): +4.10 points" in text
    assert "terms.kd.weight 1.0 against 0.0: +1.10 points" in text


def test_a_csv_file_needs_a_folder(tmp_path, capsys):
    run = write_run(tmp_path / "a", {"": row(0.8, 0.4)}, {"seed": 0})
    status, text = compared(capsys, run, "--vary=seed", f"--to={tmp_path}/none/x.csv")
    assert status == 2 and "--to: " in text and "name a file in a folder that exists" in text


@pytest.mark.parametrize("path, first, second", [
    ("train.epochs", 1.0, 2.0), ("networks.student.name", "resnet8", "wrn_16_2"),
    ("optim.schedule.milestones", [1, 2], [1, 3]), ("terms.kd.k", True, 1),
])
def test_runs_that_differ_elsewhere_are_told_by_the_path(tmp_path, capsys, path, first, second):
    def config(weight, value):
        section, names = {}, path.split(".")
        nested = section
        for name in names[:-1]:
            nested = nested.setdefault(name, {})
        nested[names[-1]] = value
        section.setdefault("terms", {}).setdefault("kd", {})["weight"] = weight
        return section

    a, b = runs_of(tmp_path, a=config(0.5, first), b=config(1.0, second))
    status, text = compared(capsys, a, b, "--vary=terms.kd.weight")
    assert status == 0 and (
        f"warning: {b} has {path}={second!r}, and {a} has {path}={first!r}: runs that differ there"
    ) in text
    assert "points" not in text  # nothing to compare with
    # A setting that one of the two does not have is another, too.
    (c,) = runs_of(tmp_path, c={"terms": {"kd": {"weight": 1.0}}})
    status, text = compared(capsys, a, c, "--vary=terms.kd.weight")
    assert status == 0 and f"{c} has " in text and "=None" in text


def test_runs_whose_shared_teachers_have_other_seeds_are_repetitions(tmp_path, capsys):
    def config(seed, digits):
        return {"seed": seed, "teachers": "runs/teachers", "networks": {
            "t": {"checkpoint": f"runs/teachers/t-{digits}", "recipe": []}}}

    a, b = runs_of(tmp_path, a=config(0, "0123456789abcdef"), b=config(1, "fedcba9876543210"))
    status, text = compared(capsys, a, b, "--vary=seed")
    assert status == 0 and "warning" not in text


def test_runs_may_differ_in_what_changes_no_result(tmp_path, capsys):
    def config(seed, place, workers, every):
        return {"seed": seed, "views": {"x": {"place": place}}, "data": {"workers": workers},
                "log": {"every_steps": every}}

    a, b = runs_of(tmp_path, a=config(0, "host", 2, 10), b=config(1, "device", 0, 50))
    assert compared(capsys, a, b, "--vary=seed")[0] == 0
    # Even that may be compared on purpose.
    status, text = compared(capsys, a, b, "--vary=log.every_steps")
    assert status == 0 and "no two runs agree in their seeds" in text


def test_swept_tuples_are_values(tmp_path, capsys):
    path = "optim.schedule.milestones"
    grid = [[path, [[2, 4], [3, 4]]], ["seed", [0, 1]]]
    results = {
        f"{path}={milestones},seed={seed}": row(0.8 + gain + seed / 100, 0.4)
        for milestones, gain in (((2, 4), 0.0), ((3, 4), 0.03)) for seed in (0, 1)
    }
    config = {"population": grid, "seed": 0, "optim": {"schedule": {"milestones": [5, 6]}}}
    run = write_run(tmp_path / "a", results, config)
    status, text = compared(capsys, run, f"--vary={path}")
    assert status == 0 and f"{path} (3, 4) against (2, 4): +3.00 points" in text
    assert "over 2 pairs" in text
    # A plain run lists them, as JSON does.
    (plain,) = runs_of(tmp_path, b={"seed": 2, "optim": {"schedule": {"milestones": [2, 4]}}})
    status, text = compared(capsys, run, plain, f"--vary={path}")
    assert status == 0 and [line.split()[:3] for line in text.splitlines()[2:4]] == [
        ["(2,", "4)", "3"], ["(3,", "4)", "2"],
    ]


def test_numbers_that_are_equal_are_one_value(tmp_path, capsys):
    texts = {"a": ("1", "0.1"), "b": ("1.0", "0.10"), "c": ("2", "1e-1")}
    for number, (name, (weight, rate)) in enumerate(texts.items()):
        run = write_run(tmp_path / name, {"": row(0.8, 0.4)})
        (run / "config.json").write_text(
            f'{{"config": {{"seed": {number}, "rate": {rate}, "weight": {weight}}}}}'
        )
    status, text = compared(capsys, *(tmp_path / name for name in texts), "--vary=weight")
    assert status == 0
    assert [line.split()[:2] for line in text.splitlines()[2:4]] == [["1", "2"], ["2", "1"]]
    # Also of members, as their names are written.
    results = {f"weight={value},seed={seed}": row(0.8, 0.4)
               for seed, value in ((3, "1"), (4, "1.0"))}
    other = write_run(tmp_path / "d", results, {"seed": 0, "rate": 0.1, "weight": 3.0})
    status, text = compared(capsys, *(tmp_path / name for name in texts), other, "--vary=weight")
    assert status == 0
    assert [line.split()[:2] for line in text.splitlines()[2:4]] == [["1", "4"], ["2", "1"]]
    # So two runs of one value and seed are one too many.
    status, text = compared(capsys, tmp_path / "a", write_run(
        tmp_path / "e", {"": row(0.9, 0.4)}, {"seed": 0, "rate": 0.1, "weight": 1.0}
    ), "--vary=weight")
    assert status == 2 and "two runs have {'weight': 1, 'seed': 0}; name each run once" in text


def test_members_are_known_by_name_not_by_number(tmp_path, capsys):
    # Resumed with the values in another order: members stand as they were stored.
    results = {f"terms.kd.weight={weight}": row(accuracy, 0.4)
               for weight, accuracy in ((0.0, 0.7), (1.0, 0.9))}
    config = {"population": [["terms.kd.weight", [1.0, 0.0]]], "terms": {"kd": {"weight": 0.5}}}
    run = write_run(tmp_path / "a", results, config)
    stored = json.loads((run / "config.json").read_text()) | {"members": list(results)}
    (run / "config.json").write_text(json.dumps(stored))
    status, text = compared(capsys, run, "--vary=terms.kd.weight")
    assert status == 0 and "eval/test/accuracy, terms.kd.weight 1.0 against 0.0: +20.00" in text


@pytest.mark.parametrize("change, words", [
    ({"data": {"splits": {"train": {"examples": 9, "digest": "a"}}}},
     "train: 10 examples -> 9"),
    ({"data": {"splits": {"train": {"examples": 10, "digest": "b"}}}},
     "train: names, labels, sizes or bytes of its files differ"),
    ({"data": {"class_names": ["dog", "cat"]}}, "class 0 was 'cat' and is 'dog'"),
    ({"frozen": {"t": {"steps": [7], "digest": "f"}}},
     "networks.t: steps [3] -> [7], other weights in runs/t"),
])
def test_runs_of_other_data_or_teachers_of_equal_names_are_refused(
    tmp_path, capsys, change, words
):
    def write(name, seed, checkpoint, altered):
        run = write_run(tmp_path / name, {"": row(0.8, 0.4)})
        data = {"class_names": ["cat", "dog"], "sets": {}, "files": {},
                "splits": {"train": {"examples": 10, "digest": "a"}}} | altered.get("data", {})
        config = {"seed": seed, "data": {"source": "folder:x", "seed": seed, "workers": seed},
                  "networks": {"t": {"checkpoint": checkpoint}}}
        frozen = {"t": {"steps": [3], "digest": "e"}} | altered.get("frozen", {})
        (run / "config.json").write_text(
            json.dumps({"config": config, "data": data, "frozen": frozen})
        )
        return run

    a, b = write("a", 0, "runs/t", {}), write("b", 1, "runs/t", {})
    assert compared(capsys, a, b, "--vary=seed")[0] == 0
    c = write("c", 2, "runs/t", change)
    status, text = compared(capsys, a, b, c, "--vary=seed")
    assert status == 2
    assert f"{c}: was trained with other inputs than {a} ({words}); compare runs of" in text
    # Teachers that runs trained for themselves may differ, as their seeds do.
    d, e = write("d", 0, "workdir:t", {}), write("e", 1, "workdir:t", change)
    assert (compared(capsys, d, e, "--vary=seed")[0] == 0) == ("frozen" in change)


def test_members_that_failed_are_left_out(tmp_path, capsys):
    results = {f"seed={seed}": row(0.8, 0.4) for seed in (0, 1)}
    results["seed=2"] = {"failed": {"step": 7, "where": "terms.kd"}}
    run = write_run(tmp_path / "a", results, {"seed": 0})
    status, text = compared(capsys, run, "--vary=seed")
    assert status == 0 and f"{run}: seed=2 was not finite at step 7 (terms.kd): left out" in text


def test_the_chosen_branch_is_compared(tmp_path, capsys):
    results = {
        f"seed={seed}": {**row(0.1, 2.0), "eval/test/chosen/accuracy": 0.7 + seed / 10,
                         "eval/test/chosen/nll": 0.5}
        for seed in (0, 1)
    }
    run = write_run(tmp_path / "a", results, {"seed": 0})
    status, text = compared(capsys, run, "--vary=seed")
    assert status == 0 and "eval/test/chosen/accuracy, seed 1 against 0: +10.00 points" in text


def test_runs_that_were_changed_on_their_way_are_told(tmp_path, capsys):
    directories = []
    for number, rate in enumerate((0.1, 0.2)):
        config = {"optim": {"schedule": {"base": rate}}, "seed": 0}
        directories.append(write_run(tmp_path / str(number), {"": row(0.8, 0.4)}, config))
    file = directories[1] / "config.json"
    changed = ["checkpoint.every_epochs: 1.0 -> 2.0", "optim.schedule.base: 0.4 -> 0.2"]
    stored = json.loads(file.read_text()) | {"changes": [{"step": 1200, "changed": changed}]}
    file.write_text(json.dumps(stored))
    assert compare.main([*map(str, directories), "--vary=optim.schedule.base"]) == 0
    assert (
        f"warning: {directories[1]}: went on from step 1,200 with other settings "
        "(optim.schedule.base: 0.4 -> 0.2), so its results are not those of its last ones alone"
    ) in capsys.readouterr().out


def test_a_comparison_is_drawn(tmp_path, capsys):
    run = table_of_magnitudes(tmp_path)
    file = tmp_path / "plot.png"
    words = ("--vary=terms.kd.weight", "--vary=m", "--metric=eval/test/accuracy")
    status, text = compared(capsys, run, *words, f"--plot={file}")
    assert status == 0 and text.splitlines()[-1] == f"wrote {file}"
    assert file.read_bytes().startswith(b"\x89PNG")
    runs = compare.read_runs([run], ("terms.kd.weight", "m"))
    (panel,) = compare.panels(runs, ("terms.kd.weight", "m"), ("eval/test/accuracy",))
    assert list(panel.lines) == ["m=0", "m=3"] and panel.values == ["0.0", "1.0"]
    np.testing.assert_allclose(panel.lines["m=3"], [(0, 0.771, 0.001), (1, 0.812, 0.002)])
    status, text = compared(capsys, run, *words, f"--plot={tmp_path}/none/x.png")
    assert status == 2 and "--plot: " in text and "name a file in a folder that exists" in text
    status, text = compared(capsys, run, *words, f"--plot={tmp_path}")
    assert status == 2 and "is there and is no file" in text


def test_numbers_that_follow_a_seed_belong_to_its_repetition(tmp_path, capsys):
    rows = [[0, 1, 9], [1, 3, 6], [2, 2, 3]]
    grid = [
        ["terms.kd.weight", [0.0, 1.0]],
        [["seed", "views.x.randaugment.n", "views.x.randaugment.m"], rows],
    ]
    results = {
        f"terms.kd.weight={weight},seed={seed}": row(0.8 + weight / 100 + seed / 1000, 0.4)
        for weight in (0.0, 1.0) for seed in (0, 1, 2)
    }
    config = {"population": grid, "seed": 0, "terms": {"kd": {"weight": 1.0}}}
    run = write_run(tmp_path / "a", results, config)
    status, text = compared(capsys, run, "--vary=terms.kd.weight")
    assert status == 0 and "warning" not in text and "over 3 pairs" in text
    status, text = compared(capsys, run, "--vary=views.x.randaugment.n")
    assert status == 0 and "views.x.randaugment.n" in text
