"""Trees of image files as they lie on people's disks, and what may be wrong with them."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data.options import ReadOptions
from kdaug_jax.data.statistics import describe_sizes
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.images.readers import ILSVRC_PNG

TRAIN = {"train": "train"}


@pytest.fixture
def lines():
    return []


@pytest.fixture
def load(lines):
    """Loads a folder, by default its training split; what it says goes to `lines`."""

    def call(source, splits=None, **options):
        source = source if ":" in str(source) else f"folder:{source}"
        return data.load(source, splits or TRAIN, ReadOptions(say=lines.append, **options))

    return call


def picture(path, size=(6, 5), level=0, **options):
    """Writes an image of (height, width) and one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (level, 0, 0)).save(path, **options)
    return path


def tree(root, *files):
    for level, file in enumerate(files):
        picture(root / file, level=level)
    return root


def levels(split):
    """The colours of all images, which say which files they are."""
    return [split.image_at(row).getpixel((0, 0))[0] for row in range(len(split))]


def refused(load, source, *words, splits=None, kind=DataError, **options):
    with pytest.raises(kind) as caught:
        dataset = load(source, splits, **options)
        for split in dataset.splits.values():
            levels(split)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert str(word) in line, line
    return line


def test_images_of_several_sizes(tmp_path, load):
    picture(tmp_path / "train/cat/1.jpg", (30, 40))
    picture(tmp_path / "train/cat/2.png", (40, 30))
    picture(tmp_path / "train/dog/1.png", (1, 9))
    split = load(tmp_path).splits["train"]
    assert split.size is None and split.sizes.tolist() == [[30, 40], [40, 30], [1, 9]]
    assert split.size_bytes == 3 * (1200 + 1200 + 9)
    assert [split.image_at(row).size for row in range(3)] == [(40, 30), (30, 40), (9, 1)]
    part = split.take([2, 0])
    assert part.sizes.tolist() == [[1, 9], [30, 40]] and part.index.tolist() == [2, 0]
    assert part.digest == split.digest and len(split.digest) == 64
    assert data.describe(load(tmp_path)).size is None
    with pytest.raises(DataError, match="images of several sizes"):
        split.image  # noqa: B018


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_all_names_of_the_validation_folder(tmp_path, load, name):
    tree(tmp_path, "train/cat/1.png", f"{name}/cat/1.png")
    for text in ("validation", "val", "valid"):
        splits = load(tmp_path, {"train": "train", "validation": text}).splits
        assert levels(splits["validation"]) == [1]
    assert data.overlaps(splits, {"train": "train", "validation": "val"}) == {}


def test_two_names_of_the_validation_folder(tmp_path, load):
    tree(tmp_path, "train/cat/1.png", "val/cat/1.png", "valid/cat/1.png")
    refused(load, tmp_path, "'val' and 'valid' are both folders of the split 'validation'")


def test_splits_with_other_names(tmp_path, load):
    tree(tmp_path, "training/cat/in/1.png", "holdout/cat/in/1.png")
    splits = {"train": "train", "test": "test"}
    line = refused(load, tmp_path, "no split 'train', but holdout, training", splits=splits,
                   kind=ConfigError)
    (typed,) = re.findall(r"set data\.train='([^']*)'", line)
    line = refused(load, tmp_path, "no split 'test'", "data.test=''",
                   splits=splits | {"train": typed}, kind=ConfigError)
    (other,) = re.findall(r"set data\.test='([^']*)'", line)
    splits = load(tmp_path, {"train": typed, "test": other}).splits
    assert len(splits["train"]) == len(splits["test"]) == 1


@pytest.mark.parametrize("names", ["Train Val", "Training Testing", "seg_train seg_test", "a b"])
def test_a_part_is_held_out_of_splits_with_other_names(tmp_path, load, names):
    first, second = names.split()
    tree(tmp_path, *(f"{first}/{name}/{number}.png" for name in "ab" for number in range(8)),
         f"{second}/a/1.png")  # fmt: skip
    held = {"train": "holdout(25%)", "validation": "holdout(25%)"}
    line = refused(load, tmp_path, "has no split 'train', but ", splits=held, kind=ConfigError)
    typed = dict(re.findall(r"data\.(\w+)='([^']*)'", line))
    splits = load(tmp_path, typed).splits
    assert len(splits["train"]) == (16 if second == "Val" else 12)
    assert len(splits["validation"]) == (1 if second == "Val" else 4)


