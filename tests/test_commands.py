"""Each command that the documentation shows is tested, or says why not; all can be typed.

A block carries `<!-- tested: FILE -->` or `<!-- not run: reason -->` in the line above. Of every
block, files, flags, options and fields are checked without running it.
"""

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EXTRAS_REQUIRED

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(
    r"(?:<!-- (tested|not run): ([^\n]+?) -->\n)?^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
BLOCKS = [(page, *match.groups()) for page in PAGES for match in BLOCK.finditer(page.read_text())]
# In place of the programs: functions of the shell that print their words.
STUBS = "".join(
    f"{name}() {{ printf '%s\\0' {name} \"$@\"; printf '\\n\\0'; }}\n"
    for name in ("python", "make", "pip", ".venv/bin/pip", "source", "cd", "git")
)


def commands_of(block):
    """Yields the words of each command as the shell would pass them."""
    shell = subprocess.run(
        ["bash", "-euc", STUBS + block], capture_output=True, text=True, check=False, timeout=20
    )
    assert shell.returncode == 0 and not shell.stderr, (block, shell.stderr)
    words = []
    for word in shell.stdout.split("\0")[:-1]:
        if word == "\n":
            yield words
            words = []
        else:
            words.append(word)


COMMANDS = sorted({
    (str(page.relative_to(ROOT)), *words)
    for page, _, _, block in BLOCKS for words in commands_of(block)
})
OURS = [words for words in COMMANDS if words[1] == "python" and words[2] == "main.py"]
OTHERS = [words for words in COMMANDS if words not in OURS]


def help_of(module, *before):
    """Returns what a command line prints for --help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as ended:
        module.main([*before, "--help"])
    assert ended.value.code in (0, None)
    return text.getvalue()


def test_each_block_is_tested_or_says_why_not():
    unmarked = [f"{page.name}: {block}" for page, kind, _, block in BLOCKS if kind is None]
    assert unmarked == []
    files = {what.partition(",")[0] for _, kind, what, _ in BLOCKS if kind == "tested"}
    assert [name for name in files if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("words", OURS, ids=lambda words: f"{words[0]} {words[3][9:70]}")
def test_configs_options_and_fields_exist(words, run, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run(*words[3:], "--print_config") == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", OTHERS, ids=lambda words: " ".join(words)[:80])
def test_programs_and_their_flags_exist(words, run, monkeypatch):
    _, program, *words = words
    if program == "make":
        assert all(re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
                   for word in words if "=" not in word)
    if program != "python":
        return
    own, _, after = " ".join(words).partition(" -- ")
    if words[0] == "-m":
        module = importlib.import_module(words[1])
        is_catalog = words[1] == "kdaug_jax.catalog"
        module = importlib.import_module(f"{words[1]}.__main__") if is_catalog else module
        known = help_of(module, *words[2:3] * is_catalog)
    else:
        assert (ROOT / words[0]).is_file()
        shown = [sys.executable, ROOT / words[0], "--help"]
        known = subprocess.run(shown, capture_output=True, text=True, check=True, timeout=60).stdout
    flags = re.findall(r"(?<=\s)--[\w-]+(?![\w.-])", " " + own.replace("--config.", "config."))
    assert [flag for flag in flags if flag not in known] == []
    if after:
        assert run(*after.split()[2:], "--print_config") == 0


def test_the_catalogue_answers_as_documented(capsys, monkeypatch):
    from kdaug_jax.catalog.__main__ import main

    monkeypatch.chdir(ROOT)
    shown = [words for words in OTHERS if words[2:4] == ("-m", "kdaug_jax.catalog")]
    assert len(shown) > 5
    for words in shown:
        assert main(list(words[4:])) == 0, words
        assert capsys.readouterr().out


def test_the_config_of_the_readme_is_whole(tmp_path, run, capsys):
    text = (ROOT / "README.md").read_text()
    shown = re.search(r"```python\n(from kdaug_jax.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(shown[1])
    words = [f"--config={tmp_path}/mine.py", "--config.terms.kd.weight=0.5", "--print_config"]
    assert run(*words) == 0
    assert json.loads(capsys.readouterr().out)["terms"]["kd"]["weight"] == 0.5


def test_pages_build_without_warnings(tmp_path):
    if not EXTRAS_REQUIRED:
        pytest.importorskip("mkdocs", reason="not installed: make install-dev")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}/docs"]
    built = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=300,
        env={"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin",
             "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) > 25
    # They can be read without a network: nothing is loaded from elsewhere.
    loaded = re.compile(r"<(?:script|img|link rel=\"?stylesheet\"?)[^>]*(?:src|href)=\"?https?://")
    assert [page.name for page in pages if loaded.search(page.read_text())] == []
