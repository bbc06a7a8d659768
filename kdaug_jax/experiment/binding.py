"""Binds what a user wrote to the signature of a stage, a loss or a schedule.

The annotation of a parameter says what becomes of its value: the traced kinds of
`kdaug_jax.types` become hyper-parameters with a path, `Fill` a colour, everything else stays a
Python value and is part of the compiled program.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.types import Info, Range


def read_calls(where: str, text: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """Reads `name(arguments)|name|...` as Python syntax, without running anything.

    Args:
      where: config path, for messages.
      text: the expression; empty gives no calls.

    Returns:
      A list of (name, positional arguments, named arguments).

    Raises:
      ConfigError: not such an expression, or arguments that are not plain values.
    """
    if not isinstance(text, str):
        raise ConfigError(where, f"got {text!r}", "write text such as 'pad_crop(4)|flip'")
    if not text.strip():
        return []
    try:
        node = ast.parse(text.strip(), mode="eval").body
        stages = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            stages.append(node.right)
            node = node.left
        stages.append(node)
        return [_call(where, stage) for stage in reversed(stages)]
    except (SyntaxError, ValueError) as error:
        raise ConfigError(
            where, f"cannot read {text!r}", "write name(values)|name(values)"
        ) from error


def _call(where: str, node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    if isinstance(node, ast.Name):
        return node.id, [], {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(ast.dump(node))
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("** is not part of the language")
    args = [ast.literal_eval(argument) for argument in node.args]
    kwargs = {}
    for word in node.keywords:
        if word.arg in kwargs:
            where = f"{where}.{node.func.id}"
            raise ConfigError(where, f"argument '{word.arg}' is given twice", "give it once")
        kwargs[word.arg] = ast.literal_eval(word.value)
    return node.func.id, args, kwargs


class Option(NamedTuple):
    """One parameter that a user may write: its traced range or None, its plain type, default."""

    range: Range | None
    is_fill: bool
    type: type | None
    default: Any


class Bound(NamedTuple):
    """The arguments of one call: plain Python values, and traced values with their ranges."""

    static: dict[str, Any]
    traced: dict[str, np.ndarray]
    ranges: dict[str, Range]


def options(function: Callable[..., Any], skip: Sequence[str] | int) -> dict[str, Option]:
    """Lists the parameters of `function` that a user may write.

    Args:
      function: a stage, a loss or a schedule.
      skip: the leading parameters that are not the user's: how many, or their names.

    Returns:
      `{name: Option}` in the order of the signature.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    if isinstance(skip, int):
        parameters = parameters[skip:]
    else:
        parameters = [parameter for parameter in parameters if parameter.name not in skip]
    found = {}
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        marks = getattr(hint, "__metadata__", ())
        traced = next((mark for mark in marks if isinstance(mark, Range)), None)
        if hint is Any and isinstance(parameter.default, float):
            traced = Range(np.float32)
        plain = hint if hint in (bool, int, float, str, tuple) else None
        found[parameter.name] = Option(traced, "fill" in marks, plain, parameter.default)
    return found


def bind(
    where: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    skip: Sequence[str] | int,
    info: Info,
) -> Bound:
    """Binds written arguments to a signature and checks their types and ranges.

    Args:
      where: config path, for messages.
      function: what is called.
      args: positional arguments as written.
      kwargs: named arguments as written.
      skip: see `options`.
      info: facts of the training split, for ranges and colours that depend on them.

    Returns:
      The arguments, defaults filled in.

    Raises:
      ConfigError: unknown, missing or repeated argument, wrong type, value out of range.
    """
    known = options(function, skip)
    if len(args) > len(known):
        raise ConfigError(where, f"got {len(args)} arguments", f"takes {_takes(known)}")
    written = dict(zip(known, args, strict=False))
    for name, value in kwargs.items():
        if name not in known:
            raise ConfigError(where, f"has no argument '{name}'", suggest(name, known))
        if name in written:
            raise ConfigError(where, f"argument '{name}' is given twice", "give it once")
        written[name] = value
    static, traced, ranges = {}, {}, {}
    for name, option in known.items():
        value = written.get(name, option.default)
        if value is inspect.Parameter.empty:
            raise ConfigError(where, f"argument '{name}' is missing", f"takes {_takes(known)}")
        path = f"{where}.{name}"
        if option.range is not None:
            traced[name] = cast(path, value, option.range, info)
            ranges[name] = option.range  # of what a phase or a population puts there
            if isinstance(option.range.high, str):
                ranges[name] = option.range._replace(high=getattr(info, option.range.high))
        elif option.is_fill:
            static[name] = colour(path, value, info)
        else:
            static[name] = _plain(path, value, option.type)
    return Bound(static, traced, ranges)


