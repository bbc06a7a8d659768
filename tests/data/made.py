"""Small data sets, and the files of every format that hold them."""

import gzip
import pickle
import struct

import numpy as np
from PIL import Image

CLASSES = ("apple", "bee", "car")
SIZES = {"train": 12, "test": 6}


def arrays(side=6, channels=3):
    """Sorted by class, as the folders give them: {split: (image, label)}."""
    random = np.random.RandomState(0)
    made = {}
    for name, size in SIZES.items():
        image = random.randint(0, 256, (size, side, side, channels), dtype=np.uint8)
        made[name] = (image if channels > 1 else image[..., 0], np.sort(np.arange(size) % 3))
    return made


def write_idx(path, array, pack=False):
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content += array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if pack else content)


def idx(directory, made, pack=False):
    """Grey images as MNIST's four files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, prefix in (("train", "train"), ("test", "t10k")):
        image, label = made[name]
        suffix = ".gz" if pack else ""
        write_idx(directory / f"{prefix}-images-idx3-ubyte{suffix}", image, pack)
        write_idx(directory / f"{prefix}-labels-idx1-ubyte{suffix}", label, pack)
    return directory


def folder(directory, made, suffix=".png"):
    for name, (image, label) in made.items():
        for number, (pixels, number_of_class) in enumerate(zip(image, label, strict=True)):
            place = directory / name / CLASSES[number_of_class]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:03d}{suffix}")
    return directory


def npz(path, made, **more):
    named = {}
    for name, (image, label) in made.items():
        named |= {f"{name}_image": image, f"{name}_label": label}
    np.savez(path, **named, **more)
    return path


def cifar(directory, classes, per_file=4):
    """Both binary versions; gives {split: (image, label)} of what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(1)
    train = [f"data_batch_{number}.bin" for number in range(1, 6)] if classes == 10 else ["train"]
    test = ["test_batch"] if classes == 10 else ["test"]
    written = {}
    for name, files in (("train", train), ("test", test)):
        count = per_file * len(files)
        image = random.randint(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        label = random.randint(0, classes, count)
        rows = image.transpose(0, 3, 1, 2).reshape(count, -1)
        columns = (
            [label[:, None], rows] if classes == 10 else [label[:, None] // 5, label[:, None], rows]
        )
        content = np.concatenate(columns, 1).astype(np.uint8)
        for number, file in enumerate(files):
            part = content[number * per_file :][:per_file]
            (directory / file).with_suffix(".bin").write_bytes(part.tobytes())
        written[name] = image, label
    return written


def cifar_images(count, classes=10, seed=2):
    """Returns `u8[count,32,32,3]` and labels."""
    random = np.random.RandomState(seed)
    image = random.randint(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return image, random.randint(0, classes, count)


def cifar_python(directory, classes, per_file=4, protocol=2, keys=str):
    """Both Python versions; gives {split: (image, label)} of what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    train = [f"data_batch_{number}" for number in range(1, 6)] if classes == 10 else ["train"]
    test = ["test_batch"] if classes == 10 else ["test"]
    key, names, meta = (
        ("labels", "label_names", "batches.meta") if classes == 10
        else ("fine_labels", "fine_label_names", "meta")
    )
    written = {}
    for name, files in (("train", train), ("test", test)):
        image, label = cifar_images(per_file * len(files), classes, seed=len(files))
        rows = image.transpose(0, 3, 1, 2).reshape(len(image), -1)
        for number, file in enumerate(files):
            part = slice(number * per_file, (number + 1) * per_file)
            batch = {"data": rows[part], key: label[part].tolist(), "filenames": ["a.png"]}
            batch = {keys(entry): value for entry, value in batch.items()}
            (directory / file).write_bytes(pickle.dumps(batch, protocol))
        written[name] = image, label
    names = {names: [f"kind_{number}" for number in range(classes)]}
    (directory / meta).write_bytes(pickle.dumps(names, protocol))
    return written
