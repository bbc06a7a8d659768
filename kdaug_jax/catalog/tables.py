"""Tables of what papers print beside what was measured here, for the console and as Markdown."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdaug_jax.catalog.experiments import Entry, Experiment, Several, entries_of
from kdaug_jax.catalog.jobs import Job
from kdaug_jax.catalog.records import (
    ROW,
    SMOKE,
    STAND_IN,
    make_cell_record,
    read_records,
)
from kdaug_jax.catalog.running import state_of
from kdaug_jax.experiment.rows import in_percent

HEADINGS = ("row", "measure", "paper", "ours", "difference", "runs", "best epoch", "device-hours",
            "teachers'", "note")
LEGEND = (
    "paper ± printed deviation; ours: mean ± standard deviation over runs (n − 1) of the row's own "
    "config, last epoch; best epoch: best evaluation during a run and its epoch; device-hours: "
    "median step time × steps × devices of a run, without compilation and evaluation; teachers': "
    "the same of the teachers that a run trained or shared, empty where unknown"
)
QUOTED = "quoted, not runnable"
LONGEST = 22  # letters of the figures in a list, so that it fits into 100 columns
INTRODUCTION = """\
# Results

Made by `python -m kdaug_jax.catalog results` from the records in `results/`; edit neither by hand.
A row stands here once a run of it is recorded. Runs on another data set (stand-ins), scaled down or
of the smoke form say nothing about a paper's figure: they stand in the last column, never under
"ours".
"""


def rows_table(entries: Sequence[Entry], results: Path) -> list[tuple[str, ...]]:
    """Returns the lines of a table of rows, the headings first; empty where nothing was run.

    Args:
      entries: rows.
      results: folder of the records.
    """
    lines = [HEADINGS]
    for entry in entries:
        lines += row_lines(entry, read_records(results, entry))
    return lines


def row_lines(entry: Entry, records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the lines of one row: one for each measure, then one for each other run.

    Args:
      entry: the row.
      records: of its runs.
    """
    row = entry.row
    counted = [record for record in records if record["kind"] == ROW]
    teachers = sorted({teacher for record in counted for teacher in record["teachers"]})
    sizes = sorted({batch_norm(record) for record in counted})
    precisions = sorted({record.get("precision", "") for record in counted} - {"", "float32"})
    notes = [row.note, *(f"teacher: {teacher}" for teacher in teachers), *sizes, *precisions]
    lines = []
    for measure in row.figures or {"accuracy": None}:
        name = entry.address if not lines else ""
        note = "; ".join(filter(None, notes)) if not lines else ""
        note = f"{QUOTED}: {note}" if row.options is None and not lines else note
        lines.append((
            name, measure, _printed(measure, row.figures.get(measure), row.spread.get(measure)),
            *_ours(measure, row.figures.get(measure), counted), note,
        ))
    for record in records:
        if record["kind"] != ROW:
            lines.append((*[""] * (len(HEADINGS) - 1), other_run(record)))
    return lines


