"""Writes a network's weights for PyTorch: `python -m kdaug_jax.models.export_weights`.

    python -m kdaug_jax.models.export_weights --from=runs/digits_kd --to=student.safetensors

The file holds the names and the layout of the network's original (torchvision's, timm's,
RepDistiller's, ...), so `load_state_dict(safetensors.torch.load_file(FILE), strict=True)` takes it.
Its metadata hold the card that `import_weights` reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kdaug_jax.errors import ConfigError, UserError
from kdaug_jax.experiment.frozen.standalone import load_one
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.models.foreign.layouts import layout_of
from kdaug_jax.models.weights import to_torch
from kdaug_jax.runtime import workdir


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="export_weights", description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="source", required=True, help="working or teacher directory")
    parser.add_argument("--to", required=True, type=Path, help="safetensors file to write")
    parser.add_argument("--network", default="", help="of a run; by default the student")
    parser.add_argument("--member", type=int, default=0, help="which run of a population")
    parser.add_argument("--branch", type=int, default=0, help="BatchNorm branch")
    parser.add_argument("--training_branch", action="store_true", help="allow --branch above 0")
    options = parser.parse_args(argv)
    try:
        target = workdir.place("--to", options.to)
        if target.exists() or not target.parent.is_dir():
            what = "is there already" if target.exists() else "lies in no folder"
            raise ConfigError("--to", f"{target} {what}", "name another file")
        loaded = load_one(
            options.source, network=options.network, member=options.member, branch=options.branch,
            training_branch=options.training_branch, say=lambda line: print(line, file=sys.stderr),
        )
        arrays = to_torch(loaded.variables)
        card = json.dumps(dataclasses.asdict(loaded.card), sort_keys=True)
        safetensors_file.write(target, arrays, {"format": "pt", "kdaug_jax": card})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    layout = layout_of(loaded.card.arch).name
    print(f"{target}: {len(arrays)} arrays of {loaded.card.arch}, names as in {layout}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
