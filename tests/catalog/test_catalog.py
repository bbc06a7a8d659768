"""The catalogue: rows by the paper's numbers, runs one after another, records and tables."""

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from kdaug_jax.catalog import __main__ as catalog
from kdaug_jax.catalog import counting, experiments, jobs, measured, tables
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import console
from tests.catalog import made

ALL = ["plain", "kd", "advprop", "kd-again", "kd-ece", "curve"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with configs/ and a stand-in for main.py, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "small_table.py").write_text(made.FILE)
    (tmp_path / "configs" / "plain.py").write_text("def get_config(arg=''):\n    return None\n")
    (tmp_path / "main.py").write_text(made.MAIN)
    (experiment,) = experiments.load_experiments(tmp_path / "configs")
    known = {options: made.full_config(experiment.get_config, options) for options in made.OPTIONS}
    (tmp_path / "known.json").write_text(json.dumps(known))
    (tmp_path / "run.json").write_text(json.dumps(made.run_files({})))
    return tmp_path


def called(capsys, *words):
    """Gives the exit status of the command line and what it printed."""
    status = catalog.main([*map(str, words)])
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def known_config(folder, options, **changes):
    config = json.loads((folder / "known.json").read_text())[options]
    for path, value in changes.items():
        config = configs.set_path(config, path.replace("__", "."), value)
    return config


