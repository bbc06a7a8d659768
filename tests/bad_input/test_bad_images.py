"""Folders of images of many sizes that do not fit the views, the memory or each other."""

import os

import numpy as np
import pytest
from PIL import Image

from kdaug_jax.data import stream
from kdaug_jax.training import staging
from tests.bad_input.helpers import one_line, results

CLASSES = ("ant", "bee")
CROP = {"x": "random_resized_crop(8)"}


@pytest.fixture
def place(tmp_path):
    """Twelve images a class and split, of many sizes."""
    random = np.random.RandomState(0)
    for split in ("train", "validation", "test"):
        for name in CLASSES:
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(12):
                height, width = random.randint(8, 14, 2)
                pixels = random.randint(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return tmp_path / "set"


def sections(place, views=CROP, **changes):
    data = dict(source=f"folder:{place}", batch_size=8)
    return dict(
        data={**data, **changes.pop("data", {})}, views=views,
        eval={"view": "center_crop(8)", **changes.pop("eval", {})}, **changes,
    )


def half(file):
    file.write_bytes(file.read_bytes()[:60])


def other_size(file):
    Image.new("RGB", (20, 30)).save(file)


def test_views_that_fix_no_size(told, place):
    first = "holds images of several sizes (train: 24 images of "
    begin = "the view does not fix one; begin it with random_resized_crop(224), center_crop(224), "
    line = told(2, sections(place, {"x": "flip"}))
    assert line.startswith("error: views.x: the data set " + first) and begin in line
    line = told(2, sections(place, eval={"view": ""}))
    assert line.startswith("error: eval.view: the data set " + first) and begin in line
    line = told(2, sections(place, {"x": "resize_shorter(8)|flip"}))
    assert "write resize_shorter(...)|crop_center(224) or |crop_random(224)" in line
    line = told(2, sections(place, data={"crop": "device"}))
    assert "data.crop: 'device' takes images of one size, and these have several; use 'a" in line


def test_a_crop_larger_than_memory(told, place, monkeypatch):
    line = told(2, sections(place, {"x": "random_resized_crop(60000)|resize(8, 8)"}))
    assert line == (
        "error: views.x.random_resized_crop: gives images of 60000×60000, more than 134,217,727 "
        "pixels; ask for fewer\n"
    )
    line = told(2, sections(place, {"x": "repeat(512)|resize(11000, 11000)|resize(8, 8)"}))
    assert "data.batch_size: the 5 batches of 8 examples that lie in memory at a time take " in line
    assert line.endswith(" GB; take a smaller one, or let views begin with smaller crops\n")
    # What is evaluated is cropped later, and refused as early.
    line = told(2, sections(place, eval={"view": "resize(12000, 12000)|resize(8, 8)"}))
    assert line.startswith("error: eval.view.resize: gives images of 12000×12000, more than ")
    monkeypatch.setattr(stream, "memory_limit", lambda: 1 << 30)
    view = {"view": "resize(2000, 2000)|resize(8, 8)", "batch_size": 4096}
    line = told(2, sections(place, eval=view))
    assert line == (
        "error: eval.batch_size: the 5 batches of 24 examples that lie in memory at a time take "
        "1.4 GB, and there are 1.1 GB; take a smaller one, or let eval.view begin with a smaller "
        "crop\n"
    )
    line = told(2, sections(place, {"x": "crop_random(30)|resize(8, 8)"}))
    assert ": data.train, example 0: size=30 is larger than " in line and line.count("\n") == 1


def test_an_image_above_the_limit(told, place):
    for split in ("train", "test"):
        file = place / split / "bee" / "03.png"
        Image.new("1", (12_000, 12_000)).save(file)
        line = told(3, sections(place))
        limit = "has 12000×12000 pixels, and 134,217,727 is the limit; make it smaller"
        assert f"{split}/bee/03.png: image 15 {limit}" in line
        other_size(file)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_told_by_file_and_position(told, place, workers):
    half(place / "train" / "bee" / "05.png")
    line = told(3, sections(place, data={"workers": workers}))
    assert f"{place}/train/bee/05.png: image 17 is damaged (" in line
    assert "data.bad_images='skip'" in line


def test_images_that_cannot_be_decoded_may_be_skipped(tiny, place, tmp_path, capsys):
    damaged = place / "train" / "bee" / "05.png"
    half(damaged)
    assert tiny(sections(place, data={"bad_images": "skip", "workers": 2})) == 0
    assert (
        f"{place}/train: 1 of 24 images cannot be decoded and are replaced by the next good one "
        "(first: bee/05.png)"
    ) in capsys.readouterr().out
    # Just as if the next good one stood there.
    damaged.write_bytes(damaged.with_name("06.png").read_bytes())
    assert tiny(sections(place), directory=tmp_path / "mended") == 0
    assert results(tmp_path / "mended") == results(tmp_path / "w")


def test_a_class_without_images(tiny, place, tmp_path, capsys):
    for file in (place / "validation" / "bee").iterdir():
        file.unlink()
    assert tiny(sections(place)) == 0
    told_once = "warning: data.validation has no example of 1 of 2 classes: 'bee'"
    assert capsys.readouterr().out.count(told_once) == 1
    for file in (place / "train" / "ant").iterdir():
        file.unlink()
    # The class stays, so that numbers of classes and teachers stay what they are.
    assert tiny(sections(place), directory=tmp_path / "v") == 0
    warned = ("warning: data.train has no example of 1 of 2 classes: 'ant'; of these classes, "
              "which cannot be learnt, data.validation has 12 and data.test has 12")
    assert capsys.readouterr().out.count(warned) == 1


def test_links_that_lead_nowhere(told, place):
    link = place / "train" / "bee" / "link.png"
    link.symlink_to(place / "gone.png")
    assert f"{link}: " in told(3, sections(place))
    link.unlink()
    folder = place / "test" / "cat"
    folder.symlink_to(place / "nowhere", target_is_directory=True)
    assert f"{folder}: " in told(3, sections(place))


def test_classes_of_two_splits_that_differ(told, place):
    os.rename(place / "test" / "bee", place / "test" / "cat")
    line = told(3, sections(place))
    assert "test: has a class folder 'cat' (1 such), and 'train' has not; move it away" in line
    os.rename(place / "test" / "cat", place / "test" / "Bee")
    assert "and 'train' has 'bee'; rename it" in told(3, sections(place))


@pytest.mark.parametrize("change, words", [
    (other_size, "image 15 has 20×30 pixels, and had "),
    (half, "image 15 is damaged ("),
    (os.unlink, "image 15 cannot be read (No such file or directory)"),
])  # fmt: skip
@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_that_changes_during_a_run(
    tiny, place, monkeypatch, capsys, change, words, workers
):
    """Validation images, since those of training are read ahead."""
    stage, changed = staging.Staging.stage, []

    def changing(self, step, count):
        if step == 2 and not changed:
            changed.append(change(place / "validation" / "bee" / "03.png"))
        stage(self, step, count)

    monkeypatch.setattr(staging.Staging, "stage", changing)
    assert tiny(sections(place, data={"workers": workers})) == 3
    line = one_line(capsys.readouterr().err)
    assert f"{place}/validation/bee/03.png: {words}" in line and changed
