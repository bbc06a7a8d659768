"""Rows of the papers' tables: what each config file says of them, and that each resolves."""

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.configs.choices import CHOICES, load

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