def test_a_single_class_is_said(tmp_path, load, lines):
    tree(tmp_path, "train/train/cat/1.png", "train/train/dog/1.png")
    assert load(tmp_path).class_names == ("train",)
    assert lines[0] == (
        f"warning: {tmp_path}/train: there is one class, 'train', and its 2 folders belong to it "
        "(cat, dog)"
    )


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path, load, lines):
    tree(tmp_path, "train/cat/1.png")
    (tmp_path / "train" / "cat" / "a\nb\x1b[31m.txt").touch()
    load(tmp_path)
    assert lines[-1].endswith(r"train: passed over 1 .txt (first: cat/a\nb\x1b[31m.txt)")
    (tmp_path / "train" / "cat" / "a\nb\x1b[31m.png").touch()
    refused(load, tmp_path, r"cat/a\nb\x1b[31m.png: image 1 is an empty file; replace or remove it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path, load):
    tree(tmp_path, "train/cat/in/1.png")
    for place, mode in (("train/cat/in", 0o444), ("train/cat", 0), ("train/cat/in/1.png", 0)):
        before = (tmp_path / place).stat().st_mode
        (tmp_path / place).chmod(mode)
        refused(load, tmp_path, place, "cannot be ", "(Permission denied)")
        (tmp_path / place).chmod(before)


def test_a_validation_part_is_taken_from_train_as_the_message_says(tmp_path, load):
    tree(tmp_path, *(f"train/{name}/{number}.png" for name in "ab" for number in range(10)))
    line = refused(load, tmp_path, splits=TRAIN | {"validation": "validation"}, kind=ConfigError)
    typed = dict(re.findall(r"data\.(\w+)='([^']*)'", line))
    assert len(load(tmp_path, typed).splits["validation"]) == 2


def test_class_folders_alone_are_a_training_split(tmp_path, load, lines):
    tree(tmp_path, "cat/1.png", "cat/in/2.png", "dog/1.png")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and levels(dataset.splits["train"]) == [0, 1, 2]
    assert "its folders hold images, so they are the 2 classes of one split, 'train'" in lines[0]


def test_the_folder_above_the_set_is_told_from_it(tmp_path, load):
    tree(tmp_path / "imagenet", "train/cat/1.png")
    line = refused(load, tmp_path, "holds no split, but 'imagenet' does; write folder:")
    assert load(line.rsplit(" ", 1)[1]).class_names == ("cat",)


def test_folders_below_a_class_belong_to_it(tmp_path, load):
    tree(tmp_path, "train/cat/b/1.png", "train/cat/a/deep/2.png", "train/cat/z.png",
         "train/cat/a.png", "train/dog/1.png")  # fmt: skip
    split = load(tmp_path).splits["train"]
    # By folder, then by name, as torchvision's ImageFolder.
    assert levels(split) == [3, 2, 1, 0, 4] and split.label.tolist() == [0, 0, 0, 0, 1]


def test_cycles_of_links_end(tmp_path, load, lines):
    tree(tmp_path, "train/cat/1.png", "train/cat/in/2.png", "train/dog/1.png")
    for place, goal in (("cat/in/up", "../.."), ("cat/self", "."), ("cat/in/all", "../../.."),
                        ("dog/more", "../cat/in")):  # fmt: skip
        (tmp_path / "train" / place).symlink_to(goal, target_is_directory=True)
    split = load(tmp_path).splits["train"]
    assert levels(split) == [0, 1, 2, 1] and split.label.tolist() == [0, 0, 1, 1]
    assert any("links back to a folder" in line for line in lines)


def test_links_are_followed_and_dangling_ones_refused(tmp_path, load):
    tree(tmp_path / "elsewhere", "bird/1.png", "2.png")
    tree(tmp_path / "set", "train/cat/1.png")
    train = tmp_path / "set" / "train"
    (train / "bird").symlink_to(tmp_path / "elsewhere" / "bird")
    (train / "cat" / "2.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    dataset = load(tmp_path / "set")
    assert dataset.class_names == ("bird", "cat") and levels(dataset.splits["train"]) == [0, 0, 1]
    (train / "cat" / "3.png").symlink_to("gone.png")
    refused(load, tmp_path / "set", "cat/3.png: is a link to gone.png, which does not exist; mend")
    (train / "cat" / "3.png").unlink()
    (train / "dog").symlink_to(tmp_path / "gone")
    refused(load, tmp_path / "set", "train/dog: is a link to", "which does not exist")
    (train / "dog").unlink()
    (train / "dog").symlink_to("dog")
    refused(load, tmp_path / "set", "train/dog: is a link that cannot be followed (its links")


def test_what_is_passed_over_is_counted(tmp_path, load, lines):
    tree(tmp_path, "train/cat/1.png", "train/cat/2.JPG", "train/.ipynb_checkpoints/x.png",
         "train/__MACOSX/x.png", "__MACOSX/x.png", "train/cat/._1.png", "train/cat/.hidden/2.png",
         "train/stray.png")  # fmt: skip
    cat = tmp_path / "train" / "cat"
    for name in ("Thumbs.db", "a.TXT", "b.txt", "noise", "x.heic"):
        (cat / name).write_bytes(b"x")
    (tmp_path / "train" / "README.txt").write_text("x")
    os.mkfifo(cat / "pipe.png")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat",) and len(dataset.splits["train"]) == 2
    (line,) = lines
    for text in (
        "4 hidden (first: .ipynb_checkpoints)", "3 .txt (first: README.txt)",
        "1 .db (first: cat/Thumbs.db)", "1 without suffix (first: ", "1 .heic",
        "1 not regular files (first: cat/pipe.png)", "1 images beside the class folders (first: ",
    ):  # fmt: skip
        assert text in line


def test_the_content_decides_not_the_suffix(tmp_path, load):
    picture(tmp_path / "train/cat/1.JPEG", format="PNG")
    picture(tmp_path / "train/cat/2.png", format="WEBP", lossless=True, level=7)
    assert levels(load(tmp_path).splits["train"]) == [0, 7]


def test_order_of_numbered_classes_has_to_be_said(tmp_path, load):
    tree(tmp_path, *(f"train/{number}/1.png" for number in (0, 1, 2, 10)))
    line = refused(load, tmp_path, "class 2 is '10' in string order, as torchvision has it, but "
                   "'2' in numeric order")
    typed = re.findall(r"folder:\S+", line)
    orders = [load(source).class_names for source in typed]
    assert orders == [("0", "1", "10", "2"), ("0", "1", "2", "10")]
    assert levels(load(typed[1]).splits["train"]) == [0, 1, 2, 3]
    refused(load, f"folder:{tmp_path}?order=numerical", "unknown order 'numerical'; did you mean "
            "numeric?", kind=ConfigError)
    refused(load, f"folder:{tmp_path}?ordr=string", "folder has no option 'ordr'; did you mean "
            "order?", kind=ConfigError)
    # Padded numbers have one order, and mixed names only one.
    tree(tmp_path / "padded", *(f"train/{number:02d}/1.png" for number in range(11)))
    assert load(tmp_path / "padded").class_names[2] == "02"
    tree(tmp_path / "mixed", "train/10/1.png", "train/9/1.png", "train/B/1.png", "train/a/1.png")
    assert load(tmp_path / "mixed").class_names == ("10", "9", "B", "a")
    refused(load, f"folder:{tmp_path / 'mixed'}?order=numeric", "class 'B' is no number",
            kind=ConfigError)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("ß", "SS")])
