"""Writes a network's weights for PyTorch: `python -m kdaug_jax.models.export_weights`.

    python -m kdaug_jax.models.export_weights --from=runs/digits_kd --to=student.safetensors

The file holds the names and the layout of the network's original (torchvision's, timm's,
RepDistiller's, ...), so `load_state_dict(safetensors.torch.load_file(FILE), strict=True)` takes it.
Its metadata hold the card that `import_weights` reads.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from kdaug_jax import registry
from kdaug_jax.errors import ConfigError, UserError
from kdaug_jax.experiment.frozen.standalone import Loaded, load_one
from kdaug_jax.models import pack
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.models.foreign.carded import with_card
from kdaug_jax.models.foreign.layouts import layout_of, unlike_original, variant_named
from kdaug_jax.models.layers import FULL
from kdaug_jax.models.variables import flatten, unflatten
from kdaug_jax.models.weights import to_torch
from kdaug_jax.runtime import commands, workdir
from kdaug_jax.runtime.console import write_lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = commands.Parser(prog="export_weights", description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="source", required=True,
                        help="working or teacher directory; DIR@best, DIR@STEP, DIR@MEMBER")
    parser.add_argument("--to", required=True, type=Path, help="safetensors file to write")
    parser.add_argument("--network", default="", help="of a run; by default the student")
    parser.add_argument("--member", default=None, help="name or number in a sweep")
    parser.add_argument("--branch", type=int, default=None,
                        help="BatchNorm branch; by default the one that the run selected")
    parser.add_argument("--allow_imports", action="store_true",
                        help="import the module of a network that is not this package's")
    low = parser.add_mutually_exclusive_group()
    low.add_argument("--latent", action="store_true",
                     help="write weights of a network whose arithmetic PyTorch's has not")
    low.add_argument("--rounded", action="store_true",
                     help="write the rounded kernels of a network of few bits")
    options = parser.parse_args(argv)
    try:
        target = workdir.place("--to", options.to)
        if target.exists() or not target.parent.is_dir():
            what = "is there already" if target.exists() else "lies in no folder"
            raise ConfigError("--to", f"{target} {what}", "name another file")
        with registry.importing(options.allow_imports):
            loaded = load_one(
                options.source, network=options.network, member=options.member,
                branch=options.branch, say=lambda line: write_lines(line, stream=sys.stderr),
            )
        loaded, notes = _plain(loaded, options.latent, options.rounded)
        arrays = to_torch(loaded.variables)
        metadata = with_card({"format": "pt"}, loaded.card, arrays)
        safetensors_file.write(target, arrays, metadata)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    layout = layout_of(loaded.card.arch).name
    write_lines(
        f"{target}: {len(arrays)} arrays of {loaded.card.arch}, names as in {layout}"
        + variant_named(loaded.card.arch, loaded.card.options), loaded.state, *notes,
    )
    return 0


def _plain(loaded: Loaded, latent: bool, rounded: bool) -> tuple[Loaded, list[str]]:
    """Returns the network whose weights go out, and lines on what its file does not say.

    Raises:
      ConfigError: plain weights would load into a network of other arithmetic.
    """
    card, notes = loaded.card, []
    other = unlike_original(card.arch, card.options)
    if card.precision != "float32":
        notes.append(f"the weights are float32; the run computes in {card.precision}")
    if card.view:
        notes.append(f"images go through {card.view} before the network")
    if not other:
        if latent or rounded:
            flag = "--latent" if latent else "--rounded"
            raise ConfigError(flag, "is for networks of few bits", "leave it out")
        return loaded, notes
    shown = ", ".join(f"{name}={value}" for name, value in other.items())
    if rounded and "bits" in other:
        bits = pack.quantized_kernels(loaded.model, loaded.variables, card.size)
        leaves = flatten(loaded.variables)
        variables = unflatten({
            path: pack.round_kernel(leaf, bits[path]) if path in bits else leaf
            for path, leaf in leaves.items()
        })
        options = {**card.options, "bits": (FULL, card.options["bits"][1])}
        notes.append(
            f"kernels are rounded; activations of {card.options['bits'][1]} bits need a module "
            "that rounds them too"
        )
        card = dataclasses.replace(card, options=options)
        return loaded._replace(card=card, variables=variables), notes
    if latent:
        notes.append(f"PyTorch's network of that name has not {shown}: it would answer otherwise")
        return loaded, notes
    raise ConfigError(
        "--from", f"is a network with {shown}, which plain weights do not say: another network "
        "would load them without a word",
        "--latent writes them all the same" + (", --rounded the rounded kernels" if "bits" in other
        else ""),
    )


if __name__ == "__main__":
    commands.run(main)
