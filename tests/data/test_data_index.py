import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data import index
from kdaug_jax.data.options import ReadOptions
from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import read_header


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kdaug_jax" / "index"


@pytest.fixture
def opened(monkeypatch):
    """The images whose headers were read."""
    names = []

    def read(file, where, *rest):
        names.append(os.path.basename(where))
        return read_header(file, where, *rest)

    monkeypatch.setattr(index, "read_header", read)
    return names


@pytest.fixture
def images(tmp_path):
    for number in range(4):
        write(tmp_path / "set/train/cat" / f"{number}.png", (5, 4 + number), number)
    return tmp_path / "set"


def write(path, size, level=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (level, 0, 0)).save(path, **options)
    return path


def load(root, lines=None, **options):
    say = (lambda line: None) if lines is None else lines.append
    source = f"folder:{root}"
    return data.load(source, {"train": "train"}, ReadOptions(say=say, **options)).splits["train"]


def test_the_index_is_built_once_and_lies_outside_the_data(images, opened, cache):
    before = sorted(os.walk(images))
    first = load(images)
    assert sorted(opened) == ["0.png", "1.png", "2.png", "3.png"]
    assert sorted(os.walk(images)) == before and len(list(cache.glob("*.npz"))) == 1
    opened.clear()
    second = load(images)
    assert not opened and second.digest == first.digest
    np.testing.assert_array_equal(first.sizes, second.sizes)
    assert first.sizes.tolist() == [[5, 4], [5, 5], [5, 6], [5, 7]]


def test_only_what_changed_is_opened_again(images, opened):
    digest = load(images).digest
    opened.clear()
    place = images / "train" / "cat"
    write(place / "1.png", (9, 9))
    write(place / "new.png", (3, 3))
    (place / "0.png").unlink()
    split = load(images)
    assert sorted(opened) == ["1.png", "new.png"] and split.digest != digest
    assert split.sizes.tolist() == [[9, 9], [5, 6], [5, 7], [3, 3]]
    opened.clear()
    os.utime(place / "2.png", ns=(1, 1))  # a time, even an earlier one
    again = load(images)
    assert opened == ["2.png"] and again.digest == split.digest


@pytest.mark.parametrize("change", ["name", "bytes", "size", "label"])
def test_the_digest_tells_changed_data(images, change):
    digest, place = load(images).digest, images / "train" / "cat"
    assert load(images).digest == digest
    if change == "name":
        (place / "3.png").rename(place / "4.png")
    elif change == "bytes":
        with (place / "3.png").open("ab") as file:
            file.write(b"\0")
    elif change == "size":
        content = (place / "3.png").read_bytes()
        header = content[:12] + b"IHDR" + (8).to_bytes(4, "big") + content[20:29]
        import zlib

        check = zlib.crc32(header[12:]).to_bytes(4, "big")
        (place / "3.png").write_bytes(header + check + content[33:])
    else:
        (images / "train" / "ant").mkdir()
        (place / "3.png").rename(images / "train" / "ant" / "3.png")
    assert load(images).digest != digest


def test_the_digest_does_not_depend_on_place_or_time(images, tmp_path):
    os.rename(images, tmp_path / "moved")
    os.utime(tmp_path / "moved/train/cat/0.png", ns=(1, 1))
    digest = load(tmp_path / "moved").digest
    os.rename(tmp_path / "moved", images)
    assert load(images).digest == digest


def test_a_damaged_or_foreign_index_is_built_anew(images, cache, opened):
    digest = load(images).digest
    (file,) = cache.glob("*.npz")
    for content in (b"", b"text", file.read_bytes()[:300]):
        file.write_bytes(content)
        opened.clear()
        assert load(images).digest == digest and len(opened) == 4


