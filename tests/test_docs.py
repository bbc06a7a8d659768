"""The documentation shows the examples as they are, and names only what exists."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "extending.md").read_text()
EXAMPLES = sorted(path.name for path in (DOCS / "examples").glob("*.py"))


def test_extending_shows_each_example_as_it_is():
    shown = re.findall(r"`docs/examples/(\w+\.py)`:\n\n```python\n(.*?)```\n", TEXT, re.DOTALL)
    assert sorted(name for name, _ in shown) == EXAMPLES
    differing = [name for name, code in shown if code != (DOCS / "examples" / name).read_text()]
    assert differing == []


def test_links_of_the_documentation_lead_somewhere():
    root = DOCS.parent
    broken = [
        f"{path.relative_to(root)}: {target}"
        for path in (root / "README.md", *DOCS.glob("*.md"))
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text())
        if not (path.parent / target).exists()
    ]
    assert broken == []
