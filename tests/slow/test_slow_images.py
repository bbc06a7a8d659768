"""Data sets as they lie on people's disks, through the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import EXTRAS_REQUIRED
from tests.data.photographs import photographs

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STAMPS = "tuxpaint-stamps-default"
# Of its sixteen categories those with 30 pictures or more.
LARGER = ("animals", "food", "household", "plants", "seasonal", "symbols", "town", "vehicles")


def main(*words):
    """Runs the command line as a user does; returns exit status, console and error lines."""
    done = subprocess.run(
        [sys.executable, "main.py", *map(str, words)], cwd=ROOT, text=True, capture_output=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """Debian's pictures for Tux Paint: 796 PNGs of 595 sizes, most with transparency."""
    place = tmp_path_factory.mktemp("stamps")
    fetched = None
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        fetched = subprocess.run(
            ["apt-get", "download", STAMPS], cwd=place, capture_output=True, text=True
        )
    if fetched is None or fetched.returncode:
        reason = f"{STAMPS} cannot be fetched: {fetched.stderr if fetched else 'no apt-get'}"
        if EXTRAS_REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    (package,) = place.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, place / "unpacked"], check=True)
    package.unlink()
    (place / "larger").mkdir()
    for category in LARGER:  # with all their inner folders, texts and sounds
        inside = place / "unpacked" / "usr" / "share" / "tuxpaint" / "stamps" / category
        shutil.move(inside, place / "larger" / category)
    shutil.rmtree(place / "unpacked")
    return place / "larger"


def test_pictures_of_a_package_train_teacher_and_student(stamps, tmp_path):
    config = "--config=configs/images_kd.py:epochs=6,side=32"
    words = [config, f"--workdir={tmp_path / 'w'}", f"--config.data.source=folder:{stamps}"]
    # Transparency is the first that a user hears of.
    status, _, error = main(*words, "--mode=preview")
    assert status == 3 and error.count("\n") == 1
    assert "frog-1.png: image 0 is partly transparent" in error and "data.alpha='white'" in error
    words.append("--config.data.alpha=white")
    status, console, error = main(*words, "--mode=preview")
    assert status == 0, error
    with Image.open(tmp_path / "w" / "preview.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert picture.width > 1000 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    status, console, error = main(*words)
    assert status == 0, error
    for line in (
        f"{stamps}: its folders hold images, so they are the 8 classes of one split, 'train'",
        "8 classes, images of several sizes",
        "network             validation accuracy  validation nll",
    ):
        assert line in console, console
    assert f"{stamps}: passed over " in console and "test accuracy" not in console
    results = json.loads((tmp_path / "w" / "results.json").read_text())[""]
    # Chance is 0.125; seen at 0.46. Held out by the last folders of each class it was 0.23.
    assert results["eval/validation/accuracy"] > 0.35
    status, again, error = main(*words, "--mode=evaluate")
    assert status == 0, error
    rows = [[line.split() for line in text.splitlines() if line.startswith("student (resnet8)")][-1]
            for text in (console, again)]
    assert rows[0] == rows[1] and len(rows[0]) == 5


def test_efficientnet_b7_reads_imagenet_as_it_lies(tmp_path):
    wnids = [f"n{1440764 + 7919 * number:08d}" for number in range(60)]
    root = photographs(
        tmp_path / "imagenet", {"train": 1, "val": 1}, classes=wnids, smallest=80, largest=200
    )
    os.rename(root / "val" / wnids[0] / "0000.jpg", root / "val" / wnids[0] / "0000.JPEG")
    words = [
        "--config=configs/efficientnet_b7_kd.py:smoke", f"--workdir={tmp_path / 'w'}",
        f"--config.data.source=folder:{root}",
    ]
    status, console, error = main(*words)
    assert status == 0, error
    assert "60 train, 60 validation, 60 test; 60 classes, images of several sizes" in console
    assert json.loads((tmp_path / "w" / "classes.json").read_text()) == wnids
    results = json.loads((tmp_path / "w" / "results.json").read_text())[""]
    assert results["eval/test/nll"] == results["eval/validation/nll"] > 0
