"""Tiny ImageNet, CINIC-10 and the sets on which networks trained on ImageNet are evaluated."""

import pytest

from kdaug_jax import data
from kdaug_jax.data.class_maps import IMAGENET_A, IMAGENET_R, class_key
from kdaug_jax.data.corruptions import ALEXNET_ERRORS, CORRUPTIONS, EXTRA_CORRUPTIONS
from kdaug_jax.data.options import ReadOptions
from kdaug_jax.data.sources.cinic10 import CLASSES as CINIC_CLASSES
from kdaug_jax.errors import ConfigError, DataError
from tests.data.test_data_folder import levels, picture, tree

WNIDS = ("n01440764", "n01443537", "n02085620")


def load(source, splits=None, lines=None):
    say = (lambda line: None) if lines is None else lines.append
    return data.load(source, splits or {"test": "test"}, ReadOptions(say=say))


def refused(source, *words, splits=None, kind=DataError):
    with pytest.raises(kind) as caught:
        load(source, splits)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert str(word) in line, line
    return line


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for level, name in enumerate(reversed(WNIDS)):
        for number in range(2):
            picture(root / f"train/{name}/images/{name}_{number}.JPEG", level=100 * level)
        (root / f"train/{name}/{name}_boxes.txt").write_text("x\t0\t0\t9\t9\n")
    for number in range(3):
        picture(root / f"val/images/val_{number}.JPEG", level=100 * number)
    (root / "val/val_annotations.txt").write_text(
        "".join(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n" for number, name in enumerate(WNIDS))
    )
    picture(root / "test/images/test_0.JPEG")
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (root / "words.txt").write_text(
        "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish, Carassius auratus\nn9\tother\n"
    )
    return root


def test_tiny_imagenet_as_it_unpacks(tiny):
    lines, splits = [], {"train": "train", "validation": "val"}
    for place in (tiny, tiny.parent):
        dataset = load(f"tinyimagenet:{place}", splits, lines)
        assert dataset.class_names == (
            "n01440764 tench, Tinca tinca", "n01443537 goldfish, Carassius auratus", "n02085620"
        )  # fmt: skip
        assert tuple(map(class_key, dataset.class_names)) == WNIDS
        train = dataset.splits["train"]
        assert train.label.tolist() == [0, 0, 1, 1, 2, 2]  # not in the order of wnids.txt
        assert [level // 100 for level in levels(train)] == [2, 2, 1, 1, 0, 0]
        assert dataset.splits["validation"].label.tolist() == [0, 1, 2]
    assert lines == []
    line = refused(f"tinyimagenet:{tiny}", "no split 'test', but train, validation", "data.test=''",
                   kind=ConfigError)
    assert "set data.test='" in line


def test_tiny_imagenet_whose_validation_images_were_sorted(tiny):
    for number, name in enumerate(WNIDS):
        (tiny / "val" / name).mkdir()
        (tiny / f"val/images/val_{number}.JPEG").rename(tiny / f"val/{name}/val_{number}.JPEG")
    (tiny / "val" / "images").rmdir()
    split = load(f"tinyimagenet:{tiny}", {"validation": "validation"}).splits["validation"]
    assert split.label.tolist() == [0, 1, 2]


def test_tiny_imagenet_as_a_folder_is_told_its_source(tiny):
    both = {"train": "train", "validation": "validation"}
    line = refused(f"folder:{tiny}", "has a class folder 'images'", splits=both)
    assert len(load(line.split("write ")[1], both).splits["validation"]) == 3


def test_what_is_wrong_with_tiny_imagenet(tiny):
    source, both = f"tinyimagenet:{tiny}", {"train": "train", "validation": "validation"}
    (tiny / "val/val_annotations.txt").unlink()
    refused(source, "val_annotations.txt: cannot be read", splits=both)
    (tiny / "wnids.txt").write_text("n01440764\nn01443537\n")
    refused(source, "wnids.txt has no class 'n02085620'; unpack tiny-imagenet-200.zip there")
    (tiny / "wnids.txt").unlink()
    refused(source, "wnids.txt: cannot be read")
    refused(f"tinyimagenet:{tiny / 'train'}", "has no folder 'train'")
    refused(f"{source}?order=string", "tinyimagenet has no option 'order'", kind=ConfigError)
    refused("tinyimagenet:", "needs a directory", kind=ConfigError)


def test_cinic10_as_it_unpacks(tmp_path):
    splits = {"train": "train", "validation": "validation", "test": "test"}
    for place in (tmp_path / "a", tmp_path / "b" / "CINIC-10"):
        tree(place, *(f"{split}/{name}/cifar10-{split}-{number}.png" for split in
                      ("train", "valid", "test") for name in CINIC_CLASSES for number in range(2)))
    for root in (tmp_path / "a", tmp_path / "b"):
        dataset = load(f"cinic10:{root}", splits)
        assert dataset.class_names == CINIC_CLASSES
        assert {len(split) for split in dataset.splits.values()} == {20}
    (tmp_path / "a/train/bird").rename(tmp_path / "a/train/duck")
    refused(f"cinic10:{tmp_path / 'a'}", "train: has no class folder 'bird'; unpack CINIC-10.tar")
    refused(f"cinic10:{tmp_path}", "has no folder 'train'; unpack CINIC-10.tar.gz there")


def test_imagenet_c(tmp_path):
    tree(tmp_path / "a", *(f"fog/{number}/{name}/v.JPEG" for number in (1, 3) for name in WNIDS))
    tree(tmp_path / "b", *(f"weather/fog/3/{name}/v.JPEG" for name in WNIDS))
    for root in ("a", "b"):
        dataset = load(f"imagenetc:{tmp_path / root}?corruption=fog&severity=3")
        assert dataset.class_names == WNIDS and len(dataset.splits["test"]) == 3
    for query in ("", "?corruption=fog", "?severity=1"):
        line = refused(f"imagenetc:{tmp_path / 'a'}{query}", "needs a corruption and a severity",
                       "gaussian_noise", "jpeg_compression", "saturate", kind=ConfigError)
        assert len(load(line.split("write ")[1].split(",")[0]).splits["test"]) == 3
    for query, words, kind in (
        ("corruption=fogg&severity=1", "no corruption 'fogg'; did you mean fog?", ConfigError),
        ("corruption=fog&severity=6", "no severity '6'; 1 to 5 are known", ConfigError),
        ("corruption=snow&severity=1", "has no folder 'snow'; known: fog", DataError),
        ("corruption=fog&severity=2", "fog: has no folder '2'", DataError),
    ):
        refused(f"imagenetc:{tmp_path / 'a'}?{query}", words, kind=kind)
    refused(f"imagenetc:{tmp_path / 'no'}?corruption=fog&severity=2", "is not a directory")


def thousand(count=1000):
    return [f"n{10_000_000 + 7 * number:08d}" for number in range(count)]


def linked(root, names, inner=""):
    """A folder for each class, each with a link to one of the same few images."""
    pictures = [picture(root.parent / f"{number}.png", level=number) for number in range(10)]
    for number, name in enumerate(names):
        (root / inner / name).mkdir(parents=True)
        (root / inner / name / "a.jpeg").symlink_to(pictures[number % 10])
    (root / inner / "README.txt").write_text("as unpacked")
    return root


def test_imagenet_v2_has_numbers_for_folders(tmp_path):
    root = linked(tmp_path / "v2", map(str, range(1000)))
    dataset = load(f"imagenetv2:{root}")
    split = dataset.splits["test"]
    assert dataset.class_names == tuple(map(str, range(1000)))
    # Folder "10" is class 10, though it sorts behind "1".
    assert split.label.tolist() == [*range(1000)] and levels(split.take([2, 10, 999])) == [2, 0, 9]
    (root / "999").rename(root / "1000")
    refused(f"imagenetv2:{root}", "has a folder '0'; 1000 folders with WordNet ids")


def test_the_later_edition_of_imagenet_v2(tmp_path):
    dataset = load(f"imagenetv2:{linked(tmp_path / 'v2', thousand())}")
    assert dataset.class_names == tuple(thousand())


@pytest.mark.parametrize("source, inner", [("imageneta", "imagenet-a"), ("imagenetr", "imagenet-r")]
                         )  # fmt: skip
def test_sets_of_200_classes(tmp_path, source, inner):
    linked(tmp_path / "set", thousand(200), inner)
    lines = []
    for place in (tmp_path / "set", tmp_path / "set" / inner):
        dataset = load(f"{source}:{place}", lines=lines)
        assert dataset.class_names == tuple(thousand(200))
    assert "1 .txt (first: " in lines[0] and "README.txt" in lines[0]
    (tmp_path / "set" / inner / thousand(1)[0]).rename(tmp_path / "away")
    refused(f"{source}:{tmp_path / 'set'}", "has 199 class folders; 200 folders with WordNet ids")
    refused(f"{source}:{tmp_path / 'none'}", "is not a directory; unpack")


def test_imagenet_sketch(tmp_path):
    linked(tmp_path / "set", thousand(), "sketch")
    assert len(load(f"imagenetsketch:{tmp_path / 'set'}").splits["test"]) == 1000


def test_class_maps():
    for classes, first, last in ((IMAGENET_A, 6, 988), (IMAGENET_R, 1, 988)):
        assert len(set(classes)) == 200 and classes == tuple(sorted(classes))
        assert (classes[0], classes[-1]) == (first, last)
    assert len(set(IMAGENET_A) & set(IMAGENET_R)) == 86
    assert tuple(ALEXNET_ERRORS) == CORRUPTIONS and len(CORRUPTIONS) == 15
    assert not set(CORRUPTIONS) & set(EXTRA_CORRUPTIONS)
    assert all(50 < error < 100 for error in ALEXNET_ERRORS.values())
    assert class_key("n01443537 goldfish") == "n01443537" and class_key("nothing") == "nothing"
