"""Compares this package with stored reference outputs, key by key.

    python tests/check_golden.py augment tests/golden/augment

Each key that differs is printed with how much it differs; the last line is `N passed, M failed`,
and the exit status 1 where M is not 0. A key whose op is unknown here has failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import golden_augment

CHECKS = {"augment": golden_augment.check}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=CHECKS)
    parser.add_argument("directory", type=Path, help="holds manifest.json and the .npz files")
    options = parser.parse_args(argv)
    passed = failed = 0
    for name, problem in CHECKS[options.what](options.directory):
        passed, failed = passed + (problem is None), failed + (problem is not None)
        if problem is not None:
            print(f"{name}: {problem}")
    print(f"{passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
