"""Compares the losses of two runs row by row: `python tests/compare_losses.py RUN RUN`.

Prints the largest difference of each `train/` metric and the first step that differs; ends with 1
where a row differs, or where there is none to compare.
"""

import argparse
import json
import sys
from pathlib import Path


def read_rows(directory):
    """Returns the metrics of training by step and member."""
    lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {
        (row["step"], row.get("member", ""), name): value
        for row in rows if "step" in row for name, value in row.items() if name.startswith("train/")
    }


def main(words=None):
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs=2, help="a working directory")
    first, second = map(read_rows, parser.parse_args(words).run)
    shared = sorted(first.keys() & second.keys())
    differing = [key for key in shared if first[key] != second[key]]
    print(f"{len(shared)} values of both runs, {len(first.keys() ^ second.keys())} of one alone")
    for name in sorted({key[2] for key in differing}):
        keys = [key for key in differing if key[2] == name]
        largest = max(abs(first[key] - second[key]) for key in keys)
        print(f"{name}: differs from step {keys[0][0]} on, by at most {largest:.3g}")
    if shared and not differing:
        print("equal in every digit")
    return int(not shared or bool(differing))


if __name__ == "__main__":
    sys.exit(main())
