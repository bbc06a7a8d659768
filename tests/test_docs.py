"""The documentation shows the examples as they are, and names only what exists."""

import re
import string
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
TEXT = (DOCS / "extending.md").read_text()
EXAMPLES = sorted(path.name for path in (DOCS / "examples").glob("*.py"))
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")


def links(page):
    return [target for _, target in LINK.findall(CODE.sub("", page.read_text()))]


def anchors(page):
    """Returns the anchors of a page's headings: lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    kept = set(string.ascii_letters + string.digits + "-_ ")
    return {
        "".join(letter for letter in heading.lower() if letter in kept or letter.isalpha())
        .replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def test_extending_shows_each_example_as_it_is():
    shown = re.findall(r"`docs/examples/(\w+\.py)`:\n\n```python\n(.*?)```\n", TEXT, re.DOTALL)
    assert sorted(name for name, _ in shown) == EXAMPLES
    differing = [name for name, code in shown if code != (DOCS / "examples" / name).read_text()]
    assert differing == []


def test_links_lead_to_files_and_headings():
    broken = []
    for page in PAGES:
        for target in links(page):
            path, _, anchor = target.partition("#")
            if urlsplit(target).scheme:
                continue
            file = page.parent / path if path else page
            if not file.exists() or anchor and anchor not in anchors(file):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_links_to_other_sites_are_well_formed():
    outside = [urlsplit(target) for page in PAGES for target in links(page) if "://" in target]
    assert [url for url in outside if url.scheme != "https" or "." not in url.netloc] == []


def test_each_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} == listed


def test_the_readme_is_a_door():
    assert len((ROOT / "README.md").read_bytes()) <= 9_000
    pictures = list((DOCS / "pictures").glob("*.png"))
    assert pictures and all(path.stat().st_size <= 150_000 for path in pictures)


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    """Each text between the "…" of a message stands in the code, over line breaks of strings."""
    code = "".join(path.read_text() for path in sorted((ROOT / "kdaug_jax").rglob("*.py")))
    code = re.sub(r'"\s*f?"', "", code)
    page = (DOCS / "troubleshooting.md").read_text()
    messages = re.search(r"## By message\n(.*?)\n## ", page, re.DOTALL)[1]
    rows = re.findall(r"^\| `(.+?)` \|", messages, re.MULTILINE)
    assert len(rows) > 20
    parts = [part.strip(" ':") for row in rows for part in re.split("…|: ", row)]
    assert [part for part in parts if part.strip("-") and part not in code] == []


def test_the_troubleshooting_page_has_every_exit_status():
    from kdaug_jax import errors

    kinds = [kind for kind in vars(errors).values()
             if isinstance(kind, type) and issubclass(kind, errors.UserError)]
    page = (DOCS / "troubleshooting.md").read_text()
    assert all(f"\n| {kind.exit_code} |" in page for kind in kinds)
