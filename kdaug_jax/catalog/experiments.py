"""Finds experiments, rows of printed tables and experiments of several runs by their names."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdaug_jax import registry
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment import command_line
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.effects import FREE, is_among
from kdaug_jax.experiment.rows import Cell, Row

# What the names of rows and cells may hold: they are names of directories.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHORT = {"table": "", "figure": "fig", "section": "sec"}


class Experiment(NamedTuple):
    """A config file of a paper.

    Attributes:
      name: of the file, without ".py".
      file: its path, as `--config` takes it.
      paper: number of the paper, or name of the work.
      title: first line of the docstring.
      rows: of the printed tables.
      cells: the experiments of several runs, by name.
      figures: names of such experiments, or commands, by figure of the paper.
      get_config: makes the config of some options.
    """

    name: str
    file: str
    paper: str
    title: str
    rows: tuple[Row, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    figures: Mapping[str, str]
    get_config: Callable[[str], Any]


class Entry(NamedTuple):
    """A row of a printed table, and its experiment."""

    experiment: Experiment
    row: Row

    @property
    def address(self) -> str:
        """Its name for commands: `000.1.ROW` of Table 1 of paper 000."""
        return f"{self.experiment.paper}.{table_keys(self.row.table)[0]}.{self.row.name}"


class Several(NamedTuple):
    """An experiment of several runs, and the config file that lists them."""

    experiment: Experiment
    name: str
    cells: tuple[Cell, ...]


def table_keys(table: str) -> tuple[str, ...]:
    """Returns the names of a table within a paper, the shortest first.

    "Table 1" is "1" and "table1", "Figure 2" "fig2" and "figure2", "Section 3.4" "sec3.4".
    """
    words = table.casefold().split()
    joined = "".join(words)
    if len(words) < 2 or words[0] not in _SHORT:
        return (joined,)
    return (_SHORT[words[0]] + "".join(words[1:]), joined)


def load_experiments(folder: Path) -> tuple[Experiment, ...]:
    """Reads what the config files of a folder say about papers; files that say nothing are left.

    Args:
      folder: of config files, which are executed.

    Raises:
      ConfigError: there is no such folder, a file cannot be executed, or it names rows wrongly.
    """
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    if not files:
        raise ConfigError("--configs", f"{folder} holds no config files",
                          "run this in the folder that holds main.py, or name another one")
    return tuple(filter(None, map(_load, files)))


def _load(file: Path) -> Experiment | None:
    try:
        with registry.importable(file):
            names = runpy.run_path(str(file))
    except Exception as error:  # a config file is a program and may fail in any way
        raise command_line.explain(error, ["--config", str(file)]) from error
    if "PAPER" not in names:
        return None
    title = (names.get("__doc__") or "").strip().partition("\n")[0]
    experiment = Experiment(
        file.stem, str(file), str(names["PAPER"]), title, names.get("ROWS", ()),
        names.get("CELLS", {}), names.get("FIGURES", {}), names.get("get_config"),
    )
    _check(experiment)
    return experiment


def _check(experiment: Experiment) -> None:
    def refuse(what: str, remedy: str) -> None:
        raise ConfigError(experiment.file, what, remedy)

    rows, cells = experiment.rows, experiment.cells
    if not isinstance(rows, tuple) or not all(isinstance(row, Row) for row in rows):
        refuse("has ROWS that are no Row", "write ROWS = (Row(...), ...)")
    if not isinstance(cells, Mapping) or not all(
        isinstance(cell, Cell) for listed in cells.values() for cell in listed
    ):
        refuse("has CELLS that are no Cell", "write CELLS = {name: (Cell(...), ...)}")
    figures = experiment.figures
    if not isinstance(figures, Mapping) or not all(isinstance(known, str) for known in
                                                   figures.values()):
        refuse("has FIGURES that are no texts", "write FIGURES = {'Figure 1': 'name in CELLS'}")
    for where, items in (("ROWS", rows), *((f"CELLS[{name!r}]", cells[name]) for name in cells)):
        names = [item.name for item in items]
        for name in names:
            if not _NAME.fullmatch(name) or names.count(name) > 1:
                refuse(f"{where} has the name '{name}', which is no name of its own",
                       "name each once, with letters, digits, '-', '_' and '.'")
    for row in rows:
        if row.options is None and not row.note:
            refuse(f"row {row.name} cannot be run and does not say why", "give it a note")


def entries_of(experiments: Sequence[Experiment]) -> list[Entry]:
    """Returns the rows of experiments, by paper and in the order of their files."""
    entries = [Entry(experiment, row) for experiment in experiments for row in experiment.rows]
    return sorted(entries, key=lambda entry: entry.experiment.paper)


def _names(entry: Entry) -> set[str]:
    """Returns what a row may be called; all but the full names are shared with other rows."""
    experiment, row = entry
    fronts = (experiment.paper, experiment.name)
    tables = [f"{front}.{key}" for front in fronts for key in table_keys(row.table)]
    names = [*fronts, *tables, *(f"{front}.{row.name}" for front in (*fronts, *tables)), row.name]
    return {name.casefold() for name in names}


def find_rows(experiments: Sequence[Experiment], name: str) -> list[Entry]:
    """Returns the rows that a name stands for, [] if there are none.

    Args:
      experiments: of `load_experiments`.
      name: of a paper ("000"), a table of it ("000.1", "000.fig2"), a row ("000.1.ROW", or "ROW"),
        or a config file with or without a row of it; "" for all rows.
    """
    wanted = name.casefold()
    return [entry for entry in entries_of(experiments) if not name or wanted in _names(entry)]


def option_set(options: str) -> frozenset[str]:
    """Returns the options of a config file in no order: "a" is "a=True"."""
    parts = (part.strip() for part in options.split(","))
    return frozenset(part.removesuffix("=True") for part in parts if part)


def with_options(options: str, smoke: bool) -> str:
    """Returns options of a config file with or without the smoke form."""
    return ",".join(filter(None, (options, "smoke" if smoke else "")))


def config_of(experiment: Experiment, options: str) -> dict[str, Any]:
    """Returns the complete config of an experiment with options."""
    return configs.validate(configs.plain(experiment.get_config(options)))


def trainings(experiment: Experiment) -> dict[str, tuple[Entry, ...]]:
    """Returns for the name of each row the rows that its training makes too, in their order.

    These differ at most in what is measured, as tables that repeat each other do. Rows that are
    only quoted have none.
    """
    keys: dict[str, str] = {}
    groups: dict[str, list[Entry]] = {}
    for row in experiment.rows:
        if row.options is None:
            continue
        if row.options not in keys:
            flat = configs.flatten(configs.canonical(config_of(experiment, row.options)))
            keys[row.options] = configs.fingerprint({
                path: value for path, value in flat.items() if not is_among(path, (*FREE, "eval.*"))
            })
        groups.setdefault(keys[row.options], []).append(Entry(experiment, row))
    return {
        row.name: tuple(groups[keys[row.options]]) for row in experiment.rows
        if row.options is not None
    }


def find_several(experiments: Sequence[Experiment], name: str) -> Several | None:
    """Returns the experiment of several runs of a name, None if there is none."""
    for experiment in experiments:
        figures = [known for key, known in _figures_of(experiment) if key == name.casefold()]
        for known, cells in experiment.cells.items():
            if known.casefold() == name.casefold() or known in figures:
                return Several(experiment, known, tuple(cells))
    return None


def find_drawings(experiments: Sequence[Experiment], name: str) -> dict[str, str]:
    """Returns the commands that draw figures, by their short names, `{}` if there are none.

    Args:
      experiments: of `load_experiments`.
      name: see `find_rows`.
    """
    drawings = {}
    for experiment in experiments:
        for figure, command in experiment.figures.items():
            names = {key for key, known in _figures_of(experiment) if known == command}
            names |= {experiment.paper, experiment.name}
            if command not in experiment.cells and (not name or name.casefold() in names):
                drawings[f"{experiment.paper}.{table_keys(figure)[0]}"] = command
    return drawings


def _figures_of(experiment: Experiment) -> list[tuple[str, str]]:
    """Returns names of figures, and the experiment or command of each."""
    return [
        (f"{front}.{key}".casefold(), known) for figure, known in experiment.figures.items()
        for front in (experiment.paper, experiment.name) for key in table_keys(figure)
    ]


def unknown(experiments: Sequence[Experiment], name: str) -> ConfigError:
    """Returns the error of a name that stands for nothing, with the nearest names."""
    known = {known for entry in entries_of(experiments) for known in _names(entry)}
    known |= {several for experiment in experiments for several in experiment.cells}
    known |= {name for experiment in experiments for name, _ in _figures_of(experiment)}
    if not known:
        return ConfigError(name, "there is no such row: no config file has any",
                           "name another folder by --configs")
    remedy = suggest(name.casefold(), known)
    if not remedy.startswith("did you mean"):
        papers = sorted({experiment.paper for experiment in experiments})
        remedy = f"see the command list; papers: {', '.join(papers)}"
    return ConfigError(name, "there is no such paper, table, row or experiment", remedy)
