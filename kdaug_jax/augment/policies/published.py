"""Policy files as others publish them: logs of PBA and archives of Fast AutoAugment.

They are read as literals, never executed.
"""

from __future__ import annotations

import ast
import json
from typing import Any, NamedTuple

from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.files import parse_json

# The epochs of the searches that the released schedules come from.
SEARCHED = 200


def literal(text: str) -> Any:
    """Returns the value of a Python literal or of JSON.

    Raises:
      ValueError: it is neither.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("it is no literal") from None


class Exploit(NamedTuple):
    """One line of a log: a trial of a search took over the weights and the policy of another."""

    target: str
    clone: str
    target_epoch: int
    clone_epoch: int
    old: list[int]
    new: list[int]


def is_log(text: str) -> bool:
    """Returns whether a text begins as a log, whose lines are lists and not one object."""
    return text.lstrip().startswith("[") and not text.lstrip().startswith("[[")


def segments(path: str, text: str, searched: int) -> list[tuple[int, list[int], int]]:
    """Reads the schedule of a log: what the last line's trial went through.

    Each line is `[target, clone, epoch of target, epoch of clone, old policy, new policy]`, as a
    Python list or as JSON, whose policies may be objects with `hp_policy`. Lines before the last
    chain, whose target no later line clones, are left out, as by the released code.

    Args:
      path: of the file, for messages.
      text: its content.
      searched: epochs of the search.

    Returns:
      For each policy its epochs, its numbers as they stand, and its line from 1.

    Raises:
      ArgumentError: what is wrong, with the line, and what to write.

    Source: Ho et al. 2019 (PBA); `parse_log` of pba/utils.py.
    """
    lines = [
        (number, _exploit(f"{path}, line {number}", line))
        for number, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    breaks = [
        place for place in range(1, len(lines))
        if lines[place - 1][1].target != lines[place][1].clone
    ]
    chain = lines[breaks[-1] if breaks else 0 :]
    first = chain[0]
    ends = [exploit.clone_epoch for _, exploit in chain] + [searched]
    result = [(ends[0], first[1].old, first[0])]
    for (number, exploit), start, end in zip(chain, ends[:-1], ends[1:], strict=True):
        if end < start:
            raise ArgumentError(
                f"{path}, line {number}: its trial is cloned at epoch {start}, after epoch {end}",
                "must be in the order of epochs; give searched=, the epochs of the search",
            )
        result.append((end - start, exploit.new, number))
    return result


def _exploit(where: str, line: str) -> Exploit:
    remedy = "must be [target, clone, epoch, epoch, old policy, new policy]"
    try:
        values = literal(line)
    except ValueError:
        raise ArgumentError(f"{where} is no list", remedy) from None
    if not isinstance(values, list) or len(values) != len(Exploit._fields):
        raise ArgumentError(f"{where} is no list of {len(Exploit._fields)}", remedy)
    old, new = (
        value.get("hp_policy") if isinstance(value, dict) else value for value in values[4:]
    )
    epochs = values[2:4]
    if any(isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0 for epoch in epochs):
        raise ArgumentError(f"{where}: epochs are {epochs}", remedy)
    return Exploit(str(values[0]), str(values[1]), *epochs, old, new)


def archive(path: str, text: str, table: str) -> list[Any]:
    """Reads the sub-policies that a function of an archive returns.

    The function's lists must be literals, or sums of those that it assigns to names before.

    Args:
      path: of the file, for messages.
      text: its content, Python.
      table: name of the function.

    Returns:
      The list as it stands.

    Raises:
      ArgumentError: no such function, or another form; names those that can be read.
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else path
        raise ArgumentError(f"{where}: neither JSON nor Python", "must be a policy file") from None
    tables = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            value = _returned(node)
            if isinstance(value, list):
                tables[node.name] = value
    if table not in tables:
        what = f"no list of sub-policies is returned by '{table}'" if table else "holds functions"
        remedy = suggest(table, tables) if tables else "must return literal lists"
        raise ArgumentError(f"{path}: {what}", f"give table=, {remedy}" if tables else remedy)
    return tables[table]


def _returned(function: ast.FunctionDef) -> Any:
    """Returns the literal that a function returns, None where it is none."""
    known: dict[str, Any] = {}
    for statement in function.body:
        if isinstance(statement, ast.Return):
            return _value(statement.value, known)
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                known[target.id] = _value(statement.value, known)
        elif not isinstance(statement, ast.Expr):
            return None
    return None


def _value(node: ast.expr | None, known: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = _value(node.left, known), _value(node.right, known)
        return parts[0] + parts[1] if all(isinstance(part, list) for part in parts) else None
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, RecursionError):
        return None