def cells_of(text):
    """Gives the cells of the lines of a table that have a row's name or a measure."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()]
            for line in text.splitlines()[2:]]


METRICS = {
    "eval/test/accuracy": 0.5, "eval/test/branch_1/accuracy": 0.75,
    "eval/test/ensemble/weight_0": 0.3, "eval/cinic/accuracy": 0.25,
    "eval/validation/accuracy": 0.1,
}


@pytest.mark.parametrize("measure, more, value", [
    ("accuracy", {}, 50.0), ("error", {}, 50.0), ("top5", {}, None),
    ("accuracy", {"eval/test/chosen/accuracy": 0.625}, 62.5),
    ("accuracy", {"eval/test/ensemble/chosen/accuracy": 0.625}, 62.5),  # of independent networks
    ("branch_1/accuracy %", {}, 75.0), ("branch_1/accuracy", {}, 0.75),
    ("ensemble/weight_0", {}, 0.3), ("cinic/accuracy", {}, 0.25), ("gpu_hours", {}, None),
])
def test_measures_are_read_from_the_metrics_of_a_run(measure, more, value):
    assert measured.measured(METRICS | more, measure) == value


@pytest.mark.parametrize("name, rows", [
    ("", ALL), ("900", ALL),
    ("900.1", ["plain", "kd"]), ("900.table1", ["plain", "kd"]), ("900.fig2", ["curve"]),
    ("900.FIGURE2", ["curve"]), ("900.1.kd", ["kd"]), ("kd", ["kd"]),
    ("small_table.3", ["advprop"]), ("small_table.kd", ["kd"]),
    ("small_table", ALL),
])
def test_rows_are_listed_by_paper_table_figure_and_name(folder, capsys, name, rows):
    status, text = called(capsys, "list", *[name] * bool(name))
    addresses = [cells[0] for cells in cells_of(text) if cells[0].startswith("900.")]
    assert status == 0 and [address.rpartition(".")[2] for address in addresses] == rows
    assert "pair: an experiment of 2 runs, configs/small_table.py" in text
    assert "plain.py" not in text


def test_a_row_that_is_only_quoted_says_so(folder, capsys):
    _, text = called(capsys, "list", "900.3")
    assert [cells[1:] for cells in cells_of(text)[:1]] == [["accuracy 85.2, top5...", "quoted, "
                                                            "not runnable"]]
    _, text = called(capsys, "show", "900.3")
    assert "900.3.advprop: paper 900, Table 3" in text and "quoted, not runnable" in text
    status, text = called(capsys, "run", "900.3")
    assert status == 2 and "is only quoted by the paper and cannot be run (AdvProp is not" in text
    _, text = called(capsys, "table", "900.3")
    assert [line[:3] for line in cells_of(text)[:2]] == [
        ["900.3.advprop", "accuracy", "85.2"], ["top5", "97.2"]]


def test_show_says_what_a_row_is(folder, capsys):
    _, text = called(capsys, "show", "900.1.kd")
    assert text.splitlines() == [
        "900.1.kd: paper 900, Table 1", "  A small table of a paper.",
        "  config   configs/small_table.py:weight=1.0", "  error    19.9 ± 0.2",
        "  note     last epoch",
    ]
    _, text = called(capsys, "show", "pair")
    assert "networks.teacher.checkpoint=cell:teacher@best" in text
    _, text = called(capsys, "show", "curve")
    assert "the paper prints no figure for it" in text


@pytest.mark.parametrize("words, message", [
    (["list", "900.1.kdd"], "no such paper, table, row or experiment; did you mean 900.1.kd"),
    (["show", "pairs"], "did you mean pair"),
    (["run", "zzzzzz"], "see the command list; papers: 900"),
    (["list", "--configs=none"], "none holds no config files; run this in the folder that holds"),
    (["list", "900", "--dir=x"], "command line: does not know '--dir=x'; see list --help"),
    (["table", "900", "--config.seed=1"], "does not know '--config.seed=1'; see table --help"),
    (["run", "900.1", "--smok", "--dry-run"], "does not know '--smok'; did you mean --smoke"),
    (["command", "900.1", "--seed=1"], "does not know '--seed=1'; did you mean --seeds"),
    (["run", "900.1", "900.3"], "does not know '900.3'"),
    (["run", "900.1", "--workdir=x"], "does not know '--workdir=x'"),
    (["record", "nowhere"], "is not the working directory of a run; name what --workdir was"),
])
def test_what_is_wrong_is_told_in_one_line(folder, capsys, words, message):
    status, text = called(capsys, *words)
    assert status == 2 and message in text and text.count("\n") == 1


@pytest.mark.parametrize("text, message", [
    ("PAPER = '1'\nROWS = {}\n", "has ROWS that are no Row"),
    ("PAPER = '1'\nCELLS = {'a': (1,)}\n", "has CELLS that are no Cell"),
    ("from kdaug_jax.experiment.rows import Row\nPAPER = '1'\n"
     "ROWS = (Row('Table 1', 'a b', '', {}),)\n", "has the name 'a b', which is no name of its"),
    ("from kdaug_jax.experiment.rows import Row\nPAPER = '1'\n"
     "ROWS = (Row('Table 1', 'a', None, {}),)\n", "row a cannot be run and does not say why"),
    ("PAPER = 1 / 0\n", "broken.py:1: ZeroDivisionError"),
])
def test_rows_that_are_wrong_are_told_by_their_file(folder, capsys, text, message):
    (folder / "configs" / "broken.py").write_text(text)
    status, shown = called(capsys, "list")
    assert status == 2 and "configs/broken.py" in shown and message in shown


def test_a_printed_command_works_as_it_is_typed(folder, capsys):
    _, text = called(capsys, "command", "900.1.kd", "--config.seed=3")
    words = shlex.split(text)
    assert words[2:] == [
        "--config=configs/small_table.py:weight=1.0", "--workdir=runs/small_table/kd",
        "--config.teachers=runs/teachers", "--config.seed=3",
    ]
    subprocess.run(text, shell=True, check=True, cwd=folder)
    assert (folder / "runs" / "small_table" / "kd" / "results.json").exists()


def test_words_for_main_are_passed_on(folder, capsys):
    words = ["--config.seed", "3", "--noverify_data", "--allow_config_change"]
    status, text = called(capsys, "command", "900.1.kd", *words)
    assert status == 0 and shlex.split(text)[-4:] == words


def test_cells_name_the_directories_of_earlier_ones(folder, capsys):
    _, text = called(capsys, "command", "pair", "--dir=out", "--smoke")
    student = text.splitlines()[1]
    assert "--config.networks.teacher.checkpoint=out/teacher@best" in student
    assert "--config=configs/small_table.py:weight=1.0,smoke" in student
    (experiment,) = experiments.load_experiments(folder / "configs")
    cells = tuple(reversed(experiment.cells["pair"]))
    with pytest.raises(configs.ConfigError, match="names 'teacher', which is no cell before it"):
        jobs.jobs_of_cells(experiments.Several(experiment, "pair", cells), "out")


def test_an_experiment_runs_its_cells_and_skips_what_is_finished(folder, capsys):
    status, text = called(capsys, "run", "pair", "--dir=out")
    assert status == 0
    calls = (folder / "calls").read_text().splitlines()
    assert [line.split()[1] for line in calls] == ["--workdir=out/teacher", "--workdir=out/student"]
    assert all("--config.teachers=out/teachers" in line for line in calls)
    assert "--- 1/2 teacher: not run" in text and "--- 2/2 student: not run" in text
    # The student is no row of the table, since its teacher is another cell.
    lines = [line for line in cells_of(text) if line[0].startswith("out/")]
    assert [line[:5] for line in lines] == [
        ["out/teacher", "error", "22.4", "21.00 %", "-1.40"],
        ["out/student", "accuracy", "79.00 %", "1", "81.00 (1), validation"],
    ]
    status, text = called(capsys, "run", "pair", "--dir=out")
    assert status == 0 and "--- 2/2 student: finished" in text
    assert len((folder / "calls").read_text().splitlines()) == 2
    status, text = called(capsys, "run", "pair", "--dir=out", "--config.train.epochs=3.0")
    assert status == 2 and (
        "out/teacher: holds a finished run of another config (train.epochs: 3.0 -> 2.0); name"
    ) in text


def test_seeds_are_runs_of_their_own_that_share_teachers(folder, capsys):
    status, text = called(capsys, "run", "900.1.kd", "--dir=out", "--seeds=0,1", "--dry-run")
    lines = [line for line in text.splitlines() if not line.startswith("---")]
    assert status == 0 and not (folder / "calls").exists()
    assert "--workdir=out/seed0/kd" in lines[0] and "--workdir=out/seed1/kd" in lines[1]
    assert "--config.seed=1" in lines[1] and "--config.teachers=out/teachers" in lines[1]
    with pytest.raises(SystemExit):
        called(capsys, "run", "900.1.kd", "--seeds=a")


def test_a_run_ends_with_the_status_of_the_job_that_did_not(folder, capfd):
    (folder / "refuse").touch()
    assert catalog.main(["run", "900.1"]) == 3
    text = "".join(capfd.readouterr())
    assert "error: data.source: no such folder" in text
    assert ("data of plain: cifar-10-python.tar.gz (MD5 c58f30108f718f92721af3b95e74349a) or cifar"
            in text)
    assert "from https://www.cs.toronto.edu/~kriz/; --config.data.source=cifar10:DIR" in text
    assert "plain: ended with status 3; the same command goes on from there" in text
    assert len((folder / "calls").read_text().splitlines()) == 1  # the next one is not started


def test_signals_are_passed_on(folder, capsys):
    (folder / "slow").touch()

    def stop():
        while not (folder / "started").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    status, text = called(capsys, "run", "900.1.kd")
    assert status == 75 and "kd: ended with status 75" in text


def test_a_row_is_run_recorded_and_shown(folder, capsys):
    status, text = called(capsys, "run", "900.1.kd")
    assert status == 0 and "recorded 900.1.kd: results/small_table/kd/" in text
    (line,) = [cells for cells in cells_of(text) if cells[0] == "900.1.kd"]
    # 8 images a batch at 160 a second, 10 steps on 2 devices.
    assert line == [
        "900.1.kd", "error", "19.9 ± 0.2", "21.00 %", "+1.10", "1", "81.00 (1), validation",
        f"{0.05 * 10 * 2 / 3600:.3g}", "last epoch",
    ]
    (file,) = (folder / "results" / "small_table" / "kd").glob("*.json")
    record = json.loads(file.read_text())
    assert record["kind"] == "row" and record["changed"] == [] and record["commit"] == "c0ffee"
    assert record["hardware"] == {"device": "TPU v5e", "devices": 2, "processes": 1}
    assert record["runs"][0]["best"] == {"accuracy": pytest.approx(81.0), "epoch": 1.0,
                                         "split": "validation"}
    assert record["command"].startswith("main.py --config=configs/small_table.py:weight=1.0")


def test_rows_of_equal_options_share_a_run(folder, capsys):
    assert called(capsys, "run", "900.1.kd")[0] == 0
    status, text = called(capsys, "run", "900.4")
    assert status == 0 and "--- 1/1 kd: finished" in text
    assert [cells[:5] for cells in cells_of(text) if cells[0] == "900.4.kd-again"] == [
        ["900.4.kd-again", "accuracy", "80.1", "79.00 %", "-1.10"]
    ]
    assert len((folder / "calls").read_text().splitlines()) == 1


def test_a_row_that_measures_more_is_evaluated_and_not_trained_again(folder, capsys):
    assert called(capsys, "run", "900.1.kd")[0] == 0
    status, text = called(capsys, "run", "900.5")
    assert status == 0 and "--- 1/1 kd: finished" in text
    assert "--- measuring 900.5.kd-ece in runs/small_table/kd" in text
    calls = (folder / "calls").read_text().splitlines()
    assert ["--mode=evaluate" in call for call in calls] == [False, True]
    assert "small_table.py:weight=1.0,ece --workdir=runs/small_table/kd" in calls[1]
    (line,) = [cells for cells in cells_of(text) if cells[0] == "900.5.kd-ece"]
    assert line[:5] == ["900.5.kd-ece", "ece", "0.1", "0.2500", "+0.1500"]
    status, text = called(capsys, "run", "900.5")
    assert status == 0 and "measuring" not in text
    assert len((folder / "calls").read_text().splitlines()) == 2


def test_seeds_are_pooled_with_their_deviation(folder, capsys):
    for seed, accuracy in ((0, 0.79), (1, 0.81)):
        config = known_config(folder, "weight=1.0", seed=seed)
        made.write_run(folder / f"run{seed}", made.run_files(config, accuracy))
    status, text = called(capsys, "record", "run0", "run1")
    assert status == 0 and text.count("recorded 900.1.kd: ") == 2
    assert text.count("recorded 900.4.kd-again: ") == 2
    _, text = called(capsys, "table", "900.1.kd")
    (line,) = [cells for cells in cells_of(text) if cells[0] == "900.1.kd"]
    assert line[3:6] == ["20.00 ± 1.41 %", "+0.10", "2"]
    assert "ours: mean ± standard deviation over runs (n − 1)" in text


def test_members_of_a_sweep_over_seeds_are_runs(folder, capsys):
    members = {f"seed={seed}": {"eval/test/accuracy": 0.8 + seed / 100} for seed in (0, 1, 2)}
    members["seed=3"] = {"failed": {"step": 7, "where": "terms.kd"}}
    config = known_config(folder, "weight=1.0", population=[["seed", [0, 1, 2, 3]]])
    made.write_run(folder / "sweep", made.run_files(config, members=members))
    assert called(capsys, "record", "sweep")[0] == 0
    _, text = called(capsys, "table", "900.1.kd")
    assert "19.00 ± 1.00 %" in text


@pytest.mark.parametrize("options, changes, kind, shown", [
    ("weight=1.0,smoke", {}, "smoke", "[smoke form, 2 epochs] error 21.00 %"),
    ("weight=1.0", dict(data__source="digits", train__epochs=3.0), "stand-in",
     "[stand-in: digits, 3 epochs] error 21.00 %"),
    ("weight=1.0", dict(train__epochs=3.0), "scaled", "[scaled, 3 epochs] error 21.00 %"),
    ("weight=1.0", dict(terms__kd__weight=0.5), "variation", "[variation, 2 epochs] error 21.00 %"),
])
def test_what_is_not_the_row_never_stands_under_ours(folder, capsys, options, changes, kind, shown):
    config = known_config(folder, options, **changes)
    made.write_run(folder / "run", made.run_files(config))
    more = ["--variation"] * (kind == "variation")
    status, text = called(capsys, "record", "run", *more)
    assert status == 0 and f"recorded 900.1.kd ({kind}: not compared): " in text
    _, text = called(capsys, "table", "900.1.kd")
    first, second = cells_of(text)[:2]
    assert first == ["900.1.kd", "error", "19.9 ± 0.2", "last epoch"]
    assert second[0].startswith(shown)
    status, text = called(capsys, "results")
    assert status == 0 and shown in text and "| 900.1.kd | error | 19.9 ± 0.2 |  |  |" in text


def test_a_run_of_another_config_is_refused_as_a_row(folder, capsys):
    config = known_config(folder, "weight=1.0", terms__kd__weight=0.5)
    made.write_run(folder / "run", made.run_files(config))
    status, text = called(capsys, "record", "run")
    assert status == 2 and (
        "is a run of another config than 900.1.kd (terms.kd.weight: 1.0 -> 0.5); record it as"
    ) in text
    status, text = called(capsys, "record", "run", "--row=900.1")
    assert status == 2 and "'900.1' names 2 rows; name one of them: small_table.plain, s" in text
    status, text = called(capsys, "record", "run", "--row=advprop")
    assert status == 2 and "is only quoted by the paper" in text
    files = made.run_files(config)
    files["environment.json"]["command"] = ["main.py", "--config=configs/other.py"]
    made.write_run(folder / "other", files)
    status, text = called(capsys, "record", "other")
    assert status == 2 and "is a run of 'configs/other.py', which is no row; name the row" in text
    (folder / "other" / "results.json").unlink()
    status, text = called(capsys, "record", "other")
    assert status == 2 and "holds a run that has not come to its end; run its command" in text


def test_what_a_run_fills_in_is_no_difference(folder, capsys):
    changes = dict(networks__student__mean=[1.0] * 3, networks__student__std=[2.0] * 3,
                   networks__teacher__checkpoint="t/teacher-" + "0" * 16, teachers="t",
                   data__source="cifar10:/elsewhere", seed=4, log__every_steps=7)
    config = known_config(folder, "weight=1.0", **changes)
    made.write_run(folder / "run", made.run_files(config))
    status, text = called(capsys, "record", "run")
    assert status == 0 and "not compared" not in text
    _, text = called(capsys, "table", "900.1.kd")
    assert "teacher: " not in text


def test_a_teacher_from_elsewhere_is_named(folder, capsys):
    config = known_config(folder, "weight=1.0", networks__teacher__checkpoint="published/r34")
    made.write_run(folder / "run", made.run_files(config))
    called(capsys, "record", "run")
    _, text = called(capsys, "table", "900.1.kd")
    assert "21.00 %" in text and "last epoch; teacher: published/r34" in text


def test_what_saves_memory_is_no_other_run_and_no_teacher(folder, capsys):
    config = known_config(folder, "weight=1.0", train__accumulate=2)
    made.write_run(folder / "run", made.run_files(config))
    assert called(capsys, "record", "run")[0] == 0
    _, text = called(capsys, "table", "900.1.kd")
    assert "21.00 %" in text and "teacher: " not in text


@pytest.mark.parametrize("place, taught", [
    ("workdir:teacher", True), ("t/teacher-" + "0" * 16, True), ("workdir:gone", False),
])
def test_the_cost_of_a_teacher_stands_beside_that_of_its_student(folder, capsys, place, taught):
    config = known_config(
        folder, "weight=1.0", networks__teacher__checkpoint=place, teachers="t" * (place[0] == "t")
    )
    made.write_run(folder / "run", made.run_files(config))
    alone = {**config, "networks": {"student": config["networks"]["student"]}}
    for where in ("run/teacher", f"t/teacher-{'0' * 16}"):
        made.write_run(folder / where, made.run_files(alone, speed=16.0))
    assert called(capsys, "record", "run")[0] == 0
    _, text = called(capsys, "table", "900.1.kd")
    hours = [f"{0.05 * 10 * 2 / 3600:.3g}", *[f"{0.5 * 10 * 2 / 3600:.3g}"] * taught]
    assert cells_of(text)[0][7:] == [*hours, "last epoch"]
    assert "teachers': the same of the teachers that a run trained or shared, empty where unk" in (
        text
    )


def test_a_run_without_teachers_has_none_to_pay_for(folder, capsys):
    files = made.run_files(known_config(folder, ""))
    files["environment.json"]["command"] = ["main.py", "--config=configs/small_table.py"]
    made.write_run(folder / "run", files)
    called(capsys, "record", "run")
    _, text = called(capsys, "table", "900.1.plain")
    assert cells_of(text)[0][-1] == "0"


@pytest.mark.parametrize("images, shown", [(4, "BatchNorm over 4 images, recipe 8"), (0, "")])
def test_batchnorm_over_fewer_images_than_the_recipes_is_told(folder, capsys, images, shown):
    sizes = dict(train__replica_batch_size=images, train__recipe_replica_batch_size=8)
    files = made.run_files(known_config(folder, "weight=1.0", **sizes))
    made.write_run(folder / "run", files)
    assert called(capsys, "record", "run")[0] == 0
    (file,) = (folder / "results" / "small_table" / "kd").glob("*.json")
    sizes = {"images": 4, "recipe": 8} if images else {}
    assert json.loads(file.read_text())["batch_norm"] == sizes
    for words in (["table", "900.1.kd"], ["results"]):
        _, text = called(capsys, *words)
        assert shown in text and ("BatchNorm" in text) == bool(shown)


@pytest.mark.parametrize("damage, message", [
    (lambda text: text.replace("c0ffee", "decade"), "is not as it was written; restore it from a"),
    (lambda text: text[:20], "cannot be read as JSON"),
    (lambda text: "{}", "is no record of a run (it has no 'experiment')"),
    (lambda text: "[]", "is no record of a run"),
])
def test_damaged_records_are_refused(folder, capsys, damage, message):
    made.write_run(folder / "run", made.run_files(known_config(folder, "weight=1.0")))
    called(capsys, "record", "run")
    (file,) = (folder / "results" / "small_table" / "kd").glob("*.json")
    file.write_text(damage(file.read_text()))
    status, text = called(capsys, "table", "900.1.kd")
    assert status == 2 and str(file.relative_to(folder)) in text and message in text


def test_the_document_of_results_is_current(monkeypatch, capsys):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    status, text = called(capsys, "results")
    assert status == 0 and text == (root / "docs" / "results.md").read_text(), (
        "python -m kdaug_jax.catalog results > docs/results.md"
    )


def test_the_rows_of_the_config_files_can_be_listed(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    known = experiments.load_experiments(Path("configs"))
    for entry in experiments.entries_of(known):
        assert entry in experiments.find_rows(known, entry.address)
        full_name = f"{entry.experiment.name}.{entry.row.name}"
        assert experiments.find_rows(known, full_name) == [entry]


def test_figures_are_found_by_their_numbers(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    known = experiments.load_experiments(Path("configs"))
    assert experiments.find_several(known, "001.fig3").name == "figures-1-3"
    assert experiments.find_several(known, "002.Figure4").name == "figure-4"
    status, text = called(capsys, "list", "000.fig1")
    assert status == 0 and text == (
        "000.fig1: python -m kdaug_jax.analysis.gallery figure1.png --figure=1\n"
    )
    lines = tables.list_table(experiments.entries_of(known), Path("results"))
    assert max(map(len, console.table(lines).split("\n"))) <= 100


@pytest.mark.parametrize("name, rows, plan", [
    # 5 teachers on CIFAR-10 and 3 on MNIST, all of them rows; 21 students.
    ("004", 86, (29, 8, 8)), ("004.1", 20, (15, 5, 5)), ("004.9", 5, (5, 0, 0)),
    # The teachers are the AA rows of wrn_28_10 on both sets, and of pyramidnet272 on CIFAR-100.
    ("000.2", 44, (44, 3, 3)), ("000.1", 16, (16, 1, 0)),
])
def test_teachers_are_trained_once_and_are_rows_where_the_table_has_them(
    monkeypatch, name, rows, plan
):
    monkeypatch.chdir(Path(__file__).parents[2])
    entries = experiments.find_rows(experiments.load_experiments(Path("configs")), name)
    runs = jobs.jobs_of_rows(entries, "")
    assert len(entries) == rows and counting.count_of(runs) == plan
    assert {word for job in runs for word in job.words if "config.teachers" in word} == {
        "--config.teachers=runs/teachers"
    }


def test_what_only_other_rows_measure_with_is_not_needed_to_train(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    status, text = called(capsys, "run", "004.2.table2-lenet-none", "--dry-run")
    assert status == 0 and "2 networks are trained: 1 runs, and 1 teachers that are no run" in text
    train, measure = [line for line in text.splitlines() if "main.py" in line]
    assert "das2020_cifar10.py:student=lenet,teacher_aug=none --workdir" in train
    assert "cinic=data/CINIC-10" in measure and measure.endswith("--mode=evaluate")
    for line in (train, measure):
        assert "--workdir=runs/das2020_cifar10/table1-lenet-none" in line


@pytest.mark.slow
def test_a_row_runs_in_its_smoke_form(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    words = ["000.1.table1-ra-kd-m3", "--smoke", f"--dir={tmp_path}"]
    assert catalog.main(["run", *words]) == 0
    assert (tmp_path / "table1-ra-kd-m3" / "results.json").exists()
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    status, text = called(capsys, "run", *words)
    assert status == 0 and "table1-ra-kd-m3: finished" in text and "recorded" not in text