def test_a_cache_that_cannot_be_written_costs_time_only(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    lines = []
    assert len(load(images, lines)) == 4
    (line,) = lines
    assert "the index cannot be kept (Not a directory)" in line and "$XDG_CACHE_HOME" in line


def test_statistics_follow_pixels_that_change_without_the_digest(images):
    path = images / "train/cat/0.png"
    before = data.describe(data.load(f"folder:{images}", {"train": "train"}))
    size = path.stat().st_size
    write(path, (5, 4), 200)
    with path.open("ab") as file:
        file.write(b"\0" * max(0, size - path.stat().st_size))
    after = data.describe(data.load(f"folder:{images}", {"train": "train"}))
    assert after.mean != before.mean


def test_statistics_are_not_those_of_another_folder_with_the_same_digest(tmp_path):
    """Files without compression have equal bytes whatever they show."""
    for folder, level in (("dark", 10), ("light", 200)):
        write(tmp_path / folder / "train/cat/0.bmp", (5, 4), level)
    for folder, level in (("dark", 10), ("light", 200), ("dark", 10)):
        split = load(tmp_path / folder)
        assert data.describe(data.Dataset({"train": split}, ("cat",))).mean[0] == level


def test_bad_images_are_refused_by_name(images):
    file = images / "train/cat/2.png"
    file.write_bytes(b"text")
    with pytest.raises(DataError, match=r"2.png: image 2 is not a PNG, JPEG.*; replace or remove"):
        load(images)
    write(file, (5, 5))
    assert len(load(images)) == 4


def cut(path):
    """Makes an image whose header is good and whose pixels are not."""
    random = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(random).save(path)
    path.write_bytes(path.read_bytes()[:3000])


def test_bad_images_are_replaced_by_the_next_good_one(images, opened):
    place = images / "train" / "cat"
    cut(place / "1.png")
    (place / "2.png").write_bytes(b"")
    write(images / "train/dog/0.png", (5, 5), 9)
    cut(images / "train/dog/1.png")
    lines = []
    split = load(images, lines, bad_images="skip")
    assert [split.image_at(row).getpixel((0, 0))[0] for row in range(6)] == [0, 3, 3, 3, 9, 0]
    # The label is that of the image that is shown, the position stays.
    assert split.label.tolist() == [0, 0, 0, 0, 1, 0] and split.index.tolist() == [*range(6)]
    assert split.sizes[1].tolist() == [5, 7]
    (line,) = lines
    assert "3 of 6 images cannot be decoded and are replaced by the next good one" in line
    assert line.endswith("(first: cat/1.png)")
    opened.clear()
    assert load(images, bad_images="skip").digest == split.digest and not opened
    with pytest.raises(DataError, match="2.png: image 2 is an empty file"):
        load(images)  # the same index, but nothing is skipped
    with pytest.raises(DataError, match="1.png: image 1 is damaged"):
        (place / "2.png").unlink()
        load(images).image_at(1)


def test_a_bad_image_is_replaced_by_one_of_its_own_part(tmp_path):
    """The next one of all may be held out: training would see what it is evaluated on."""
    for number in range(6):
        write(tmp_path / "set/train/cat" / f"{number}.png", (5, 4 + number), number)
    for number in (2, 5):
        (tmp_path / "set/train/cat" / f"{number}.png").write_bytes(b"")
    options = ReadOptions(bad_images="skip", say=lambda line: None)

    def levels(**parts):
        splits = data.load(f"folder:{tmp_path / 'set'}", parts, options).splits
        return [
            [split.image_at(row).getpixel((0, 0))[0] for row in range(len(split))]
            for split in splits.values()
        ]

    assert levels(train="train") == [[0, 1, 3, 3, 4, 0]]
    assert levels(train="train[:3]", validation="train[3:]") == [[0, 1, 0], [3, 4, 3]]
    first, second = levels(train="holdout(50%)", validation="holdout(50%)")
    assert len(first) == len(second) == 3 and not set(first) & set(second)
    with pytest.raises(DataError, match="set/train: no image of a part can be decoded; take a lar"):
        levels(train="train[5:]")


def test_no_good_image_at_all(images):
    for number in range(4):
        (images / "train/cat" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no image can be decoded"):
        load(images, bad_images="skip")


def test_transparent_images_are_not_skipped(images):
    Image.new("RGBA", (4, 4)).save(images / "train/cat/1.png")
    split = load(images, bad_images="skip")
    with pytest.raises(DataError, match="image 1 is partly transparent"):
        split.image_at(1)
    assert load(images, bad_images="skip", alpha="white").image_at(1).getpixel((0, 0))[0] == 255


def test_colours_of_sixteen_bits_with_a_transparent_one_are_skipped(images):
    """As the message of such a file advises."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">3H", 1, 2, 3) * 4) * 4
    chunks = header, b"tRNS" + struct.pack(">3H", 1, 2, 3), b"IDAT" + zlib.compress(rows), b"IEND"
    (images / "train/cat/1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    ))
    with pytest.raises(DataError, match="or let data.bad_images='skip' pass over it"):
        load(images).image_at(1)
    lines = []
    split = load(images, lines, bad_images="skip")
    assert "1 of 4 images cannot be decoded" in lines[0] and len(split) == 4
    assert split.image_at(1).tobytes() == split.image_at(2).tobytes()


def test_orientations_are_told(images):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("4.jpg", "5.jpg"):
        write(images / "train/cat" / name, (5, 9), exif=exif)
    lines = []
    assert load(images, lines).sizes[4:].tolist() == [[5, 9], [5, 9]]
    assert "EXIF notes another orientation (images: 2, first: cat/4.jpg); they are left" in lines[0]
    assert lines[0].endswith("data.exif='apply' turns them")
    split = load(images, lines, exif="apply")
    assert split.sizes[4:].tolist() == [[9, 5], [9, 5]] and split.image_at(4).size == (5, 9)
    assert lines[1].endswith("they are turned")


def test_a_turn_that_makes_sizes_differ_is_told(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    write(tmp_path / "set/train/cat/0.jpg", (5, 9))
    write(tmp_path / "set/train/cat/1.jpg", (5, 9), exif=exif)
    lines = []
    assert load(tmp_path / "set", exif="apply", lines=lines).size is None
    assert "which makes sizes differ; data.exif='ignore' leaves them as they are" in lines[0]
    assert load(tmp_path / "set").size == (5, 9)


def test_progress_is_shown(images, monkeypatch):
    monkeypatch.setattr(index, "SECONDS_BETWEEN_BARS", 0.0)
    monkeypatch.setattr(index, "CHUNK", 2)
    bars = []
    load(images, progress=lambda done, text: bars.append((done, text)))
    assert [done for done, _ in bars] == [0.5, 1.0]
    assert bars[-1][1].endswith("set/train: 4 of 4 images")


def test_what_was_read_before_an_error_is_kept(images, opened, monkeypatch):
    monkeypatch.setattr(index, "CHUNK", 1)
    (images / "train/cat/3.png").write_bytes(b"text")
    with pytest.raises(DataError):
        load(images)
    opened.clear()
    write(images / "train/cat/3.png", (5, 5))
    load(images)
    assert opened == ["3.png"]


@pytest.mark.slow
def test_opening_again_is_fast(tmp_path):
    """40,000 files a few µs each: ImageNet's 1.28 million in seconds."""
    content = write(tmp_path / "a.png", (5, 5)).read_bytes()
    for number in range(40):
        place = tmp_path / "set/train" / f"n{number:08d}"
        place.mkdir(parents=True)
        for image in range(1000):
            (place / f"{image}.JPEG").write_bytes(content)
    load(tmp_path / "set")
    start = time.perf_counter()
    load(tmp_path / "set")
    assert time.perf_counter() - start < 4