def _ours(
    measure: str, figure: float | None, records: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Returns ours, difference, runs, best epoch and both costs of a measure as texts."""
    runs = [run for record in records for run in record["runs"]]
    values = [run["last"][measure] for run in runs if measure in run["last"]]
    costs = [_hours(records, name) for name in ("device_hours", "teacher_device_hours")]
    if not values:  # as of a printed cost
        return ("",) * 4 + tuple(costs)
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    difference = "" if figure is None else _number(measure, mean - figure, sign=True)
    return (
        _printed(measure, mean, deviation, exact=True), difference, str(len(values)),
        _best([run.get("best", {}) for run in runs]),
        *costs,
    )


def _hours(records: Sequence[Mapping[str, Any]], name: str) -> str:
    """Returns the mean of a cost over the records that have it."""
    known = [record["cost"][name] for record in records if name in record["cost"]]
    return f"{statistics.fmean(known):.3g}" if known else ""


def batch_norm(record: Mapping[str, Any]) -> str:
    """Returns over how many images BatchNorm was computed, "" where as many as in the recipe."""
    sizes = record.get("batch_norm")
    if not sizes:
        return ""
    return f"BatchNorm over {sizes['images']:,} images, recipe {sizes['recipe']:,}"


def _best(bests: Sequence[Mapping[str, Any]]) -> str:
    """Returns the mean of the best evaluations as "76.10 (238), test"."""
    bests = [best for best in bests if best]
    if not bests:
        return ""
    accuracy = statistics.fmean(best["accuracy"] for best in bests)
    epochs = "/".join(f"{best['epoch']:g}" for best in bests)
    return f"{accuracy:.2f} ({epochs}), {bests[0]['split']}"


def other_run(record: Mapping[str, Any]) -> str:
    """Returns in one text what a run measured that is not of the row's own config, and why."""
    values = ", ".join(
        f"{measure} " + _printed(measure, statistics.fmean(known), (
            statistics.stdev(known) if len(known) > 1 else None), exact=True)
        for measure, known in _by_measure(record["runs"]).items()
    )
    kinds = {STAND_IN: f"stand-in: {record['data']}", SMOKE: "smoke form"}
    kind = kinds.get(record["kind"], record["kind"])
    epochs = record["runs"][0].get("epochs")
    length = f", {epochs:g} epochs" if epochs else ""
    count = f", {len(record['runs'])} runs" if len(record["runs"]) > 1 else ""
    hours = record["cost"].get("device_hours")
    cost = f"{hours:.3g} device-hours" if hours else ""
    taught = record["cost"].get("teacher_device_hours")
    cost += f" (teachers' {taught:.3g})" if cost and taught else ""
    about = "; ".join(filter(None, (values, cost, batch_norm(record))))
    return f"[{kind}{length}{count}] {about}"


def _by_measure(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for run in runs:
        for measure, value in run["last"].items():
            values.setdefault(measure, []).append(value)
    return values


def _printed(
    measure: str, value: float | None, deviation: float | None, exact: bool = False
) -> str:
    """Returns a value with its deviation: as it is, or with the digits of its measure."""
    if value is None:
        return ""
    number: Callable[[float], str] = (
        (lambda each: _number(measure, each)) if exact else (lambda each: f"{each:g}")
    )
    text = number(value) if deviation is None else f"{number(value)} ± {number(deviation)}"
    return f"{text} %" if in_percent(measure) and exact else text


def _number(measure: str, value: float, sign: bool = False) -> str:
    digits = 2 if in_percent(measure) else 4
    return f"{value:{'+' if sign else ''}.{digits}f}"


def shortened(text: str) -> str:
    """Returns a text that is no longer than a column of a list."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 3]}..."


def list_table(entries: Sequence[Entry], results: Path) -> list[tuple[str, ...]]:
    """Returns the lines of a list of rows: name, figures, and what was run.

    Its options and its note are what the command show prints: they do not fit into a terminal.
    """
    lines = [("row", "paper", "state")]
    for entry in entries:
        row = entry.row
        figures = ", ".join(f"{name} {_printed(name, value, row.spread.get(name))}"
                            for name, value in row.figures.items())
        if row.options is None:
            state = QUOTED
        else:
            kinds = [record["kind"] for record in read_records(results, entry)]
            count = kinds.count(ROW)
            others = sorted({kind for kind in kinds if kind != ROW})
            state = f"{count} run{'s' * (count > 1)}" if count else "not run"
            state += f" ({', '.join(others)})" if others else ""
        lines.append((entry.address, shortened(figures), state))
    return lines


def cells_table(several: Several, jobs: Sequence[Job]) -> list[tuple[str, ...]]:
    """Returns the lines of a table of an experiment of several runs, from their directories.

    Args:
      several: the experiment.
      jobs: of its cells, see `jobs.jobs_of_cells`.
    """
    rows = {row.options: row for row in several.experiment.rows if row.options is not None}
    options = {cell.name: cell.options for cell in several.cells if not cell.overrides}
    lines = [HEADINGS]
    for job in jobs:
        row = rows.get(options.get(job.name))
        figures = row.figures if row else {}
        state = state_of(job.directory)
        record = None
        if state == "finished":
            record = make_cell_record(several.experiment, job, figures)
        counted = [record] if record and record["kind"] == ROW else []
        for number, measure in enumerate(figures or {"accuracy": None}):
            note = ""
            if not number:
                about = batch_norm(record) if counted else other_run(record) if record else ""
                note = about if state == "finished" else state
            spread = row.spread.get(measure) if row else None
            lines.append((
                "" if number else str(job.directory), measure,
                _printed(measure, figures.get(measure), spread),
                *_ours(measure, figures.get(measure), counted), note,
            ))
    return lines


def results_document(experiments: Sequence[Experiment], results: Path) -> str:
    """Returns the text of docs/results.md: the rows that have records, by paper and table."""
    parts = [INTRODUCTION]
    recorded = [(entry, records) for entry in entries_of(experiments)
                if (records := read_records(results, entry))]
    if not recorded:
        parts.append("No run is recorded yet.\n")
    for paper, group in itertools.groupby(recorded, lambda pair: pair[0].experiment.paper):
        parts.append(f"## {paper}\n")
        known = list(group)
        rows = [line for entry, records in known for line in row_lines(entry, records)]
        lines = [HEADINGS, *rows]
        parts.append(_markdown(lines))
        parts.append("Runs:\n")
        parts += [_provenance(entry, record) for entry, records in known for record in records]
        parts.append("")
    return "\n".join([*parts, f"{LEGEND[0].upper()}{LEGEND[1:]}.\n"])


def _provenance(entry: Entry, record: Mapping[str, Any]) -> str:
    hardware = record["hardware"]
    changed = "; ".join(record["changed"])
    return (
        f"- {entry.address}, {record['kind']}: `{record['command']}`; commit "
        f"{record['commit'] or 'not recorded'}; {hardware.get('devices')} × "
        f"{hardware.get('device')}" + (f"; changed: `{changed}`" if changed else "")
    )


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = [[text.replace("|", "\\|") for text in line] for line in lines]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
