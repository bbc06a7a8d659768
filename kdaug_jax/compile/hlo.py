"""Counts in the text of a compiled program: cycles, collectives, gathers, scatters, kernels.

What a loop holds counts as often as it turns, and of a conditional the dearest branch counts.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

# A TPU gathers and scatters one element, or one row of up to 128 lanes, after another; counted in
# the final schedules of libtpu, 10 to 14 bundles each. Its own estimate of cycles leaves them out.
BUNDLES_AN_ELEMENT = 10
LANES = 128

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
    "f8e4m3fn": 1, "f8e5m2": 1,
}
_COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One instruction: its name, the text of its shape, its operation, and what follows it."""

    name: str
    shape: str
    operation: str
    rest: str
    root: bool = False


Computations = Mapping[str, list[Instruction]]


class Profile(NamedTuple):
    """What one run of a program executes on a device.

    Attributes:
      cycles: that the compiler estimates; 0 where it estimates none.
      gathered, scattered: elements, or rows of up to 128 lanes.
      collectives: count and bytes of the results by kind.
      kernels: how often each kernel that the compiler did not make is called, by name.
      unknown_loops: loops whose number of turns is not known, counted as one turn.
    """

    cycles: int
    gathered: int
    scattered: int
    collectives: dict[str, tuple[int, int]]
    kernels: dict[str, int]
    unknown_loops: int

    @property
    def all_cycles(self) -> int:
        """The compiler's cycles and those of gathers and scatters."""
        return self.cycles + BUNDLES_AN_ELEMENT * (self.gathered + self.scattered)


def profile(text: str) -> Profile:
    """Counts what a compiled program executes.

    Args:
      text: of the program for one device, as `Compiled.as_text` returns it.
    """
    computations, entry = parse(text)
    totals = _count(computations, entry)
    kinds = dict.fromkeys(key[1] for key in totals if key[0] == "collective")
    return Profile(
        totals["cycles",], totals["gather",], totals["scatter",],
        {
            kind: (totals["collective", kind, "count"], totals["collective", kind, "bytes"])
            for kind in sorted(kinds)
        },
        {key[1]: count for key, count in sorted(totals.items()) if key[0] == "kernel"},
        totals["loop",],
    )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the computations of a program by name, and the name of the one it begins with."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if (head := _HEAD.match(line)) and not line.startswith("HloModule"):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (match := _INSTRUCTION.match(line)):
            computations[current].append(Instruction(*match.groups()[1:], root=bool(match[1])))
    return computations, entry


def shape_bytes(shape: str) -> int:
    """Returns the bytes of an array, or of all arrays of a tuple, without padding."""
    return round(sum(
        _BYTES.get(kind, 0) * math.prod(_sides(sides)) for kind, sides in _SHAPE.findall(shape)
    ))


def _sides(text: str) -> list[int]:
    return [int(side) for side in text.split(",") if side]


def _count(computations: Computations, entry: str) -> Counter:
    @functools.cache
    def of_computation(name: str) -> Counter:
        total: Counter = Counter()
        shapes = {item.name: item.shape for item in computations.get(name, ())}
        for item in computations.get(name, ()):
            total.update(of_instruction(item, shapes))
        return total

    def of_instruction(item: Instruction, shapes: Mapping[str, str]) -> Counter:
        total: Counter = Counter()
        if match := re.search(r'"estimated_cycles":"?(\d+)', item.rest):
            total["cycles",] += int(match[1])
        kind = item.operation.removesuffix("-done")
        if kind in _COLLECTIVES:  # the result of an asynchronous one is that of its end
            total["collective", kind, "count"] += 1
            total["collective", kind, "bytes"] += shape_bytes(item.shape)
        elif item.operation == "gather":
            total["gather",] += _gathered(item)
        elif item.operation == "scatter":
            total["scatter",] += _scattered(item, shapes)
        elif item.operation == "custom-call" and "tpu_custom_call" in item.rest:
            total["kernel", item.name.split(".")[0]] += 1
        elif item.operation == "while":
            body, condition = _called(item, "body"), _called(item, "condition")
            turns = trip_count(item, computations.get(condition[0], []))
            total["loop",] += turns is None
            for key, count in of_computation(body[0]).items():
                total[key] += count * (1 if turns is None else turns)
        elif item.operation == "conditional":
            names = _called(item, "branch_computations", "true_computation", "false_computation")
            total.update(max(map(of_computation, names), key=_cost, default=Counter()))
        elif item.operation in ("fusion", "call", "async-start"):
            for name in _called(item, "calls", "to_apply"):
                total.update(of_computation(name))
        return total

    return of_computation(entry)


