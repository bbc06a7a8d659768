"""Finds, runs and tabulates the rows of the papers: `python -m kdaug_jax.catalog COMMAND`.

A row is named as the paper has it: `000.1` is Table 1 of paper 000, `000.fig2` its Figure 2,
`000.1.ROW` one row; the name of a config file or of an experiment of several runs serves as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kdaug_jax.catalog import jobs as job_lists
from kdaug_jax.catalog import records, running, tables
from kdaug_jax.catalog.counting import count_of
from kdaug_jax.catalog.experiments import (
    Entry,
    Experiment,
    Several,
    find_drawings,
    find_rows,
    find_several,
    load_experiments,
    unknown,
)
from kdaug_jax.catalog.jobs import Job
from kdaug_jax.errors import ConfigError, UserError, suggest
from kdaug_jax.experiment import command_line
from kdaug_jax.runtime import commands, workdir
from kdaug_jax.runtime.console import table, write_lines


def parser() -> commands.Parser:
    """Returns the parser of the command line."""
    main_parser = commands.Parser(
        prog="catalog", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = main_parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    texts = {
        "list": "rows of a paper, a table or a config file, or all, and what was run of them",
        "show": "what a row or an experiment is",
        "command": "the command lines of a row or an experiment, to copy",
        "run": "run a row, a table or an experiment, one run after another; again to go on",
        "table": "what the paper prints beside what was measured",
        "record": "record finished runs that were made elsewhere",
        "results": "print docs/results.md",
    }
    for name, text in texts.items():
        command = kinds.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--configs", default="configs", help="folder of the config files")
        command.add_argument("--results", default="results", help="folder of the records")
        if name == "record":
            command.add_argument("workdir", nargs="+", help="working directory of a finished run")
            command.add_argument("--row", help="row that they are of, where their commands do not "
                                  "say so")
            command.add_argument("--variation", action="store_true", help="record also what "
                                  "differs from the row in more than size, length and data")
        elif name != "results":
            command.add_argument("name", nargs="?" if name == "list" else None, default="",
                                  help="such as 000, 000.1, 000.fig2, 000.1.ROW or a config file")
        if name in ("run", "command", "table"):
            command.add_argument("--dir", default="", help="folder of the runs; by default "
                                  "runs/<experiment>")
            command.add_argument("--seeds", type=_seeds, default=(), help="such as 0,1,2: a run "
                                  "for each")
            command.add_argument("--smoke", action="store_true", help="the smoke form: made-up "
                                  "data, seconds")
        if name == "run":
            command.add_argument("--dry-run", action="store_true", help="print the commands only")
    return main_parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError("numbers such as 0,1,2") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status; `run` that of a run that did not end."""
    options, passed = parser().parse_known_args(argv)
    try:
        _check_passed(options, passed)
        return COMMANDS[options.what](options, passed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _check_passed(options: argparse.Namespace, passed: Sequence[str]) -> None:
    """Raises ConfigError for a word that neither this command nor main.py knows."""
    values = flags.FlagValues()
    command_line.define_flags(values)
    names = set(values) - {"workdir"} if options.what in ("run", "command") else set()
    before = "="
    for word in passed:
        name = word.removeprefix("--").partition("=")[0]
        of_value = not word.startswith("--") and "=" not in before
        known = names and (name.startswith("config.") or name.removeprefix("no") in names
                           or name in names)
        if not known and not (of_value and names):
            near = suggest(f"--{name}", [
                "--" + option.replace("_", "-") for option in vars(options)
                if option not in ("what", "name")
            ]) if names else f"see {options.what} --help"
            raise ConfigError("command line", f"does not know '{word}'", near)
        before = word if word.startswith("--") else "="


def _experiments(options: argparse.Namespace) -> tuple[Experiment, ...]:
    return load_experiments(Path(options.configs))


def _named(options: argparse.Namespace) -> tuple[list[Entry], Several | None]:
    """Returns the rows and the experiment that a name stands for; one of them is something."""
    experiments = _experiments(options)
    several = find_several(experiments, options.name) if options.name else None
    entries = find_rows(experiments, options.name)
    if not entries and several is None and not (
        options.what in ("list", "show") and find_drawings(experiments, options.name)
    ):
        if not options.name:
            raise ConfigError("--configs", f"no file of {options.configs} has rows",
                              "name another folder")
        raise unknown(experiments, options.name)
    return entries, several


def _jobs(options: argparse.Namespace, passed: Sequence[str]) -> list[Job]:
    """Returns the runs of a name: of its cells, or of its rows."""
    entries, several = _named(options)
    more = dict(smoke=options.smoke, seeds=options.seeds, passed=passed)
    if several is not None:
        return job_lists.jobs_of_cells(several, options.dir, **more)
    runs = job_lists.jobs_of_rows(entries, options.dir, **more)
    if not runs:
        notes = "; ".join(dict.fromkeys(entry.row.note for entry in entries))
        raise ConfigError(options.name, f"is only quoted by the paper and cannot be run ({notes})",
                          "see the command list for rows that can")
    return runs


def _main_file(options: argparse.Namespace) -> Path:
    file = Path(options.configs).parent / "main.py"
    if not file.is_file():
        raise ConfigError("--configs", f"there is no {file} beside {options.configs}",
                          "run this in the folder that holds main.py")
    return file


def list_command(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Prints a line for each row."""
    entries, several = _named(options)
    if entries:
        write_lines(*table(tables.list_table(entries, Path(options.results))).split("\n"))
    experiments = {entry.experiment.name: entry.experiment for entry in entries}
    if several is not None:
        experiments.setdefault(several.experiment.name, several.experiment)
    for experiment in experiments.values():
        for name, cells in experiment.cells.items():
            figures = "".join(f", {figure} of paper {experiment.paper}" for figure, known
                              in experiment.figures.items() if known == name)
            write_lines(f"{name}: an experiment of {len(cells)} runs, {experiment.file}{figures}")
    for address, command in find_drawings(_experiments(options), options.name).items():
        write_lines(f"{address}: {command}")
    return 0


def show_command(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Prints what rows or an experiment are."""
    entries, several = _named(options)
    for address, command in find_drawings(_experiments(options), options.name).items():
        write_lines(f"{address}: {command}")
    if several is not None:
        rows = [("cell", "options", "overrides")]
        rows += [(cell.name, cell.options or "(default)", " ".join(
            f"{path}={value}" for path, value in cell.overrides.items()
        )) for cell in several.cells]
        write_lines(f"{several.name}: {several.experiment.title}", f"in {several.experiment.file}",
                    *table(rows).split("\n"))
    for entry in entries:
        experiment, row = entry
        lines = [
            f"{entry.address}: paper {experiment.paper}, {row.table}", f"  {experiment.title}",
            f"  config   {experiment.file}" + (f":{row.options}" if row.options else ""),
        ]
        if row.options is None:
            lines[-1] = f"  {tables.QUOTED}"
        for name, value in row.figures.items():
            spread = f" ± {row.spread[name]:g}" if name in row.spread else ""
            lines.append(f"  {name.ljust(8)} {value:g}{spread}")
        if not row.figures:
            lines.append("  the paper prints no figure for it")
        if row.note:
            lines.append(f"  note     {row.note}")
        write_lines(*lines)
    return 0


def command_command(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Prints the command line of each run."""
    main_file = _main_file(options)
    for job in _jobs(options, passed):
        print(job_lists.shell_line(job, main_file))
    return 0


def run_command(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Runs what is not finished, records rows, and prints their table."""
    main_file, runs = _main_file(options), _jobs(options, passed)

    def finished(job: Job) -> int:
        wanted = {} if options.smoke else {entry.row.name: words for entry, words in job.wanted}
        otherwise = any(word.startswith("--config.eval.") for word in passed)
        for entry in () if options.smoke else job.rows:
            if not otherwise and not records.is_measured(job.directory, entry):
                if entry.row.name not in wanted:
                    continue
                write_lines(f"--- measuring {entry.address} in {job.directory}")
                if status := running.run_words(wanted[entry.row.name], main_file):
                    return status
            try:
                _record(job.directory, entry, options, variation=False)
            except ConfigError as error:
                write_lines(f"not recorded: {error}")
        return 0

    if options.dry_run:
        plan = count_of(runs)
        write_lines(f"--- {plan.trainings} networks are trained: {plan.runs} runs, and "
                    f"{plan.teachers - plan.both} teachers that are no run of these")
    status = running.run_jobs(runs, main_file, write_lines, dry_run=options.dry_run,
                              finished=finished)
    if status == 0 and not options.dry_run:
        return table_command(options, passed)
    return status


def table_command(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Prints the paper's figures beside ours."""
    entries, several = _named(options)
    if several is not None:
        runs = job_lists.jobs_of_cells(
            several, options.dir, smoke=options.smoke, seeds=options.seeds
        )
        lines = tables.cells_table(several, runs)
    else:
        lines = tables.rows_table(entries, Path(options.results))
    write_lines(*table(lines).split("\n"), tables.LEGEND)
    return 0


def record_command(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Records finished runs."""
    experiments = _experiments(options)
    for name in options.workdir:
        directory = workdir.place("workdir", name)
        records.read_finished(directory)
        if options.row:
            entries = find_rows(experiments, options.row)
            if not entries:
                raise unknown(experiments, options.row)
            if len(entries) > 1:
                # A paper's rows in several files may share their names, those of a file do not.
                names = ", ".join(
                    f"{entry.experiment.name}.{entry.row.name}" for entry in entries[:5]
                )
                raise ConfigError("--row", f"'{options.row}' names {len(entries)} rows",
                                  f"name one of them: {names}")
        else:
            entries = records.rows_of_run(experiments, directory)
        for entry in entries:
            _record(directory, entry, options, variation=options.variation)
    return 0


def _record(
    directory: Path, entry: Entry, options: argparse.Namespace, *, variation: bool
) -> None:
    record = records.make_record(directory, entry, variation=variation)
    file = records.write_record(Path(options.results), record)
    kind = "" if record["kind"] == records.ROW else f" ({record['kind']}: not compared)"
    write_lines(f"recorded {entry.address}{kind}: {file}")


def results_command(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Prints docs/results.md."""
    print(tables.results_document(_experiments(options), Path(options.results)), end="")
    return 0


COMMANDS = {
    "list": list_command, "show": show_command, "command": command_command, "run": run_command,
    "table": table_command, "record": record_command, "results": results_command,
}


if __name__ == "__main__":
    commands.run(main)
