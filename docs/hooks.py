"""Fits the files of docs/ to the pages that MkDocs makes of them.

On a code host `[x](../kdaug_jax/x.py)` leads to the file. In the built pages such a link becomes
its label, since where the repository will be served is not known. `<!-- results of 000 -->` is
replaced by the table of that paper in results.md, which is generated from results/.
"""

import posixpath
import re
from pathlib import Path

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(?:#[^)]*)?\)")


RESULTS = re.compile(r"<!-- results of (\w+) -->")


def on_page_markdown(markdown, page, **_):
    """Fills in results; replaces links to code and to files outside of docs/ by their labels."""
    folder = posixpath.dirname(page.file.src_uri)

    def label(match):
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        outside = target.startswith("../") or not posixpath.splitext(target)[1]
        return match[1] if outside or target.endswith(".py") else match[0]

    results = (Path(__file__).parent / "results.md").read_text()
    return LINK.sub(label, RESULTS.sub(lambda match: results_of(match[1], results), markdown))


def results_of(paper, text):
    """Returns the part of results.md on a paper."""
    part = re.search(rf"^## {paper}\n(.*?)(?=^## |^Paper ±|\Z)", text, re.MULTILINE | re.DOTALL)
    return part[1].strip() if part else "No run of a row of this paper is recorded yet."
