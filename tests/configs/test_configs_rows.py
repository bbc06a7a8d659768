"""Rows of the papers' tables: what each config file says of them, and that each resolves."""

import importlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from configs.common import OneOf
from configs.wei2020_table2 import FAA_FILE, FAA_TABLE, PBA_FILE
from kdaug_jax.experiment import config as configs
from tests.configs.choices import CHOICES, RESOLVED, load, programs_of

FIGURE = re.compile(r"(-?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")
NAME = re.compile(r"[\w.-]+")


def module_of(name):
    return importlib.import_module(f"configs.{name}")


WITH_ROWS = [name for name in CHOICES if hasattr(module_of(name), "ROWS")]


def printed(text):
    """Numbers that fill a cell of a table, and their deviations; heads of tables do not count."""
    lines = text.splitlines()
    figures = Counter()
    for number, line in enumerate(lines):
        if not line.startswith("|") or line.startswith("|---"):
            continue
        if lines[number + 1].startswith("|---"):
            continue
        for cell in line.split("|")[1:-1]:
            match = FIGURE.fullmatch(cell.strip())
            if match:
                figures[float(match[1]), float(match[2]) if match[2] else None] += 1
    return figures


def test_numbers_are_read_from_tables():
    text = "| M | 0 |\n|---|---|\n| a: `x=3` | 18.4 |\n| b | 96.7 ± 0.2 |\n| c | -0.041 |\n1.0\n"
    assert printed(text) == {(18.4, None): 1, (96.7, 0.2): 1, (-0.041, None): 1}


@pytest.mark.parametrize("name", WITH_ROWS)
def test_the_docstring_shows_the_rows(name):
    module = module_of(name)
    rows = Counter(
        (float(value), row.spread.get(measure))
        for row in module.ROWS for measure, value in row.figures.items()
    )
    shown = printed(module.__doc__)
    assert shown - rows == rows - shown == Counter()


@pytest.mark.parametrize("name", WITH_ROWS)
def test_rows_are_told_apart(name):
    module = module_of(name)
    assert re.fullmatch(r"00[0-4]|[a-z]+(-[a-z]+)*", module.PAPER)
    names = [row.name for row in module.ROWS]
    assert len(set(names)) == len(names) and all(map(NAME.fullmatch, names))
    for row in module.ROWS:
        assert re.fullmatch(r"(Table|Figure|Section) \d+(\.\d+)?", row.table), row
        assert set(row.spread) <= set(row.figures), row
        assert row.options is not None or row.note, row


@pytest.mark.parametrize("name", WITH_ROWS)
def test_each_row_and_cell_resolves(name):
    module = module_of(name)
    cells = [cell for experiment in module.CELLS.values() for cell in experiment]
    for options in {row.options for row in module.ROWS} | {cell.options for cell in cells}:
        if options is not None:
            load(name, options)


@pytest.mark.parametrize("name", CHOICES)
def test_each_value_of_each_option_is_resolved(name, monkeypatch):
    module, choices = module_of(name), {}
    parse = module.parse_arg

    def record(arg, **given):
        choices.update(smoke=False, **given)
        return parse(arg, **given)

    monkeypatch.setattr(module, "parse_arg", record)
    for arg in RESOLVED[name]:
        load(name, arg)
    rows = getattr(module, "ROWS", ())
    args = [*CHOICES[name], *RESOLVED[name], *(row.options or "" for row in rows)]
    tried = {
        (option, value if equals else "True")
        for arg in args for option, equals, value in (
            word.strip().partition("=") for word in arg.split(",") if word.strip()
        )
    }
    missing = []
    for option, choice in choices.items():
        if isinstance(choice, OneOf):
            missing += [(option, str(value)) for value in choice.values[1:]
                        if value != choice.values[0] and (option, str(value)) not in tried]
        elif isinstance(choice, bool):
            missing += [(option, str(not choice))] * ((option, str(not choice)) not in tried)
        elif all(option != name for name, _ in tried):
            missing.append((option, "any"))
    assert missing == []


@pytest.mark.parametrize("name", WITH_ROWS)
def test_cells_stand_after_what_they_need(name):
    for cells in module_of(name).CELLS.values():
        before = set()
        for cell in cells:
            assert NAME.fullmatch(cell.name) and cell.name not in before
            for value in cell.overrides.values():
                if isinstance(value, str) and value.startswith("cell:"):
                    assert value.removeprefix("cell:").partition("@")[0] in before
            before.add(cell.name)


def test_every_paper_has_rows_in_its_files():
    folder = Path(__file__).parents[2] / "configs"
    papers = Counter(module_of(path.stem).PAPER for path in folder.glob("*.py")
                     if path.stem in WITH_ROWS)
    assert set(papers) >= {f"00{number}" for number in range(5)}


@pytest.fixture
def policy_files(tmp_path, monkeypatch):
    """The files that rows name, which are not part of the repository, with a policy each."""
    policy = [0] * 60
    policy[0:2] = [10, 5]
    schedule = json.dumps({"segments": [[100, [0] * 60], [100, policy]]})
    pair = "[[('Rotate', 0.5, 0.5), ('Color', 0.5, 0.5)]]"
    archive = f"def {FAA_TABLE}():\n    p = {pair}\n    return p\n"
    files = {FAA_FILE: archive, PBA_FILE: schedule}
    files |= dict.fromkeys(module_of("rolewise").SEARCHES, schedule)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)


def same_program(config):
    """What a config's programs are built from, so that rows which differ elsewhere share a test."""
    flat = configs.flatten({**config, "eval": {}, "checkpoint": {}, "train": {}, "data": {
        "source": config["data"]["source"], "batch_size": config["data"]["batch_size"],
    }})
    return json.dumps({
        path: value for path, value in flat.items() if not path.startswith("optim.schedule")
    }, default=str, sort_keys=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_ROWS)
def test_the_programs_of_each_row_are_built(name, policy_files):
    module = module_of(name)
    built = set()
    for row in module.ROWS:
        if row.options is None:
            continue
        config = load(name, row.options)
        key = same_program(config)
        if key not in built:
            built.add(key)
            assert len(programs_of(config)) == 1 + len(config["phases"]), row
