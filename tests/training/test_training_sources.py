"""The same images give the same run, wherever they come from."""

import io

import numpy as np
from PIL import Image

from kdaug_jax import data
from kdaug_jax.training import loop
from tests.conftest import tiny_config

SPLITS = ("train", "validation", "test")


def test_a_folder_and_an_array_file_train_alike(tmp_path):
    made = data.load("synthetic:8x8,4,40", {split: split for split in SPLITS})
    arrays = {}
    for split in SPLITS:
        # A folder is read class by class, so the arrays take that order too.
        order = np.argsort(made.splits[split].label, kind="stable")
        images, labels = made.splits[split].image[order], made.splits[split].label[order]
        arrays |= {f"{split}_image": images, f"{split}_label": labels}
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "images" / split / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:03d}.png")
    np.savez(tmp_path / "images.npz", **arrays)
    results = []
    for name, source in (
        ("a", f"folder:{tmp_path / 'images'}"),
        ("b", f"arrays:{tmp_path / 'images.npz'}"),
    ):
        config = tiny_config(data=dict(source=source))
        results.append(loop.train(config, tmp_path / name, stream=io.StringIO()))
    assert results[0] == results[1]
