"""Counts the bundles that a TPU executes for a kernel, in the final schedule that libtpu writes.

A TPU core issues one bundle of instructions a cycle, so their number is a lower bound of cycles:
stalls come on top.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

# `0x2a LB : > { instructions }`: address, marks such as a loop's begin, depth of loops, text.
BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*:\s*(>*)\s*\{(.*)$")
DELAY = 4  # bundles after a branch that are still executed


class Bundle(NamedTuple):
    """One bundle: its mark ("LB" where a loop begins), in how many loops it lies, and its text."""

    mark: str | None
    depth: int
    text: str


class Executed(NamedTuple):
    """What a kernel executes for one step of its grid.

    Attributes:
      bundles: with all branches taken.
      size: bundles of the program.
      unknown: loops whose turns are not known, counted once.
    """

    bundles: int
    size: int
    unknown: int


def read(path: Path) -> list[Bundle]:
    """Reads a schedule."""
    matches = (BUNDLE.match(line) for line in path.read_text().splitlines())
    return [Bundle(match[1], len(match[2]), match[3]) for match in matches if match]


def turns(bundles: list[Bundle], start: int) -> tuple[int, int | None]:
    """Returns where a loop ends, and how often it turns; None where that is not a constant."""
    regions = set(re.findall(r"Start region (\d+)", bundles[start].text))
    for number in range(start, len(bundles)):
        branch = re.search(
            r"sbr\.rel \(!%(\w+)\) target = \$region(\d+)", bundles[number].text
        )
        if branch and branch[2] in regions:
            break
    else:
        return start + 1, None
    end = min(number + DELAY + 1, len(bundles))
    body = " ;; ".join(bundle.text for bundle in bundles[start:end])
    limit = re.search(
        rf"%{branch[1]} = scmp\.ge\.s32\.totalorder (?:\([^)]*\), )?%(\w+), (\d+)", body
    )
    step = limit and re.search(rf"%{limit[1]} = sadd\.s32 (?:\([^)]*\), )?(\d+), ", body)
    return end, -(-int(limit[2]) // int(step[1])) if step else None


def executed(path: Path) -> Executed:
    """Counts the bundles of a kernel whose grid is the outermost loop."""
    bundles = read(path)
    weights, unknown = [1] * len(bundles), 0
    for start, bundle in enumerate(bundles):
        if bundle.mark != "LB" or bundle.depth < 2:
            continue
        end, times = turns(bundles, start)
        unknown += times is None
        for number in range(start, end):
            weights[number] *= times or 1
    inside = sum(
        weight for bundle, weight in zip(bundles, weights, strict=True) if bundle.depth
    )
    return Executed(inside, len(bundles), unknown)
