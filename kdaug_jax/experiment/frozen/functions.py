"""Models from serialised functions of images, and averages of several models."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.files import parse_json, read_bytes
from kdaug_jax.losses.response import average_teachers
from kdaug_jax.models.foreign import opened
from kdaug_jax.models.foreign.safetensors_file import shown
from kdaug_jax.models.model import Model
from kdaug_jax.runtime.model_card import ModelCard, checked, sealed
from kdaug_jax.runtime.model_card import read as read_card
from kdaug_jax.runtime.platform import target_platform
from kdaug_jax.types import Outputs

# Files of an exported directory.
FUNCTION, FUNCTION_CARD = "model.stablehlo", "model.json"

FORM = (
    "export f(image[b,H,W,3]) -> logits[b,C] of uint8 or float32 pixels 0..255 with a symbolic "
    "batch b, and write jax.export's serialize() to the file"
)
_PLATFORMS = {"gpu": "cuda"}
# Trees of arguments and result: one array each.
_TREES = jax.tree.structure(((0,), {})), jax.tree.structure(0)


# Between a serialised function and the card behind it, which deserialisation passes over.
_MARK = b"\n--kdaug_jax card--\n"
NO_CARD = (
    "holds no card and no checksum, so damage to it would not be seen "
    "(kdaug_jax.experiment.frozen.functions.with_card adds both)"
)


def with_card(content: bytes, card: ModelCard) -> bytes:
    """Returns the bytes of a file that holds a function, its card and its checksum.

    `jax.export.deserialize` reads such a file as it does the function alone.

    Args:
      content: a function, as jax.export's `serialize()` returns it.
      card: what it is.
    """
    fields = {**dataclasses.asdict(card), "sha256": hashlib.sha256(content).hexdigest()}
    return bytes(content) + _MARK + sealed(fields).encode() + _MARK


def read_with_card(path: Path) -> tuple[export.Exported, ModelCard | None]:
    """Returns a function and the card behind it or beside it, whose checksum it is found to have.

    Args:
      path: the file.

    Returns:
      The function, and its card; None where there is none.

    Raises:
      CheckpointError: see `read`; or the bytes are not those that the card was written for.
    """
    damaged = CheckpointError(
        str(path), "is not the file that its card names", "export it again, or copy it again"
    )
    opened.kind_of(path)
    content = read_bytes(path, "weights")
    body, marked, rest = content.partition(_MARK)
    card = None
    if marked or _MARK[2:-2] in content:
        text, end, after = rest.partition(_MARK)
        if not marked or not end or after:
            raise damaged
        try:
            card = ModelCard(**checked(str(path), parse_json(text.decode())))
        except ValueError:
            raise damaged from None
        if hashlib.sha256(body).hexdigest() != card.sha256:
            raise damaged
    beside = read_card(path.parent / FUNCTION_CARD) if path.name == FUNCTION else None
    if beside is not None and hashlib.sha256(content).hexdigest() != beside.sha256:
        raise damaged
    function = read(path)
    if card is not None and card.num_classes != function.out_avals[0].shape[1]:
        raise damaged
    return function, card or beside


def read(path: Path) -> export.Exported:
    """Returns a function that `jax.export` serialised; an unchanged file is read once.

    Args:
      path: the file.

    Returns:
      The function, `image[b,H,W,3] -> logits[b,C]`.

    Raises:
      CheckpointError: the file is damaged, or holds another kind of function.
    """
    opened.kind_of(path)
    try:
        stat = path.stat()
        return _read(path, target_platform(), stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})", FORM) from None


@functools.lru_cache(maxsize=8)
def _read(path: Path, target: str, *when: int) -> export.Exported:
    content = read_bytes(path, "weights")
    try:
        function = export.deserialize(bytearray(content))
        shapes = [(aval.shape, aval.dtype) for aval in (*function.in_avals, *function.out_avals)]
    except Exception as error:  # flatbuffers and MLIR raise any exception at damaged bytes
        what = shown(f"is not a serialised function ({type(error).__name__}: {error})")
        raise CheckpointError(str(path), what, FORM) from None

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(str(path), what, FORM)

    if len(function.in_avals) != 1 or len(function.out_avals) != 1:
        raise refuse(
            f"has {len(function.in_avals)} inputs and {len(function.out_avals)} outputs"
        )
    if (function.in_tree, function.out_tree) != _TREES:
        raise refuse("takes or returns arrays by name or in a list")
    (image, kind), (logits, result) = shapes
    if len(image) != 4 or image[3] != 3 or kind not in (jnp.uint8, jnp.float32):
        raise refuse(f"takes {kind}{list(image)}")
    known = len(logits) == 2 and isinstance(logits[1], int)
    if not known or not jnp.issubdtype(result, jnp.floating):
        raise refuse(f"returns {result}{list(logits)}")
    if isinstance(image[0], int):
        raise refuse(f"takes batches of {image[0]} only")
    batch = str(image[0])
    if not batch.isidentifier() or batch in re.findall(r"\w+", str(image[1:])):
        raise refuse(f"takes images of the shape {list(image)}")
    if logits[0] != image[0]:
        raise refuse(f"returns {logits[0]} rows for {batch} images")
    platform = _PLATFORMS.get(target, target)
    if platform not in function.platforms:
        raise CheckpointError(
            str(path), f"was exported for {', '.join(function.platforms)}, not for {target}",
            "export it with platforms=('cpu', 'cuda', 'tpu')",
        )
    try:
        takes = batch_sizes(function)
        some = any(takes(size) for size in range(1, _TRIED))
    except (KeyError, SyntaxError, ValueError, TypeError, ArithmeticError):
        raise refuse("constrains its batch in a way that is not known here") from None
    if not some:
        raise refuse("takes no batch of any size")
    try:  # its code has not been read so far
        exporter = export.export(jax.jit(function.call), platforms=[platform])
        exporter(jax.ShapeDtypeStruct(image, kind))
    except Exception as error:
        what = shown(f"cannot be compiled ({type(error).__name__}: {error})")
        raise CheckpointError(str(path), what, "copy the file again, or export it again") from None
    return function


# What jax.export asserts of the batch, as it stands in the code: b <= 40 is `- b + 40` at least 0.
_CONSTRAINT = re.compile(
    rb"symbolic shape constraint [^\0]{1,200}?\. Expected '([^'\0]{1,200})' to be "
    rb"(equal|greater or equal) to 0"
)
# Larger batches are not tried.
_TRIED = 4096
_OPERATIONS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow
}
_NAMED = {"mod": operator.mod, "floordiv": operator.floordiv, "max": max, "min": min}


def batch_sizes(function: export.Exported) -> Callable[[int], bool]:
    """Returns which batches a function takes: `takes(count) -> bool`."""
    batch = str(function.in_avals[0].shape[0])
    code = bytes(function.mlir_module_serialized)
    conditions = [
        (ast.parse(text.decode().strip(), mode="eval").body, kind == b"equal")
        for text, kind in set(_CONSTRAINT.findall(code))
    ]

    def takes(count: int) -> bool:
        values = (_value(tree, {batch: count}) for tree, _ in conditions)
        return count > 0 and all(
            value == 0 if equal else value >= 0
            for value, (_, equal) in zip(values, conditions, strict=True)
        )

    return takes


def _value(tree: ast.AST, known: Mapping[str, int]) -> int:
    """Returns the value of a term that jax.export prints, such as `8*floordiv(b, 8) - b`."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return known[tree.id]
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_value(tree.operand, known)
    if isinstance(tree, ast.BinOp):
        return _OPERATIONS[type(tree.op)](_value(tree.left, known), _value(tree.right, known))
    if isinstance(tree, ast.Call):
        return _NAMED[tree.func.id](*(_value(argument, known) for argument in tree.args))
    raise KeyError(ast.dump(tree))


