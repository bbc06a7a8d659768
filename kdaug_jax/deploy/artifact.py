"""The directory that deploys a network: its files, how they are written and read.

`model.stablehlo`: `jax.export`'s form of f(image u8[b,H,W,3]) -> logits f32[b,C], for any batch b,
on CPU, CUDA and TPU; normalisation and the view of evaluation are inside.
`model.json`: the card; classes and their names, image size, architecture, which state of which run
it is, SHA-256 of the function.
`weights.safetensors`: the weights in PyTorch's names, unless they are quantised.
`packed.safetensors`: of a quantised network, the rounded kernels in as many bits as they have.
`sizes.json`: bytes of each file and of each kind of weights; nothing is read from it.

The function and the files of weights also hold the card inside, with a checksum.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.experiment.frozen import functions
from kdaug_jax.experiment.frozen.functions import FUNCTION, FUNCTION_CARD
from kdaug_jax.experiment.frozen.standalone import Loaded
from kdaug_jax.models import pack
from kdaug_jax.models.fold import fold_batchnorm
from kdaug_jax.models.foreign import opened, safetensors_file
from kdaug_jax.models.foreign.carded import with_card
from kdaug_jax.models.layers import FULL
from kdaug_jax.models.model import Model
from kdaug_jax.models.variables import flatten, unflatten
from kdaug_jax.models.weights import to_torch
from kdaug_jax.runtime import model_card, platform, workdir
from kdaug_jax.runtime.console import table as aligned
from kdaug_jax.runtime.digest import sha256_file

WEIGHTS, PACKED, SIZES = "weights.safetensors", "packed.safetensors", "sizes.json"
PLATFORMS = ("cpu", "cuda", "tpu")


def logits_function(
    model: Model, variables: Mapping[str, Any], view: str, mean: tuple[float, ...]
) -> Callable[[jax.Array], jax.Array]:
    """Returns a network as a function of stored images.

    Args:
      model: the network.
      variables: its variables.
      view: applied to images before the network, see `eval.view`; empty for nothing.
      mean: the colour of `fill="mean"`, in pixel units.

    Returns:
      `f(image u8[b,H,W,3]) -> logits f32[b,C]`.
    """
    look = views.build_augment(view, mean=mean) if view else None

    def logits(image: jax.Array) -> jax.Array:
        # A barrier against XLA's constant folding, which takes seconds a layer and rounds unlike
        # the devices do: an activation of a few bits may then jump by a step.
        weights = jax.lax.optimization_barrier(variables)
        if look is not None:
            keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(
                jnp.arange(image.shape[0])
            )
            image = look(keys, image)
        return model.apply(weights, image, train=False)[0].logits

    return logits


def write(
    directory: Path, loaded: Loaded, view: str, mean: tuple[float, ...], dtype: Any = jnp.uint8
) -> dict[str, Any]:
    """Writes the directory, whole or not at all.

    Args:
      directory: absolute; an older export there is replaced.
      loaded: the network.
      view: see `logits_function`.
      mean: see `logits_function`.
      dtype: of the images that the function takes, uint8 or float32 pixels 0..255.

    Returns:
      What `sizes.json` holds: `{"files": {name: bytes}, "weights": [[kind, count, float32 bytes,
      packed bytes]]}`.

    Raises:
      ConfigError: something else lies there, or the view cannot be exported.
      CheckpointError: it could not be written.
    """
    card, model = loaded.card, loaded.model
    # A network without that option cannot be created for kernels that are rounded already.
    bits = {}
    if "bits" in card.options:
        bits = pack.quantized_kernels(model, loaded.variables, card.size)
    if bits:  # BatchNorm stays: what is folded is rounded otherwise
        model = _of_rounded(card)
        leaves = flatten(loaded.variables)
        variables = unflatten({
            path: pack.round_kernel(leaf, bits[path]) if path in bits else leaf
            for path, leaf in leaves.items()
        })
    else:
        variables = fold_batchnorm(model, loaded.variables, size=card.size)
    variables = jax.tree.map(np.asarray, variables)
    content = _serialise(logits_function(model, variables, view, mean), card.size, dtype)
    # Of a file, as it is fed: its crop comes before the view, for weights as for the function.
    card = dataclasses.replace(card, view=view, fill=tuple(mean))
    with model_card.made_whole(directory, replace=FUNCTION_CARD) as partial:
        (partial / FUNCTION).write_bytes(functions.with_card(content, card))
        if bits:  # plain weights would load into a network that rounds nothing
            pack.write_packed(partial / PACKED, loaded.variables, bits, card)
        else:
            arrays = to_torch(loaded.variables)
            metadata = with_card({"format": "pt"}, card, arrays)
            safetensors_file.write(partial / WEIGHTS, arrays, metadata)
        with_digest = dataclasses.replace(card, sha256=sha256_file(partial / FUNCTION))
        model_card.write_card(partial / FUNCTION_CARD, with_digest)
        files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        sizes = {"files": files, "weights": pack.sizes(loaded.variables, bits)}
        workdir.write_json(partial / SIZES, sizes)
    return sizes


def _serialise(function: Callable[..., Any], size: tuple[int, int], dtype: Any) -> bytes:
    batch, = export.symbolic_shape("b")
    image = jax.ShapeDtypeStruct((batch, *size, 3), dtype)
    # Places in the source would make the file another one in another checkout.
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        with platform.several(PLATFORMS):
            return export.export(jax.jit(function), platforms=PLATFORMS)(image).serialize()
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ConfigError(
            "eval.view", f"needs to know how many images there are ({str(error).splitlines()[0]})",
            "use stages that treat each image by itself",
        ) from None
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def read(
    directory: Path, packed: bool = False
) -> tuple[model_card.ModelCard, Callable[..., jax.Array]]:
    """Reads what `write` wrote.

    Args:
      directory: the export; or its function or its packed weights alone, which hold the card too.
      packed: whether to run the packed weights instead of the function.

    Returns:
      Its card, and `f(image u8[b,H,W,3]) -> logits f32[b,C]`.

    Raises:
      ConfigError: it is no such directory, or the network is not quantised.
      CheckpointError: a file is damaged.
    """
    if directory.is_file():
        if packed or opened.kind_of(directory) == "safetensors":
            return _packed(directory)
        function, card = functions.read_with_card(directory)
        if card is None:
            raise ConfigError(str(directory), "holds no card", "name what --mode=export made")
        return card, functools.partial(functions.in_batches, function)
    card = model_card.read(directory / FUNCTION_CARD)
    if card is None and not (packed and (directory / PACKED).is_file()):
        raise ConfigError(
            str(directory), f"has no {FUNCTION_CARD}",
            "make one: python main.py --mode=export --config=... --workdir=...",
        )
    if packed:
        if not (directory / PACKED).is_file():
            what = "holds no packed weights: the network is not quantised"
            raise ConfigError(str(directory), what, "leave --packed out")
        return _packed(directory / PACKED)
    function, _ = functions.read_with_card(directory / FUNCTION)
    takes, classes = functions.fixed_size(function), function.out_avals[0].shape[1]
    if (takes, classes) != (card.size, card.num_classes):
        raise CheckpointError(
            str(directory / FUNCTION_CARD),
            f"says {_shown(card.size)} pixels and {card.num_classes} classes, but the function "
            f"takes {_shown(takes)} and returns {classes}", "export it again",
        )
    return card, function.call


def _shown(size: tuple[int, int] | None) -> str:
    return "any number of" if size is None else f"{size[1]}×{size[0]}"


def _packed(path: Path) -> tuple[model_card.ModelCard, Callable[..., jax.Array]]:
    variables, card = pack.read_packed(path)
    model, arrays = _of_rounded(card), jax.tree.map(jnp.asarray, variables)
    return card, jax.jit(logits_function(model, arrays, card.view, card.fill))


def _of_rounded(card: model_card.ModelCard) -> Model:
    """Creates a network for kernels that are rounded already; it still rounds activations."""
    options = {**card.options, "bits": (FULL, card.options["bits"][1])}
    return models.create(
        card.arch, card.num_classes, normalize=(card.mean, card.std), dtype=card.precision,
        **options,
    )


def table(sizes: Mapping[str, Any]) -> str:
    """Returns two aligned tables of what `write` returned."""
    rows = [("weights", "number", "float32 bytes", "packed bytes")]
    rows += [(kind, f"{count:,}", f"{full:,}", f"{small:,}")
             for kind, count, full, small in sizes["weights"]]
    totals = [sum(row[column] for row in sizes["weights"]) for column in (1, 2, 3)]
    rows.append(("all", *(f"{total:,}" for total in totals)))
    whole = totals[1]
    files = [("file", "bytes", "of float32")]
    files += [(name, f"{size:,}", f"{size / whole:.3f}") for name, size in sizes["files"].items()]
    return aligned(rows) + "\n\n" + aligned(files)
