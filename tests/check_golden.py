"""Compares this package with stored reference outputs, key by key.

    python tests/check_golden.py augment tests/golden/augment
    python tests/check_golden.py losses tests/golden/losses
    python tests/check_golden.py models tests/golden/models

What differs is printed with how much it differs; the last line is `N passed, M failed`, and the
exit status 1 where M is not 0. What is unknown here has failed, and
so has a folder without anything to compare.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import golden_augment, golden_models
from tests.golden_losses import check as golden_losses


def check_augment(directory: Path) -> tuple[int, int]:
    """Checks a folder of augmented images: how many keys agree, how many do not."""
    passed = failed = 0
    for name, problem in golden_augment.check(directory):
        passed, failed = passed + (problem is None), failed + (problem is not None)
        if problem is not None:
            print(f"{name}: {problem}")
    return passed, failed


CHECKS = {
    "augment": check_augment, "losses": golden_losses.check,
    "models": golden_models.check,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=CHECKS)
    parser.add_argument("directory", type=Path, help="holds the stored outputs")
    options = parser.parse_args(argv)
    if not options.directory.is_dir():
        parser.error(f"{options.directory} is not a folder")
    passed, failed = CHECKS[options.what](options.directory)
    print(f"{passed} passed, {failed} failed", flush=True)
    return int(failed > 0 or not passed)


if __name__ == "__main__":
    sys.exit(main())