def test_class_names_that_other_file_systems_make_one(tmp_path, load, names):
    tree(tmp_path, *(f"train/{name}/1.png" for name in names))
    if len(os.listdir(tmp_path / "train")) < 2:
        pytest.skip("this file system makes them one")
    refused(load, tmp_path, "differ in case or Unicode form only", ascii(min(names)))


def test_one_list_of_classes_for_all_splits(tmp_path, load, lines):
    tree(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/dog/1.png")
    (tmp_path / "val" / "cat").mkdir()  # an empty class is like a missing one
    split = load(tmp_path, TRAIN | {"validation": "val"}).splits["validation"]
    assert split.label.tolist() == [1]
    told = "warning: data.validation has no example of 1 of 2 classes: 'cat'"
    assert lines[-1] == told and len([line for line in lines if "cat" in line]) == 1
    tree(tmp_path, "val/cow/1.png")
    refused(load, tmp_path, "val: has a class folder 'cow' (1 such), and 'train' has not; move it",
            splits=TRAIN | {"validation": "val"})
    (tmp_path / "val" / "cow").rename(tmp_path / "val" / "Dog")
    refused(load, tmp_path, "has a class folder 'Dog' (1 such), and 'train' has 'dog'; rename it",
            splits=TRAIN | {"validation": "val"})
    load(tmp_path)  # a split that is not used is not read


def test_a_class_of_train_without_images_stays_a_class(tmp_path, load, lines):
    tree(tmp_path, "train/cat/1.png", "train/emu/1.png")
    (tmp_path / "train" / "ant").mkdir()
    (tmp_path / "train" / "dog").mkdir()
    for name in ("1.jxl", "2.JXL", "list.txt"):
        (tmp_path / "train" / "dog" / name).write_bytes(b"x")
    dataset = load(tmp_path)
    assert dataset.class_names == ("ant", "cat", "dog", "emu")
    assert dataset.splits["train"].label.tolist() == [1, 3]
    passed, warned = lines
    assert passed.endswith("passed over 2 .jxl (first: dog/1.jxl), 1 .txt (first: dog/list.txt)")
    assert warned == "warning: data.train has no example of 2 of 4 classes: 'ant', 'dog'"
    for picture_file in (tmp_path / "train").glob("*/*.png"):
        picture_file.unlink()
    refused(load, tmp_path, "train: holds no image (passed over: 2 .jxl (first: dog/1.jxl), 1 .txt")


def test_a_flat_validation_folder(tmp_path, load, lines):
    tree(tmp_path, "train/n01/a.png", "train/n02 x/a.png", "val/v_1.png", "val/v_2.png",
         "val/v_3.png")  # fmt: skip
    splits = TRAIN | {"validation": "validation"}
    line = refused(load, tmp_path, "val: holds 3 images and no class folders; name a file whose "
                   "lines hold a file name and a class", splits=splits)
    labels = tmp_path / "labels.txt"
    source = line.rsplit(" ", 1)[1].replace("FILE", str(labels))
    for text in (
        "v_2.png\tn02 x\nv_1.png\tn01\nv_3.png\tn02 x\n",
        "v_1,n01\nv_2,n02 x\n\nv_3,n02 x\n",
        "ImageId,PredictionString\r\nv_1,n01 1 2 3 4 n01 5 6 7 8\r\nv_2,n02 x\r\nv_3,n02 x\r\n",
        "\ufeffv_1.png n01\nval/v_2.png n02 x\nv_3.png n02 x",
        "v_1.png\tn01\t0\t32\t44\t62\nv_2.png\tn02 x\t0\nv_3.png\tn02 x\t0",
        'file;class\r\nv_1.png;n01\r\n"v_2.png";"n02 x"\r\n"v_3.png";"n02 x";"more"\r\n',
        '"file","class"\n"v_1.png","n01"\n\'v_2.png\', \'n02 x\'\nv_3.png,n02 x\n',
    ):
        labels.write_text(text)
        split = load(source, splits).splits["validation"]
        assert split.label.tolist() == [0, 1, 1] and levels(split) == [2, 3, 4]
    for text, words in (
        ("v_1 n01\nv_2 n03", "line 2 has the class 'n03', which no folder of 'train' has; a file"),
        ("v_1 n01\nv_2", "line 2 has one word"),
        ("v_1,n01\nv_1,n02 x", "'v_1' has two classes"),
        ("v_1,n01\nv_2,n01", "has no line for"),
        ("v_1,n05\n", "line 1 has the class 'n05'"),
        ("v_1;N01\n", "line 1 has the class 'N01', which no folder of 'train' has; write 'n01'"),
    ):
        labels.write_text(text)
        refused(load, source, labels, words, splits=splits)
    labels.write_text("v_1,n01\nv_2,n01\nv_3,n01\nv_4,n01\n")
    load(source, splits)
    assert "1 files are not in" in lines[-2] and "(first: v_4)" in lines[-2]
    labels.write_bytes(b"\xff\xfe")
    refused(load, source, "cannot be read", splits=splits)
    refused(load, f"folder:{tmp_path}?val_labels=none", "val_labels=none is not a file",
            kind=ConfigError)
    tree(tmp_path / "b", "train/n01/a.png", "val/n01/a.png")
    refused(load, f"folder:{tmp_path / 'b'}?val_labels={labels}", "has class folders; leave",
            splits=splits, kind=ConfigError)


def test_folders_beside_flat_images_are_counted(tmp_path, load, lines):
    tree(tmp_path, "train/cat/1.png", "val/1.png", "val/more/2.png")
    (tmp_path / "labels").write_text("1.png,cat\n")
    splits = TRAIN | {"validation": "validation"}
    assert len(load(f"folder:{tmp_path}?val_labels={tmp_path}/labels", splits).splits) == 2
    assert "val: passed over 1 folders beside the images (first: more)" in "".join(lines)


def test_a_flat_test_folder_has_no_labels(tmp_path, load, lines):
    tree(tmp_path, "train/cat/1.png", "val/cat/1.png", "test/1.png")
    # No line advises to report on it.
    load(tmp_path, TRAIN | {"validation": "val"})
    assert lines == [f"{tmp_path}/test: holds no class folders, so it has no labels and is no "
                     "split"]
    refused(load, tmp_path, "has no split 'test', but train, validation; set data.test='' if",
            splits=TRAIN | {"test": "test"}, kind=ConfigError)
    tree(tmp_path, "extra/1.png")
    refused(load, tmp_path, "extra: holds 1 images and no class folders; use another split",
            splits={"train": "extra"})


def test_classes_that_hold_folders_only_are_told_from_splits(tmp_path, load, lines):
    tree(tmp_path, "cat/in/1.png", "dog/in/1.png", "dog/out/1.png")
    refused(load, tmp_path, "has no split 'train', but cat, dog", kind=ConfigError)
    assert lines == [f"{tmp_path}: its folders cat, dog hold folders, so they are splits; if they "
                     "are classes, move them into a folder 'train'"]
    (tmp_path / "train").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name).rename(tmp_path / "train" / name)
    assert load(tmp_path).splits["train"].label.tolist() == [0, 1, 1]


