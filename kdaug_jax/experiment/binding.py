"""Binds what a user wrote to the signature of a stage, a loss or a schedule.

The annotation of a parameter says what becomes of its value: the traced kinds of
`kdaug_jax.types` become hyper-parameters with a path, `Fill` a colour, everything else stays a
Python value and is part of the compiled program.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import tokenize
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.errors import ArgumentError, ConfigError, suggest
from kdaug_jax.registry import short_name
from kdaug_jax.types import Info, Range

# Letters of an expression that a message shows.
LONGEST_SHOWN = 400


def read_calls(where: str, text: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """Reads `name(arguments)|name|...` as Python syntax, without running anything.

    Args:
      where: config path, for messages.
      text: the expression; empty gives no calls. A name may have dots: `package.module.function`.

    Returns:
      A list of (name, positional arguments, named arguments).

    Raises:
      ConfigError: not such an expression, or arguments that are not plain values.
    """
    if not isinstance(text, str):
        raise ConfigError(where, f"got {text!r}", "write text such as 'pad_crop(4)|flip'")
    _check_comments(where, text)
    try:
        return [_call(where, stage) for stage in _stages(text)]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        text = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
        if "\n" in text.strip():
            raise ConfigError(
                where, f"cannot read {text!r}, which has a line break outside of brackets",
                "write all stages on one line",
            ) from error
        remedy = "write name(values)|name(values)"
        if ":" in text:
            remedy += ", and a name of your own as package.module.function, with a dot for a colon"
        raise ConfigError(where, f"cannot read {text!r}", remedy) from error


def _check_comments(where: str, text: str) -> None:
    """Raises ConfigError for a comment, with which Python would leave stages out."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
            if token.type == tokenize.COMMENT:
                raise ConfigError(
                    where, f"has a comment, {token.string!r}, in {text!r}",
                    "take it out: the stages after '#' would be left out",
                )
    except (tokenize.TokenError, SyntaxError):
        pass  # `read_calls` says that it cannot be read


def call_texts(text: str) -> list[str]:
    """Returns the text of each call of an expression that `read_calls` has read."""
    return [ast.unparse(stage) for stage in _stages(text)]


def _stages(text: str) -> list[ast.expr]:
    if not text.strip():
        return []
    node = ast.parse(text.strip(), mode="eval").body
    stages = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        stages.append(node.right)
        node = node.left
    return [node, *reversed(stages)]


def _call(where: str, node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    if not isinstance(node, ast.Call):
        return _dotted(node), [], {}
    name = _dotted(node.func)
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("** is not part of the language")
    args = [ast.literal_eval(argument) for argument in node.args]
    kwargs = {}
    for word in node.keywords:
        if word.arg in kwargs:
            where = f"{where}.{short_name(name)}"
            raise ConfigError(where, f"argument '{word.arg}' is given twice", "give it once")
        kwargs[word.arg] = ast.literal_eval(word.value)
    return name, args, kwargs


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if not isinstance(node, ast.Name):
        raise ValueError(ast.dump(node))
    return node.id


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Turns an `ArgumentError`, and nothing else, into a ConfigError of the config path `where`."""
    try:
        yield
    except ArgumentError as error:
        raise ConfigError(where, error.what, error.remedy) from None


def check_function(where: str, value: Any, leading: int, remedy: str) -> None:
    """Validates the form of what a user's name stands for.

    Args:
      where: config path, for messages.
      value: what was imported.
      leading: how many positional arguments the program gives it.
      remedy: what it should be, for messages.

    Raises:
      ConfigError: not a function whose signature starts with so many positional parameters.
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):  # not callable, or built in without a signature
        kind = type(value).__name__
        raise ConfigError(where, f"is of type {kind}, which has no signature", remedy) from None
    first = parameters[:leading]
    if len(first) < leading or any(parameter.kind not in kinds for parameter in first):
        raise ConfigError(where, f"does not take {leading} positional arguments", remedy)
    for parameter in parameters[leading:]:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise ConfigError(where, f"takes {parameter}", "name each option in its signature")


def shape_text(array: Any) -> str:
    """Returns dtype and shape of an array for messages, as `float32[8,3]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


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
    """Returns the parameters of `function` that a user may write.

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
    known = {}
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        metadata = getattr(hint, "__metadata__", ())
        traced = next((value for value in metadata if isinstance(value, Range)), None)
        if hint is Any and isinstance(parameter.default, float):
            traced = Range(np.float32)
        plain = hint if hint in (bool, int, float, str, tuple) else None
        known[parameter.name] = Option(traced, "fill" in metadata, plain, parameter.default)
    return known


def bind(
    where: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    skip: Sequence[str] | int,
    info: Info,
) -> Bound:
    """Binds written arguments to a signature and validates their types and ranges.

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
        plural = "s" * (len(args) != 1)
        raise ConfigError(where, f"got {len(args)} argument{plural}", f"takes {_takes(known)}")
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


def _plain(path: str, value: Any, kind: type | None) -> Any:
    if kind is float:
        cast(path, value, Range(np.float32))  # what it becomes in the program
        return float(value)
    if isinstance(value, float) and not np.isfinite(value):
        raise ConfigError(path, f"got {value}", "must be finite")
    if kind is None or isinstance(value, kind) and (kind is bool) == isinstance(value, bool):
        return value
    if kind is tuple and isinstance(value, list):  # what JSON makes of it
        return tuple(value)
    raise ConfigError(path, f"got {value!r}", f"must be a {kind.__name__}")


def cast(path: str, value: Any, legal: Range, info: Info | None = None) -> np.ndarray:
    """Converts a written number to the array that is traced, and validates its range.

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
            number = np.asarray(value).astype(legal.dtype)
        inexact = integer and int(number) != value
    except OverflowError:
        number, inexact = np.asarray(np.inf), True
    below = number <= legal.low if legal.open else number < legal.low
    if inexact or not np.isfinite(number) or below or number > high:
        hint = f"; {legal.hint}" if below and legal.hint else ""
        raise ConfigError(path, f"got {value}", f"must be {_interval(legal, high, value)}{hint}")
    return number


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
