import numpy as np
import pytest
from PIL import Image

from kdaug_jax.analysis import gallery


def test_ops_and_views_are_drawn(tmp_path, capsys):
    ops, views = tmp_path / "ops.png", tmp_path / "views.png"
    assert gallery.main([str(ops), "--ops=torchvision", "--size=24"]) == 0
    flags = ["--view=flip", "--view=pad_crop(2)|wei2020(1, 5)", "--size=16", "--samples=2"]
    assert gallery.main([str(views), *flags]) == 0
    assert capsys.readouterr().out.split() == [str(ops), str(views)]
    for file in (ops, views):
        with Image.open(file) as picture:
            assert min(picture.size) > 300 and np.asarray(picture).std() > 10


@pytest.mark.slow
@pytest.mark.parametrize("figure", [1, 2, 3])
def test_the_figures_of_wei_2020(tmp_path, figure):
    flags = [f"--figure={figure}", "--size=24", "--samples=2"]
    assert gallery.main([str(tmp_path / "x.png"), *flags]) == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert min(picture.size) > 200 and np.asarray(picture).std() > 10


def test_magnitudes_of_the_own_space_begin_with_the_image(tmp_path):
    image = np.full((1, 16, 16, 3), 7, np.uint8)
    image[0, :, :8] = 200
    space = gallery.wei2020_levels()
    _, rows, captions = gallery.op_rows(
        space, [("ShearX",), ("TranslateX",), ("Cutout",)], (0, 3, 10), "pillow", "mean", image
    )
    assert [len(row) for row in rows] == [3] * 3
    for row in rows:
        assert (row[0] == image[0]).all() and np.ptp(row[2].reshape(-1, 3), axis=0).max() == 0
    assert captions[1][1] == "m=3: 5"


def test_a_picture_of_your_own(tmp_path):
    file = tmp_path / "wide.png"
    Image.fromarray(np.arange(8 * 20, dtype=np.uint8).reshape(8, 20)).save(file)
    (picture,) = gallery.read_pictures([file])
    image = gallery.square(picture, 4)
    assert image.shape == (4, 4, 3) and (image[..., 0] == image[..., 1]).all()


def test_a_leading_crop_is_cut_from_the_stored_picture(tmp_path):
    flags = ["--view=random_resized_crop(40)|flip", "--view=center_crop(40)", "--samples=2"]
    assert gallery.main([str(tmp_path / "x.png"), *flags]) == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert np.asarray(picture).std() > 10


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--ops=papre"], "error: --ops: unknown space 'papre'; did you mean paper?"),
        (["--view=flipp"], "error: views.x: unknown stage 'flipp'; did you mean flip"),
        (["--view=mixup(1.0)"], "needs a batch with labels"),
        (["--view=cutout(99)", "--size=8"], "is larger than the 8×8 image"),
        (["--view=flip", "--image=/proc/none.png"], "error: --image: /proc/none.png cannot be rea"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, capsys, flags, message):
    assert gallery.main([str(tmp_path / "x.png"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "x.png").exists()
