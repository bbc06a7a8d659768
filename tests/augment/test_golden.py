"""The stored outputs of Pillow and of the EfficientNet code, and the script that checks them."""

import json

import numpy as np
import pytest

from tests import check_golden, golden_augment
from tests.augment.images import FOLDER, augment_cases

# On the CPU that this is tested on, the float32 ops of the EfficientNet code are met exactly too.
RESIZES = ("resize_bicubic_tf1", "resize_bicubic_tf2")
EXACT = {"tpu": {op: golden_augment.TOLERANCES["tpu"][op] for op in RESIZES}}


@pytest.mark.parametrize(("folder", "count"), [("augment", 665), ("augment_tf", 240)])
def test_every_stored_output_is_met(folder, count):
    results = list(golden_augment.check(FOLDER / folder, EXACT))
    assert [result for result in results if result[1] is not None] == []
    assert len(results) == count


@pytest.fixture
def small(tmp_path):
    """A folder of three cases and a function that rewrites it."""
    cases = {
        "invert": {"op": "invert", "args": {}, "sets": ["one"]},
        "solarize/t=26": {"op": "solarize", "args": {"t": 26}, "sets": ["one"]},
        "rotate/deg=15": {"op": "rotate", "args": {"deg": 15}, "sets": ["one"]},
    }
    arrays = {name: augment_cases("s40x24")[name][:1].copy() for name in ("in", *cases)}

    def write(variant="pillow"):
        manifest = {"variant": variant, "sets": {"one": {}}, "cases": cases}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        np.savez_compressed(tmp_path / "one.npz", **arrays)
        return tmp_path

    return cases, arrays, write


def run(directory, capsys):
    status = check_golden.main(["augment", str(directory)])
    return status, capsys.readouterr().out.splitlines()


def test_the_script_counts_what_passes(small, capsys):
    assert run(small[2](), capsys) == (0, ["3 passed, 0 failed"])


@pytest.mark.parametrize("fault", [
    "value", "shape", "op", "args", "no op", "no args", "extra", "missing", "variant",
])
def test_the_script_fails_what_differs_or_is_not_known(small, capsys, fault):
    cases, arrays, write = small
    failed = 3 if fault == "variant" else 1
    if fault == "value":
        arrays["invert"][0, 3, 4, 1] ^= 1
    elif fault == "shape":
        arrays["invert"] = arrays["invert"][:, :-1]
    elif fault == "op":
        cases["invert"]["op"] = "revert"
    elif fault == "args":
        cases["solarize/t=26"]["args"] = {"threshold": 26}
    elif fault.startswith("no "):
        del cases["rotate/deg=15"][fault.removeprefix("no ")]
    elif fault == "extra":
        arrays["novel"] = arrays["in"]
        cases["rotate/deg=15"]["sets"] = ["one", "two"]
    elif fault == "missing":
        del arrays["invert"]
    status, lines = run(write("gimp" if fault == "variant" else "pillow"), capsys)
    passed = 3 if fault == "extra" else 3 - failed
    assert status == 1 and lines[-1] == f"{passed} passed, {failed} failed"
    assert len(lines) == failed + 1 and all(line.startswith("one/") for line in lines[:-1])


def test_the_script_fails_what_cannot_be_read(small, tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    assert run(tmp_path / "nothing", capsys)[1][-1] == "0 passed, 1 failed"
    directory = small[2]()
    (directory / "one.npz").write_bytes(b"no zip file")
    status, lines = run(directory, capsys)
    assert status == 1 and lines[-1] == "0 passed, 3 failed"


@pytest.mark.parametrize("fault", ["no sets", "list", "none"])
def test_the_script_fails_a_manifest_that_is_none(small, capsys, fault):
    cases, _, write = small
    if fault == "no sets":
        del cases["invert"]["sets"]
    directory = write()
    if fault != "no sets":
        content = [] if fault == "list" else {"variant": "pillow", "cases": {}, "sets": {}}
        (directory / "manifest.json").write_text(json.dumps(content))
    status, lines = run(directory, capsys)
    assert status == 1 and lines[-1] == "0 passed, 1 failed"
