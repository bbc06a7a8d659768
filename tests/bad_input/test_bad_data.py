"""Data that are absent, damaged or of another kind."""

import numpy as np
import pytest
from PIL import Image

from tests.bad_input.helpers import one_line
from tests.data import made


def folder(directory):
    return f"folder:{made.folder(directory / 'set', made.arrays())}"


def npz(directory, **changes):
    arrays = {name: dict(zip("xy", two, strict=True)) for name, two in made.arrays().items()}
    arrays["train"] |= changes
    pairs = {name: (two["x"], two["y"]) for name, two in arrays.items()}
    return f"arrays:{made.npz(directory / 'set.npz', pairs)}"


def without(directory, name):
    made.idx(directory, made.arrays(channels=1))
    (directory / name).unlink()
    return f"idx:{directory}"


IMAGE, LABEL = made.arrays()["train"]


@pytest.mark.parametrize(
    "source, message",
    [
        # Absent or in parts
        (lambda d: f"idx:{d / 'no'}", "no: is not a directory; these files are wanted"),
        (lambda d: without(d, "t10k-labels-idx1-ubyte"), "has no t10k-labels-idx1-ubyte; these fi"),
        (lambda d: f"cifar10:{d}", "has no data_batch_1.bin, data_batch_2.bin"),
        (lambda d: f"cifar100:{d}", "has no train.bin, test.bin; unpack cifar-100-binary.tar.gz"),
        (lambda d: f"folder:{d}", "holds no folders; the layout is DIR/SPLIT/CLASS/IMAGE.jpg"),
        (lambda d: f"arrays:{d / 'no.npz'}", "is neither a file nor a registered name;"),
        (lambda d: f"tfds:mini?data_dir={d}", "no prepared set lies here; prepare it once where"),
        (lambda d: "folder:" + "x" * 300, "…' is too long for a path; name another"),
        (lambda d: "synthetic:8x8,4,4000000000000", "does not fit into memory (Unable to allocate"),
        # Labels
        (lambda d: npz(d, y=LABEL - 1), "(train): example 0 has label -1 (4 such); without "),
        (lambda d: npz(d, y=LABEL / 2), "labels are float64; integer class numbers are wanted"),
        (lambda d: npz(d, y=LABEL[:5]), "12 images and 5 labels; one label an image is wanted"),
        # Images of other kinds
        (lambda d: npz(d, x=IMAGE.view(np.int8)), "images are int8 from -128 to 127; uint8 0..255"),
        (lambda d: npz(d, x=IMAGE / 255), "images are float64 from 0.0 to 1.0; uint8 0..255 is wa"),
        (lambda d: npz(d, x=IMAGE[..., :2]), "images have shape (12, 6, 6, 2); [N,H,W,3] or grey"),
        (lambda d: npz(d, x=IMAGE[:0], y=LABEL[:0]), "(train): holds no example; give at least o"),
    ],
)
def test_data(told, tmp_path, source, message):
    place = tmp_path / "data"
    place.mkdir()
    data = dict(source=source(place), batch_size=4, validation="test")
    assert message in told(3, dict(data=data))


def half(file):
    file.write_bytes(file.read_bytes()[:60])


def transparent(file):
    image = Image.open(file).convert("RGBA")
    image.putalpha(128)
    image.save(file)


def deep(file):
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(file)


@pytest.mark.parametrize("device_gb", [2.0, 0.0], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (half, "train/bee/005.png: image 5 is damaged ("),
        (lambda file: file.write_text("text"), "train/bee/005.png: image 5 is not a PNG, JPEG"),
        (transparent, "train/bee/005.png: image 5 is partly transparent; put it on a background"),
    ],
)
def test_an_image(told, tmp_path, damage, message, device_gb):
    data = dict(source=folder(tmp_path), batch_size=4, validation="test", device_gb=device_gb)
    damage(tmp_path / "set" / "train" / "bee" / "005.png")
    assert message in told(3, dict(data=data))


def test_a_test_image_is_told_after_training_and_mended(tiny, tmp_path, capsys):
    data = dict(
        source=folder(tmp_path), batch_size=4, train="stratified(train[:50%])",
        validation="stratified(train[50%:])",
    )
    file = tmp_path / "set" / "test" / "bee" / "003.png"
    deep(file.with_name("001.png"))  # 16-bit grey is an image like any other
    whole = file.read_bytes()
    half(file)
    assert tiny(dict(data=data)) == 3
    assert "test/bee/003.png: image 4 is damaged" in one_line(capsys.readouterr().err)
    # Nothing is lost: the run was saved before.
    file.write_bytes(whole)
    assert tiny(dict(data=data)) == 3  # the data are other ones now, which has to be wanted
    assert "--allow_config_change to go on with what is there" in one_line(capsys.readouterr().err)
    assert tiny(dict(data=data), "--allow_config_change") == 0
    assert "before, at step 2" in capsys.readouterr().out