def in_batches(function: export.Exported, image: jax.Array) -> jax.Array:
    """Calls a function in batches that it takes: filled up with copies, or in several parts.

    Args:
      function: see `read`.
      image: `[B,H,W,3]` of its type.

    Returns:
      `[B,C]`.
    """
    takes, count = batch_sizes(function), len(image)
    if takes(count):
        return function.call(image)
    # Parts as large as possible; or a larger batch where it takes none that is as small.
    part = next((size for size in range(count, 0, -1) if takes(size)), None)
    part = part or next(size for size in range(count, _TRIED) if takes(size))
    parts = -(-count // part)
    more = jnp.broadcast_to(image[:1], (parts * part - count, *image.shape[1:]))
    filled = jnp.concatenate([image, more]).reshape(parts, part, *image.shape[1:])
    if parts == 1:
        return function.call(filled[0])[:count]
    logits = jax.lax.map(function.call, filled)
    return logits.reshape(parts * part, -1)[:count]


def fixed_size(function: export.Exported) -> tuple[int, int] | None:
    """Returns the (height, width) that a function takes, or None if it takes any."""
    size = function.in_avals[0].shape[1:3]
    return tuple(size) if all(isinstance(side, int) for side in size) else None


def model(where: str, function: export.Exported) -> Model:
    """Returns a serialised function as a model without variables.

    Args:
      where: its config path, for messages.
      function: see `read`.

    Returns:
      A model for inference only; its outputs have no features.
    """
    size, (aval,) = fixed_size(function), function.in_avals

    def init(key: jax.Array, size: tuple[int, int]) -> dict[str, Any]:
        del key, size
        return {"params": {}, "batch_stats": {}}

    def apply(variables, image, *, train: bool, **settings):
        del variables, settings
        if train:
            raise ConfigError(where, "is a serialised function", "it cannot be trained")
        if size is not None and image.shape[1:3] != size:
            raise ConfigError(
                where, f"takes images of {size[1]}×{size[0]} pixels, not "
                f"{image.shape[2]}×{image.shape[1]}",
                "give it views of that size, or export it for this one",
            )
        if aval.dtype == jnp.uint8 and image.dtype != jnp.uint8:
            raise ConfigError(
                where, f"takes uint8 pixels, but mixed views are {image.dtype}",
                "export it for float32 pixels 0..255",
            )
        logits = in_batches(function, image.astype(aval.dtype))
        return Outputs(logits.astype(jnp.float32), {}), {}

    classes = function.out_avals[0].shape[1]
    side = min(size) if size else 1
    return Model(init, apply, "function", classes, side, 1, max(size) if size else side, 3)


def average(models: Sequence[Model]) -> Model:
    """Returns the network whose probabilities are the mean of those of several.

    Args:
      models: networks of the same classes, which may differ in everything else.

    Returns:
      A model for inference only. Its variables are those of the models by number, "0", "1", …;
      its logits are logarithms of probabilities, and it has no features.
    """
    names = [str(number) for number in range(len(models))]

    def init(key: jax.Array, size: tuple[int, int]) -> dict[str, Any]:
        members = {
            name: member.init(key, size) for name, member in zip(names, models, strict=True)
        }
        return {
            part: {name: members[name][part] for name in names}
            for part in ("params", "batch_stats")
        }

    def apply(variables, image, *, train: bool, **settings):
        del settings
        if train:
            raise ConfigError("networks", "an average of networks", "it cannot be trained")
        logits = []
        for name, member in zip(names, models, strict=True):
            parts = {part: variables[part].get(name, {}) for part in ("params", "batch_stats")}
            outputs, _ = member.apply(parts, image, train=False)
            logits.append(outputs.logits)
        return Outputs(average_teachers(logits), {}), variables["batch_stats"]

    first = models[0]
    return Model(
        init, apply, " + ".join(member.name for member in models), first.num_classes,
        max(member.min_size for member in models), 1, first.native_size, first.channels,
    )
