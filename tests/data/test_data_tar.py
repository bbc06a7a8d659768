"""Tar archives of images and labels."""

import gzip
import importlib
import io
import os
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data import ReadOptions
from kdaug_jax.data.sources.tar import scan_shard
from kdaug_jax.errors import ConfigError, DataError

BOTH = {"train": "train", "test": "test"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(number, size=(5, 4)):
    image = np.full((size[1], size[0], 3), number, np.uint8)
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def write(path, members, form=tarfile.PAX_FORMAT):
    """Writes (name, content) in this order; a content may be a TarInfo instead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(numbers, sizes=((5, 4),), folder=""):
    """Samples of a class number and an image in one colour, of alternating sizes."""
    return [
        entry for number in numbers for entry in (
            (f"{folder}{number:04d}.cls", b"%d\n" % (number % 3)),
            (f"{folder}{number:04d}.png", png(number, sizes[number % len(sizes)])),
        )
    ]


def shards(directory, mixed=False):
    """Two shards of train, one of val and one of test."""
    sizes = ((5, 4), (4, 5), (6, 6)) if mixed else ((5, 4),)
    for name, numbers in (
        ("train-0000", range(5)), ("train-0001", range(5, 8)), ("val-0000", range(8, 11)),
        ("test-0000", range(11, 14)),
    ):
        write(directory / f"{name}.tar", samples(numbers, sizes))
    return directory


def colours(split):
    return [split.image_at(row).getpixel((0, 0))[0] for row in range(len(split))]


def test_shards_of_a_directory(tmp_path):
    dataset = data.load(
        f"tar:{shards(tmp_path / 'set')}", BOTH | {"validation": "validation"}
    )
    assert dataset.class_names == ("0", "1", "2")
    train = dataset.splits["train"]
    assert colours(train) == list(range(8)) and train.label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert colours(dataset.splits["validation"]) == [8, 9, 10]
    assert colours(dataset.splits["test"]) == [11, 12, 13]
    assert train.size == (4, 5) and not train.in_memory and len(train.digest) == 64
    part = pickle.loads(pickle.dumps(train.take(np.array([7, 0, 5]))))
    assert part.read([0, 2])[:, 0, 0, 0].tolist() == [7, 5]
    assert part.index.tolist() == [7, 0, 5] and part.digest == train.digest


def test_images_of_many_sizes(tmp_path):
    train = data.load(f"tar:{shards(tmp_path / 'set', mixed=True)}", BOTH).splits["train"]
    assert train.size is None
    assert train.sizes.tolist()[:3] == [[4, 5], [5, 4], [6, 6]]
    assert train.image_at(2).size == (6, 6) and train.image_at(2).getpixel((5, 5)) == (2, 2, 2)
    with pytest.raises(DataError, match="several sizes, such as 5×4 and 4×5"):
        train.read([0, 1])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_archive_and_long_names(tmp_path, form):
    long = "" if form == tarfile.USTAR_FORMAT else "d" * 120 + "/"
    path = write(tmp_path / "set" / "train-0000.tar", samples(range(4), folder=long), form)
    write(tmp_path / "set" / "test-0000.tar", samples(range(2)), form)
    splits = data.load(f"tar:{tmp_path / 'set'}", BOTH).splits
    assert colours(splits["train"]) == [0, 1, 2, 3]
    found, passed = scan_shard(str(path))
    assert found[1].member == f"{long}0001.png" and not passed


@pytest.mark.skipif(sys.platform != "linux", reason="runs GNU tar")
def test_an_archive_of_gnu_tar(tmp_path):
    for name, content in samples(range(3)):
        (tmp_path / name).write_bytes(content)
    subprocess.run(
        ["tar", "--sort=name", "-cf", tmp_path / "train.tar", "-C", tmp_path, "--exclude=*.tar",
         "."], check=True,
    )
    split = data.load(f"tar:{tmp_path / 'train.tar'}", {"train": "train"}).splits["train"]
    assert colours(split) == [0, 1, 2]


def test_patterns_and_their_options(tmp_path):
    place = shards(tmp_path / "set")
    (tmp_path / "names").write_text("cat\ndog\nT-shirt/top\n\n")
    options = f"test={place}/test-*.tar&validation={place}/val-0000.tar&classes={tmp_path}/names"
    for pattern in ("train-{0000..0001}.tar", "train-*.tar", "train-000{0,1}.tar"):
        dataset = data.load(f"tar:{place}/{pattern}?{options}", BOTH | {"validation": "validation"})
        assert dataset.class_names == ("cat", "dog", "T-shirt/top")
        assert colours(dataset.splits["train"]) == list(range(8))
        assert colours(dataset.splits["validation"]) == [8, 9, 10]
        assert colours(dataset.splits["test"]) == [11, 12, 13]
    only = data.load(f"tar:{place}/train-0001.tar", {"train": "train"}).splits["train"]
    assert colours(only) == [5, 6, 7]


def test_archives_in_several_folders(tmp_path):
    for folder, numbers in (("a", range(2)), ("b", range(2, 4))):
        write(tmp_path / "set" / folder / "0.tar", samples(numbers))
    source = f"tar:{tmp_path}/set/{{a,b}}/0.tar"
    assert colours(data.load(source, {"train": "train"}).splits["train"]) == [0, 1, 2, 3]
    write(tmp_path / "set" / "b" / "0.tar", [("a.png", b"text"), ("a.cls", b"0")])
    refused(source, f"{tmp_path}/set/b/0.tar: a.png: image 2 is not a PNG")


def refused(source, what, splits=("train",), error=DataError, **options):
    with pytest.raises(error, match=what) as caught:
        data.load(source, {name: name for name in splits}, ReadOptions(say=no_line, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def no_line(text):
    pass


def test_folders_of_shards(tmp_path):
    for folder, numbers in (("train", range(3)), ("val", range(3, 5))):
        write(tmp_path / folder / "0.tar", samples(numbers))
    splits = data.load(
        f"tar:{tmp_path}", {"train": "train", "validation": "validation"}
    ).splits
    assert colours(splits["validation"]) == [3, 4]
    (tmp_path / "train" / "shard-1.tar.gz").write_bytes(gzip.compress(b""))
    refused(f"tar:{tmp_path}", "train/shard-1.tar.gz: is compressed")
    write(tmp_path / "train-0000.tar", samples(range(2)))
    refused(f"tar:{tmp_path}", "holds train-0000.tar beside the folder train")


def test_shards_that_are_missing_or_named_twice(tmp_path):
    place = shards(tmp_path / "set")
    refused(f"tar:{place}/train-{{0000..0002}}.tar", r"train-0002.tar: is not a file .train of tar")
    refused(f"tar:{place}/trian-*.tar", r"trian-\*.tar: is not a file")
    refused(f"tar:{place}/*.tar", "several splits: test, train, validation; write tar:/")
    refused(f"tar:{place}/train-{{0000,0000}}.tar", "names an archive twice")
    write(place / "train-0003.tar", samples(range(2)))
    refused(f"tar:{place}", r"shard 0002 is missing beside train-0003.tar \(1 of 4\)")
    refused(f"tar:{place}/train-*.tar", "shard 0002 is missing")
    write(place / "valid-0000.tar", samples(range(2)))
    os.remove(place / "train-0003.tar")
    refused(f"tar:{place}", "val and valid mean the same split, validation")
    os.remove(place / "valid-0000.tar")
    write(place / "my set-0000.tar", samples(range(2)))
    refused(f"tar:{place}", "my set-0000.tar: is named after no split; name the archives")
    (tmp_path / "empty").mkdir()
    refused(f"tar:{tmp_path / 'empty'}", "holds no .tar file; name the archives train-0000.tar")
    line = refused(f"tar:{place}?test=x.tar", "is a directory", error=ConfigError)
    assert f"tar:'{place}/train-*.tar?test=x.tar'" in line
    refused("tar:", "needs a directory", error=ConfigError)
    refused(f"tar:{place}?label=x", "no option 'label'", error=ConfigError)


def archive(tmp_path, members, change=lambda content: content, **options):
    path = write(tmp_path / "train.tar", members, **options)
    path.write_bytes(change(path.read_bytes()))
    return f"tar:{path}", path


def test_what_damages_an_archive_is_refused_by_name(tmp_path):
    """Python's reader ends early without an error in most of these."""
    members = samples(range(4))
    _, path = archive(tmp_path, members)
    whole = path.read_bytes()
    with tarfile.open(path) as opened:
        starts = [member.offset for member in opened.getmembers()]
    for change, what in (
        (whole[: starts[4]], "is cut short: it has no two blocks of zeros at its end"),
        (whole[: starts[4] + 100], "has a damaged member header at byte"),
        (whole[: starts[3] + 540], "is cut short or damaged .unexpected end of data"),
        (whole[: starts[-1] + 512 + 512], "is cut short"),
        (whole + whole, "holds another archive after its end, at byte"),
        (whole[: starts[4] + 10] + b"\xff\xff" + whole[starts[4] + 12 :],
         f"has a damaged member header at byte {starts[4]}"),
        (b"", "is cut short or damaged .empty file"),
        (b"text" * 200, "is cut short or damaged"),
        (gzip.compress(whole), "is compressed.*unpack it once: gunzip <"),
        (b"\x28\xb5\x2f\xfd" + whole, "is compressed.*unzstd"),
    ):
        path.write_bytes(change)
        assert refused(f"tar:{path}", what).startswith(str(path))
    # A writer without end blocks: the advice works.
    path.write_bytes(whole[: starts[-1] + 1024])
    advice = refused(f"tar:{path}", "is cut short").split("append them with ")[1]
    subprocess.run(advice.split(), check=True)
    assert len(data.load(f"tar:{path}", {"train": "train"}).splits["train"]) == 4


def test_a_damaged_archive_in_a_directory_of_compressed_ones(tmp_path):
    (tmp_path / "train-0000.tar.gz").write_bytes(gzip.compress(b""))
    refused(f"tar:{tmp_path}", "train-0000.tar.gz: is compressed, so no image")


@pytest.mark.parametrize("name", ["train-0.tar.gz", "train-0.tgz", "train-0.tar"])
def test_the_command_that_unpacks_an_archive_works_beside_it(tmp_path, name):
    place = tmp_path / "my set"
    content = write(place / "train-0.tar", samples(range(3))).read_bytes()
    (place / "train-0.tar").unlink()
    (place / name).write_bytes(gzip.compress(content))
    command = refused(f"tar:{place}", "is compressed").split("unpack it once: ")[1]
    subprocess.run(["sh", "-c", command], check=True, cwd=place)
    assert colours(data.load(f"tar:{place}", {"train": "train"}).splits["train"]) == [0, 1, 2]


def test_a_stray_class_number_makes_no_million_of_names(tmp_path):
    source, _ = archive(tmp_path, [*samples([0]), ("b.png", png(1)), ("b.cls", b"999999999")])
    refused(source, r"\(train\): example 1 has label 999999999 \(1 such\); without class "
            r"names it must be 0..999999")


def test_archives_that_were_not_unpacked_beside_others_are_not_missed(tmp_path):
    place = shards(tmp_path / "set")
    packed = place / "train-0002.tar.gz"
    packed.write_bytes(gzip.compress((place / "train-0000.tar").read_bytes()))
    command = refused(f"tar:{place}", "train-0002.tar.gz: is compressed").split("it once: ")[1]
    subprocess.run(["sh", "-c", command], check=True)
    (place / "train-0000.tar.idx").write_text("an index of others")
    (place / "photographs.tar.gz").write_bytes(packed.read_bytes())  # none of these splits
    assert colours(data.load(f"tar:{place}", {"train": "train"}).splits["train"]) == [
        *range(8), *range(5)
    ]


def test_a_link_to_an_archive_that_is_not_there_is_refused(tmp_path):
    place = shards(tmp_path / "set")
    (place / "train-0002.tar").symlink_to(tmp_path / "nowhere.tar")
    refused(f"tar:{place}", "train-0002.tar: is a link to .*nowhere.tar, which does not exist; me")


def test_samples_that_are_not_whole(tmp_path):
    image = png(1)
    for members, what in (
        ([("a.png", image), ("b.cls", b"1")], "train.tar: sample a: holds no .cls, but .png"),
        ([("a.cls", b"1"), ("a.txt", b"1")], "sample a: holds no image, but .cls, .txt"),
        ([("22.05.png", image), ("22.05.cls", b"1")],
         "sample 22: holds no image, but .05.png, .05.cls; .*what follows the first dot"),
        ([("a.png", image), ("a.cls", b"1"), ("a.png", image)], "holds .png twice"),
        ([("a.png", image), ("a.cls", b"1"), ("a.PNG", image)],
         "holds .png twice, a.png and a.PNG"),
        ([("a.png", image), ("a.cls", b"1"), ("b.png", image), ("b.cls", b"1"), ("a.png", image)],
         "member a.png stands apart from a.png, of the same sample; .*--sort=name"),
        ([("a.png", image), ("a.cls", b"cat")], r"train.tar: a.cls: holds 'cat', not a class numb"),
        ([("a.png", image), ("a.cls", b"-1")], "has label -1"),
        ([("a.png", image), ("a.jpg", image), ("a.cls", b"1")],
         "holds several images, .png, .jpg, .cls; choose one, such as data.image='png'"),
        ([], "holds no example"),
        ([("a.png", b"text"), ("a.cls", b"0")], "train.tar: a.png: image 0 is not a PNG"),
    ):
        source, _ = archive(tmp_path, members)
        refused(source, what)
    source, _ = archive(
        tmp_path, [("a.png", image), ("a.jpg", b"?"), ("a.cls2", b"1"), ("a.cls", b"0")]
    )
    for image, label in (("png", "cls2"), (".PNG", ".cls2")):
        options = ReadOptions(image=image, label=label)
        split = data.load(source, {"train": "train"}, options).splits["train"]
        assert split.label.tolist() == [1] and colours(split) == [1]


def test_links_and_sparse_members_are_refused(tmp_path):
    for kind, what in ((tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"),
                       (tarfile.FIFOTYPE, "no regular file"), (tarfile.CHRTYPE, "no regular")):
        member = tarfile.TarInfo("b.png")
        member.type, member.linkname = kind, "a.png"
        source, path = archive(tmp_path, [*samples([0]), ("b.png", member)])
        refused(source, f"{path}: member b.png is {what}")
    with (tmp_path / "0001.png").open("wb") as file:
        file.truncate(1 << 20)
        file.write(png(1))
    for form in ("gnu", "pax"):
        subprocess.run(
            ["tar", f"--format={form}", "--sparse", "-cf", tmp_path / "train.tar", "-C", tmp_path,
             "0001.png"], check=True,
        )
        refused(f"tar:{tmp_path / 'train.tar'}", "member .*0001.png is stored as a sparse file")


def test_what_is_passed_over_is_counted(tmp_path):
    lines = []
    members = [
        ("__header__", b"1"), ("a/._0.png", b"?"), ("a/.hidden.png", b"?"), ("README", b"?"),
        ("__MACOSX/a.png", b"?"), ("x/__len__/0.png", b"?"), *samples([0, 1], folder="../a/"),
        *samples([2], folder="/"),
    ]
    source, path = archive(tmp_path, members)
    for _ in range(2):  # from the scan, and from what was kept
        split = data.load(source, {"train": "train"}, ReadOptions(say=lines.append)).splits["train"]
        assert colours(split) == [0, 1, 2]
        assert "6 members are passed over (first: __header__)" in lines.pop() and not lines


def test_archives_are_scanned_once_and_again_after_a_change(tmp_path, monkeypatch):
    tar = importlib.import_module("kdaug_jax.data.sources.tar")  # `sources.tar` is the function
    place = shards(tmp_path / "set")
    scans = []

    def scan(path, *words):
        scans.append(os.path.basename(path))
        return scan_shard(path, *words)

    monkeypatch.setattr(tar, "scan_shard", scan)
    first = data.load(f"tar:{place}", BOTH)
    assert scans == ["train-0000.tar", "train-0001.tar", "test-0000.tar"]
    again = data.load(f"tar:{place}", BOTH)
    assert len(scans) == 3
    assert first.splits["train"].digest == again.splits["train"].digest
    assert colours(again.splits["train"]) == list(range(8))
    # A run that reads on after its archive was replaced stops by name.
    write(place / "train-0001.tar", samples(range(20, 24)))
    with pytest.raises(DataError, match="train-0001.tar: has changed since it was indexed"):
        colours(again.splits["train"])
    new = data.load(f"tar:{place}", BOTH).splits["train"]
    assert colours(new) == [*range(5), *range(20, 24)]
    assert new.digest != first.splits["train"].digest


def test_a_bar_shows_the_scan(tmp_path, monkeypatch):
    from kdaug_jax.data import index

    monkeypatch.setattr(index, "SECONDS_BETWEEN_BARS", 0)
    shown = []
    options = ReadOptions(progress=lambda done, text: shown.append((done, text)))
    data.load(f"tar:{shards(tmp_path / 'set')}", {"train": "train"}, options)
    assert shown[0] == (0.5, f"scanning {tmp_path / 'set'}: 1 of 2 archives")
    assert shown[1][0] == 1 and shown[-1][1].endswith("8 of 8 images")


def test_bad_images_may_be_skipped(tmp_path):
    lines = []
    members = samples(range(4))
    members[3] = ("0001.png", png(1)[:50])
    source, _ = archive(tmp_path, members)
    options = ReadOptions(bad_images="skip", say=lines.append)
    split = data.load(source, {"train": "train"}, options).splits["train"]
    assert colours(split) == [0, 2, 2, 3] and split.label.tolist() == [0, 2, 2, 0]
    assert split.index.tolist() == [0, 1, 2, 3]
    assert any("1 of 4 images cannot be decoded" in line and "0001.png" in line for line in lines)


def test_class_names_of_a_file(tmp_path):
    source, _ = archive(tmp_path, samples(range(3)))
    for text, what in ((None, "cannot be read"), ("", "is empty"), ("a\n\nb", "line 2 is empty")):
        if text is not None:
            (tmp_path / "names").write_text(text)
        refused(f"{source}?classes={tmp_path / 'names'}", f"names: {what}")
    (tmp_path / "names").write_text("a\nb\n")
    refused(f"{source}?classes={tmp_path / 'names'}", "example 2 has label 2")


def test_a_worker_reads_without_jax(tmp_path):
    split = data.load(f"tar:{shards(tmp_path / 'set')}", BOTH).splits["train"]
    (tmp_path / "reader").write_bytes(pickle.dumps(split.reader))
    program = (
        "import pickle, sys; reader = pickle.load(open(sys.argv[1], 'rb'));"
        "print(reader.image(6).getpixel((0, 0))[0], 'jax' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "reader"], check=True, capture_output=True,
        text=True,
    ).stdout
    assert out.split() == ["6", "False"]
