"""The order of the rooms: imports run downwards only, and each library is owned by one room."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("main",),
    ("search", "compile", "catalog"),
    ("training", "evaluation", "deploy"),
    ("experiment", "data"),
    ("models", "augment", "runtime"),
    ("losses", "metrics", "analysis", "types", "rng", "errors", "registry", "lazy",
     "images", "per_device", "files"),
)
# What one room alone may import.
OWNED = {"flax.linen": "models", "orbax": "runtime/checkpoint.py", "tensorboardX": "runtime/events"}
FILES = sorted((ROOT / "kdaug_jax").rglob("*.py"))


def floor_of(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(path):
    return path.relative_to(ROOT / "kdaug_jax").parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_entry_point(path):
    return 'if __name__ == "__main__":' in path.read_text()


def imports_between_rooms():
    """Lists (path, imported name) of all imports of one room in another; entry points are free."""
    return [
        (path, name)
        for path in FILES if room_of(path) != "__init__" and not is_entry_point(path)
        for name in imports(path)
        if name.startswith("kdaug_jax.") and name.split(".")[1] != room_of(path)
    ]


def circles(edges):
    """Lists pairs of rooms that import each other, directly or through other rooms."""
    reached = {room: {other for start, other in edges if start == room} for room, _ in edges}
    for middle in reached:
        for others in reached.values():
            others |= reached[middle] if middle in others else set()
    return sorted(
        (room, other) for room, others in reached.items() for other in others
        if room < other and room in reached.get(other, ())
    )


def test_imports_run_downwards():
    upwards = [
        f"{path.relative_to(ROOT)} imports {name}" for path, name in imports_between_rooms()
        if floor_of(name.split(".")[1]) < floor_of(room_of(path))
    ]
    assert not upwards


def test_no_entry_point_is_imported():
    imported = []
    for path in FILES:
        for name in () if is_entry_point(path) else imports(path):
            entry = ROOT.joinpath(*name.split(".")[:-1]).with_suffix(".py")
            if name.startswith("kdaug_jax.") and entry.exists() and is_entry_point(entry):
                imported.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not imported


def test_rooms_of_a_floor_do_not_import_each_other_in_a_circle():
    edges = {(room_of(path), name.split(".")[1]) for path, name in imports_between_rooms()}
    assert ("training", "evaluation") in edges
    assert not circles(edges)
    back = {("evaluation", "training"), ("evaluation", "deploy"), ("deploy", "a_leaf")}
    assert circles(edges | back) == [("evaluation", "training")]
    assert circles({("a", "b"), ("b", "c"), ("c", "a")}) == [("a", "b"), ("a", "c"), ("b", "c")]


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
    assert len((ROOT / "main.py").read_text().splitlines()) <= 80
