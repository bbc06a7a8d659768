"""The order of the rooms: imports run downwards only, and each library is owned by one room."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("main",),
    ("search",),
    ("training", "evaluation", "deploy"),
    ("experiment", "data"),
    ("models", "augment", "runtime"),
    ("losses", "metrics", "analysis", "types", "rng", "errors", "registry"),
)
# What one room alone may import.
OWNED = {"flax.linen": "models", "orbax": "runtime/checkpoint.py", "tensorboardX": "runtime/writer"}
FILES = sorted((ROOT / "kdaug_jax").rglob("*.py"))


def floor_of(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_entry_point(path):
    return 'if __name__ == "__main__":' in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    room = path.relative_to(ROOT / "kdaug_jax").parts[0].removesuffix(".py")
    if room == "__init__" or is_entry_point(path):
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "kdaug_jax" or len(parts) < 2:
            continue
        other = parts[1]
        assert other == room or floor_of(other) >= floor_of(room), f"{room} imports {name}"
        entry = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
        assert not (entry.exists() and is_entry_point(entry)), f"{name} is an entry point"


@pytest.mark.parametrize("library", OWNED)
def test_a_library_is_imported_by_its_owner_only(library):
    users = {
        str(path.relative_to(ROOT / "kdaug_jax"))
        for path in FILES
        if any(name == library or name.startswith(library + ".") for name in imports(path))
    }
    assert users and all(user.startswith(OWNED[library]) for user in users)


@pytest.mark.parametrize("file, most", [("step.py", 200), ("loop.py", 250)])
def test_step_and_loop_stay_short_and_name_no_method(file, most):
    text = (ROOT / "kdaug_jax" / "training" / file).read_text()
    assert len(text.splitlines()) < most
    words = ("kd", "distil", "paper", "mixup", "cutmix", "teacher's", "topk", "crd", "entropy")
    found = [word for word in words if re.search(rf"\b{word}(?!aug)", text.lower())]
    assert not found


def test_main_stays_short():
    assert len((ROOT / "main.py").read_text().splitlines()) < 80
