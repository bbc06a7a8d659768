"""Classifies image files: `python -m kdaug_jax.deploy.predict --model=runs/x/export image.png ...`.

Prints the likeliest classes of each image with their probabilities, and to the error stream which
state of which run answers. An image that cannot be read or answered is told there too, after which
the others are answered all the same; the exit status is then that of the error.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from kdaug_jax.deploy import artifact
from kdaug_jax.errors import ConfigError, DataError, NonFiniteError, UserError
from kdaug_jax.experiment import views
from kdaug_jax.files import read_bytes
from kdaug_jax.images.decode import DecodeOptions, open_image, read_header
from kdaug_jax.runtime import commands, workdir
from kdaug_jax.runtime.console import write_lines
from kdaug_jax.runtime.model_card import ModelCard

# Images that are run together.
BATCH = 64


def read_image(path: Path, number: int, card: ModelCard, resize: bool) -> np.ndarray:
    """Reads one image in the form that the network takes.

    Args:
      path: a file of any format that `images.decode` reads.
      number: its position among the images, for messages.
      card: of the network. A network that was trained on images of several sizes crops each as
        evaluation does.
      resize: whether an image of another size is scaled (bilinear) by its shorter side and cropped
        to the middle, for networks that take one size only.

    Returns:
      `u8[H,W,3]`, or `f32[H,W,3]` where the crop returns floats.

    Raises:
      DataError: it cannot be read, or has another size.
    """
    try:
        content = read_bytes(path, "image")
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", "name a file") from None
    try:
        decoding = DecodeOptions(card.exif, card.alpha)
        image, size = open_image(content, str(path), number, decoding), card.size
    except DataError as error:
        for_data_sets = "data." in error.remedy
        remedy = "give an opaque PNG or JPEG instead" if for_data_sets else error.remedy
        raise DataError(error.where, error.what, remedy) from None
    if card.crop:
        leading, _, _ = views.split_leading(card.crop, "crop")
        return views.cut_image("eval", leading, image)[0]
    if (image.height, image.width) == size:
        return np.asarray(image)
    if not resize:
        turned = decoding._replace(exif="ignore" if card.exif == "apply" else "apply")
        header = read_header(io.BytesIO(content), str(path), number, turned)
        same = (header.height, header.width) == (image.height, image.width)
        noted = "" if same else f" (its EXIF notes a turn, and the run has data.exif='{card.exif}')"
        raise DataError(
            str(path), f"has {image.width}×{image.height} pixels{noted}, the network takes "
            f"{size[1]}×{size[0]}", "resize it, or use --resize",
        )
    scale = max(size[0] / image.height, size[1] / image.width)
    wide = max(round(image.width * scale), size[1]), max(round(image.height * scale), size[0])
    scaled = np.asarray(image.resize(wide, Image.Resampling.BILINEAR))
    top, left = (scaled.shape[0] - size[0]) // 2, (scaled.shape[1] - size[1]) // 2
    return scaled[top : top + size[0], left : left + size[1]]


def likeliest(probabilities: np.ndarray, card: ModelCard, count: int) -> list[tuple[float, str]]:
    """Returns the likeliest classes of an image.

    Args:
      probabilities: `f32[C]`.
      card: knows their names; without them they are called by number.
      count: how many.

    Returns:
      (probability, name), the likeliest first.
    """
    order = np.argsort(-probabilities, kind="stable")[:count]
    names = card.class_names or tuple(f"class {number}" for number in range(card.num_classes))
    return [(float(probabilities[number]), names[number]) for number in order]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = commands.Parser(prog="predict", description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="+", type=Path, help="image files")
    parser.add_argument("--model", required=True, type=Path, help="what --mode=export made")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print")
    parser.add_argument("--packed", action="store_true", help="run the packed weights instead")
    parser.add_argument("--resize", action="store_true", help="scale and crop to the right size")
    options = parser.parse_args(argv)
    try:
        if options.top < 1:
            raise ConfigError("--top", f"is {options.top}", "at least 1")
        card, function = artifact.read(workdir.place("--model", options.model), options.packed)
    except UserError as error:
        return _told(error)
    status, named = 0, False
    for start in range(0, len(options.image), BATCH):
        paths, images = [], []
        for number, path in enumerate(options.image[start : start + BATCH], start):
            try:
                images.append(read_image(path, number, card, options.resize))
                paths.append(path)
            except UserError as error:
                status = _told(error)
        if not images:
            continue
        if not named:
            write_lines(f"model: {card.describe()}", stream=sys.stderr)
            named = True
        logits = np.asarray(function(np.stack(images)), np.float32)
        rows = np.asarray(jax.nn.softmax(logits))
        for path, row, finite in zip(paths, rows, np.isfinite(logits).all(1), strict=True):
            if not finite:
                what = "its logits are not finite"
                status = _told(NonFiniteError(str(path), what, "check the image and the network"))
                continue
            write_lines(str(path), *(
                f"  {100 * probability:6.2f} %  {name}"
                for probability, name in likeliest(row, card, options.top)
            ))
    return status


def _told(error: UserError) -> int:
    write_lines(f"error: {error}", stream=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    commands.run(main)