def _takes(known: Mapping[str, Option]) -> str:
    return "(" + ", ".join(known) + ")" if known else "no arguments"


def _plain(path: str, value: Any, wanted: type | None) -> Any:
    if wanted is float:
        cast(path, value, Range(np.float32))  # what it becomes in the program
        return float(value)
    if isinstance(value, float) and not np.isfinite(value):
        raise ConfigError(path, f"got {value}", "must be finite")
    if wanted is None or isinstance(value, wanted) and (wanted is bool) == isinstance(value, bool):
        return value
    if wanted is tuple and isinstance(value, list):  # what JSON makes of it
        return tuple(value)
    raise ConfigError(path, f"got {value!r}", f"must be a {wanted.__name__}")


def cast(path: str, value: Any, legal: Range, info: Info | None = None) -> np.ndarray:
    """Turns a written number into the array that is traced, and checks its range.

    Args:
      path: config path, for messages.
      value: the number as written.
      legal: its range.
      info: for an upper end that names a field of `Info`; without it that end is not checked.

    Returns:
      A zero-dimensional array of the range's dtype.

    Raises:
      ConfigError: not a number of the right kind, not finite, or out of range.
    """
    integer = np.issubdtype(legal.dtype, np.integer)
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "a whole number" if integer else "a number"
        raise ConfigError(path, f"got {value!r}", f"must be {kind}")
    high = legal.high
    if isinstance(high, str):
        high = np.inf if info is None else getattr(info, high)
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(value).astype(legal.dtype)
        lost = integer and int(found) != value
    except OverflowError:
        found, lost = np.asarray(np.inf), True
    below = found <= legal.low if legal.open else found < legal.low
    if lost or not np.isfinite(found) or below or found > high:
        hint = f"; {legal.hint}" if below and legal.hint else ""
        wanted = _interval(legal, high, value)
        raise ConfigError(path, f"got {value}", f"must be {wanted}{hint}")
    return found


def _interval(legal: Range, high: float, value: int | float) -> str:
    integer = np.issubdtype(legal.dtype, np.integer)
    largest = int(np.iinfo(legal.dtype).max) if integer else float(np.finfo(legal.dtype).max)
    finite = not isinstance(value, float | np.floating) or bool(np.isfinite(value))
    parts = [] if finite else ["finite"]
    if legal.low > -np.inf:
        parts.append(f"{'more than' if legal.open else 'at least'} {legal.low:g}")
    elif finite and value < -largest:
        parts.append(f"at least {-largest:g}")
    if high < np.inf:
        named = f" ({legal.high.replace('_', ' ')})" if isinstance(legal.high, str) else ""
        parts.append(f"at most {high:g}{named}")
    elif finite and value > largest:
        parts.append(f"at most {largest:g}")
    return " and ".join(parts)


def colour(path: str, value: Any, info: Info) -> np.ndarray:
    """Resolves a named colour.

    Args:
      path: config path, for messages.
      value: "mean" (of the training split, rounded), "black", a grey level, or a level a channel.
      info: facts of the training split.

    Returns:
      `u8[C]`.

    Raises:
      ConfigError: none of these.
    """
    channels = len(info.mean)
    if value == "mean":
        return np.rint(np.asarray(info.mean)).astype(np.uint8)
    if value == "black":
        return np.zeros(channels, np.uint8)
    levels = value if isinstance(value, tuple) else (value,) * channels
    whole = all(isinstance(level, int) and not isinstance(level, bool) for level in levels)
    if len(levels) != channels or not whole or min(levels) < 0 or max(levels) > 255:
        raise ConfigError(
            path, f"got {value!r}", f"must be 'mean', 'black', 0..255 or {channels} such levels"
        )
    return np.asarray(levels, np.uint8)
