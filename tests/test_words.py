"""Names that were given up stay given up: one word for one thing, in the field's terms."""

import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = sorted((ROOT / "kdaug_jax").rglob("*.py")) + sorted((ROOT / "configs").rglob("*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [*CODE, ROOT / "main.py", *PAGES]

# Identifiers that say nothing of their contents.
VAGUE = {"one", "own", "found"}
# Names that others took the place of, wherever they would stand.
GIVEN_UP = (
    r"\blifting\b", r"\brevisit\b", r"\bcadence\b", r"\bhush\b", r"\btaps?\b", r"\bgroup_size\b",
    r"\bsuits\b", r"\basking\b", r"\bSaid\b", r"\bSeen\b", r"\b(spreads|SPREADS)\b", r"\bslabs?\b",
    r"\bplan_answers\b", r"\bclass (Plan|Answer|RunState|Score)\b",
    r"\bdef (build|lift|near|natural)\(", r"\bconfigs?\.put\b",
    r"\bruntime\.card\b", r"\bops\.(words|double|products|taps)\b", r"\bSetup\.numbers\b",
)


def offenders(find):
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in TEXTS
        for line, name in find(path)
    ]


def identifiers(path):
    if path.suffix != ".py":
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME and token.string in VAGUE:
            yield token.start[0], token.string


def given_up(path):
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        for pattern in GIVEN_UP:
            for match in re.finditer(pattern, line):
                yield number, match[0]


def test_variables_are_named_for_their_contents():
    assert offenders(identifiers) == []


def test_names_that_were_given_up_do_not_come_back():
    assert offenders(given_up) == []