def _cost(counts: Counter) -> tuple[int, int]:
    elements = counts["gather",] + counts["scatter",]
    return counts["cycles",] + BUNDLES_AN_ELEMENT * elements, len(counts)


# What a GPU runs as a kernel of its own at least; all else is a view, a constant or bookkeeping.
_LAUNCHED = (
    "fusion", "custom-call", "sort", "scatter", "gather", "copy", "dot", "convolution", "reduce",
    "transpose", "concatenate", "dynamic-slice", "dynamic-update-slice", "broadcast", "iota",
)


def launches(text: str) -> tuple[int, int]:
    """Returns the fewest and the most kernels that one run of a program launches on a GPU.

    Of a conditional one branch runs; a loop counts as one turn where its number is not known.

    Args:
      text: of the program for one device, as `Compiled.as_text` returns it.
    """
    computations, entry = parse(text)

    def of_computation(name: str) -> tuple[int, int]:
        fewest = most = 0
        for item in computations.get(name, ()):
            low = high = int(item.operation.removesuffix("-start") in _LAUNCHED)
            if item.operation == "while":
                body, condition = _called(item, "body")[0], _called(item, "condition")[0]
                turns = trip_count(item, computations.get(condition, [])) or 1
                low, high = (turns * count for count in of_computation(body))
            elif item.operation == "conditional":
                names = _called(
                    item, "branch_computations", "true_computation", "false_computation"
                )
                branches = [of_computation(branch) for branch in names]
                low, high = min(low for low, _ in branches), max(high for _, high in branches)
            elif item.operation == "call":
                low, high = of_computation(_called(item, "to_apply")[0])
            fewest, most = fewest + low, most + high
        return fewest, most

    return of_computation(entry)


def _called(item: Instruction, *attributes: str) -> list[str]:
    names = []
    for attribute in attributes:
        if match := re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", item.rest):
            names += [name.strip().lstrip("%") for name in match[1].strip("{}").split(",")]
    return names


def trip_count(loop: Instruction, condition: list[Instruction]) -> int | None:
    """Returns how often a loop turns, None where its text does not tell.

    Args:
      loop: the instruction.
      condition: of the loop; where the compiler has noted no number of turns, a counter that is
        compared with a constant is taken to begin at 0 and to rise by 1, as those of `lax.scan` do.
    """
    if match := re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.rest):
        return int(match[1])
    constants = {
        item.name: item.rest.partition(")")[0] for item in condition
        if item.operation == "constant"
    }
    root = next((item for item in condition if item.root), None)
    if root is None or root.operation != "compare" or "direction=LT" not in root.rest:
        return None
    limit = constants.get(_operands(root)[-1], "")
    return int(limit) if limit.isdigit() else None


def _operands(item: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", item.rest.partition(")")[0])


def _rows(count: int, size: int) -> int:
    """Returns how many vectors of lanes `count` slices of `size` neighbours fill."""
    return count * -(-size // LANES)


def _gathered(item: Instruction) -> int:
    _, sides = _SHAPE.findall(item.shape)[0]
    match = re.search(r"slice_sizes=\{([\d,]*)\}", item.rest)
    size = max(math.prod(_sides(match[1])), 1) if match else 1
    return _rows(math.prod(_sides(sides)) // size, size)


def _scattered(item: Instruction, shapes: Mapping[str, str]) -> int:
    operands = _operands(item)
    arrays = (len(operands) - 1) // 2  # as many operands, then the indices, then their updates
    match = re.search(r"update_window_dims=\{([\d,]*)\}", item.rest)
    window = _sides(match[1]) if match else []
    total = 0
    for name in operands[arrays + 1 :]:
        shape = _SHAPE.findall(shapes.get(name, ""))
        sides = _sides(shape[0][1]) if shape else []
        size = max(math.prod(sides[axis] for axis in window if axis < len(sides)), 1)
        total += _rows(math.prod(sides) // size, size)
    return total
