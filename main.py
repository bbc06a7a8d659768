"""Runs one experiment: `python main.py --config=configs/digits_kd.py --workdir=runs/digits_kd`."""

if __name__ == "__main__":
    from kdaug_jax.runtime import streams

    streams.prepare()

import sys

from absl import flags
from ml_collections import config_flags

from kdaug_jax import files
from kdaug_jax.compile.run import compile_with_flags
from kdaug_jax.deploy import export
from kdaug_jax.errors import UserError
from kdaug_jax.evaluation.evaluate_run import as_recorded, evaluate_run
from kdaug_jax.experiment import command_line
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import agreement, compile_cache, processes, sharding, signals
from kdaug_jax.search.run import run
from kdaug_jax.training import preview


def parse() -> flags.FlagValues:
    """Parses the command line; an error in it becomes a ConfigError."""
    argv, values = sys.argv, flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "Config file[:options].", flag_values=values)
    command_line.define_flags(values)
    if {"--help", "-h"} & set(argv):
        raise SystemExit(f"{__doc__}\n{values.get_help()}")
    try:
        rest = values(argv)  # config_flags looks for overrides in sys.argv and nowhere else
        given = command_line.configured(values)
    except BaseException as error:  # a config file may raise anything
        raise command_line.explain(error, argv) from error
    if given is None:
        raise command_line.no_config(argv)
    command_line.check_flags(values, values.mode or given.get("mode", "train"), rest[1:])
    return values


def main() -> int:
    """Runs what the command line asks for and returns the exit status."""
    try:
        joined = command_line.joined(sys.argv)
        with files.refusals(), signals.handled("nothing was being trained"), joined:
            given = parse()
            directory, mode = given.workdir, {"mode": given.mode} if given.mode else {}
            full = configs.validate({**configs.plain(given.config), **mode})
            if given.print_config:
                return command_line.print_config(full)
            compile_cache.use()
            full = as_recorded(full, given.workdir) if full["mode"] == "evaluate" else full
            agreement.agree()
            batch = full["data"]["batch_size"] // processes.count()
            allow, train, group = given.allow_config_change, full["train"], full["mesh"]["model"]
            sharding.use_host_cores(batch, train["replica_batch_size"], train["accumulate"], group)
            checks = dict(allow_config_change=allow, verify_data=given.verify_data)
            if full["mode"] == "evaluate":
                evaluate_run(full, directory, **checks, **command_line.evaluated(given))
            elif full["mode"] == "preview":
                preview.preview(full, directory)
            elif full["mode"] == "export":
                export.export_run(directory, verify_data=given.verify_data)
            elif full["mode"] == "compile":
                compile_with_flags(full, given)
            else:
                run(full, directory, **checks)
    except UserError as error:
        return command_line.end_with(error)
    except KeyboardInterrupt:
        print("interrupted: run again to resume from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    processes.end(main)
