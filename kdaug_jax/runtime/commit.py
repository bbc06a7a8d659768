"""The commit of the source that runs, for the records of runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """Returns the commit of the checkout that this package lies in; "" where there is none.

    "-dirty" follows where files differ from it.
    """
    if not (ROOT / ".git").exists():
        return ""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40",
             "--exclude=*"]
    try:
        described = subprocess.run(words, capture_output=True, text=True, timeout=10.0)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return described.stdout.strip() if described.returncode == 0 else ""