def test_the_tree_of_kaggle(tmp_path, load):
    inner = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    tree(inner, "train/n01440764/n01440764_1.JPEG", "train/n01443537/n01443537_1.JPEG",
         "val/ILSVRC2012_val_00000001.JPEG", "test/ILSVRC2012_test_00000001.JPEG")  # fmt: skip
    (tmp_path / "ILSVRC" / "ImageSets").mkdir()
    splits = TRAIN | {"validation": "validation"}
    refused(load, tmp_path, f"folder:{tmp_path}?val_labels=FILE", splits=splits)
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 85 1 499 272 \n"
    )
    dataset = load(tmp_path, splits)
    assert dataset.class_names == ("n01440764", "n01443537")
    assert dataset.splits["validation"].label.tolist() == [1]


def test_the_png_among_the_jpegs_of_ilsvrc(tmp_path, load, lines):
    path = picture(tmp_path / "train/n02105855/n02105855_1.JPEG").with_name(ILSVRC_PNG)
    pixels = np.random.RandomState(0).randint(0, 256, (6, 5, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    split = load(tmp_path).splits["train"]
    with Image.open(path) as image:  # torchvision's loader
        wanted = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(split.image_at(1)), wanted)
    assert lines[-1].endswith("is a PNG with transparency, which is dropped as torchvision does")
    # Any other file with alpha is refused.
    path.rename(path.with_name("other.JPEG"))
    refused(load, tmp_path, "image 1 is partly transparent; put it on a background first")
    load(tmp_path, alpha="white").splits["train"].image_at(1)


def test_options_are_checked(tmp_path, load):
    tree(tmp_path, "train/cat/1.png")
    for name, value, words in (
        ("exif", "aply", "data.exif: unknown value 'aply'; did you mean apply?"),
        ("alpha", "drop", "data.alpha: unknown value 'drop'; known: black, refuse, white"),
        ("bad_images", "ignore", "data.bad_images: unknown value 'ignore'; known: refuse, skip"),
    ):
        refused(load, tmp_path, words, kind=ConfigError, **{name: value})


def test_damaged_files_are_named(tmp_path, load):
    root = tree(tmp_path, "train/cat/0.png", "train/cat/1.png", "test/cat/0.png")
    file = root / "train/cat/1.png"
    whole = file.read_bytes()
    for content, words in (
        (whole[:50], "image 1 is damaged ("),
        (b"text", "image 1 is not a PNG, JPEG, WebP"),
        (b"", "image 1 is an empty file"),
    ):
        file.write_bytes(content)
        refused(load, root, file, words, splits={"train": "train"})


def test_what_is_no_tree_of_images(tmp_path, load):
    refused(load, tmp_path / "no", "is not a directory; the layout is DIR/SPLIT/CLASS/IMAGE.jpg")
    refused(load, tmp_path, "holds no folders")
    (tmp_path / "train").mkdir()
    refused(load, tmp_path, "holds no class folders in train")
    tree(tmp_path, "train/cat/1.png")
    (tmp_path / "meta").mkdir()  # not used, so no matter
    load(tmp_path)
    refused(load, tmp_path, "holds no class folders", splits={"train": "meta"})
    for text in ("", " ", "?order=string"):
        with pytest.raises(ConfigError, match="needs a directory; folder:DIR"):
            load(f"folder:{text}")
    if os.getuid() != 0:
        (tmp_path / "train").chmod(0)
        refused(load, tmp_path, "cannot be listed (Permission denied)")
        (tmp_path / "train").chmod(0o755)


def test_statistics_of_mixed_sizes_count_every_pixel_once(tmp_path, load, monkeypatch):
    random = np.random.RandomState(0)
    pictures = [random.randint(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((3, 4), (9, 2))]
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "train" / "cat" / f"{number}.png")
    pixels = np.concatenate([image.reshape(-1, 3) for image in pictures])
    info = data.describe(load(tmp_path))
    np.testing.assert_allclose(info.mean, pixels.mean(0), atol=1e-4)
    np.testing.assert_allclose(info.std, pixels.std(0), atol=1e-4)
    # The second time no image is opened.
    dataset = load(tmp_path)
    monkeypatch.setattr(Image, "open", None)
    assert data.describe(dataset).mean == info.mean


def test_statistics_of_many_images_are_those_of_evenly_spaced_ones(tmp_path, load, monkeypatch):
    monkeypatch.setattr("kdaug_jax.data.statistics.MIXED_IMAGES", 2)
    for level in range(4):
        picture(tmp_path / f"train/cat/{level}.png", (3 + level, 4), level * 10)
    # Images 0 and 2, of 12 and 20 pixels.
    assert data.describe(load(tmp_path)).mean[0] == pytest.approx(20 * 20 / 32)


def test_sizes_are_described(tmp_path, load):
    for number in range(4):
        picture(tmp_path / f"train/cat/{number}.png", (6, 5))
    assert describe_sizes(load(tmp_path).splits["train"]) == "4 of 4 images are 5×6"
    picture(tmp_path / "train/cat/2.png", (7, 5))
    text = describe_sizes(load(tmp_path).splits["train"])
    assert text == "3 of 4 images are 5×6, but image 2 is 5×7"
    for number in range(3):
        picture(tmp_path / f"train/cat/{number}.png", (10 + number, 5))
    text = describe_sizes(load(tmp_path).splits["train"])
    assert text == "4 images of 4 sizes from 5×6 to 5×12"
