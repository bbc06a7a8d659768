"""Draws what augmentation does: ops at rising magnitudes, or samples of view expressions.

python -m kdaug_jax.analysis.gallery ops.png --ops=paper
python -m kdaug_jax.analysis.gallery views.png --view="autoaugment('cifar10')" --view="flip"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from kdaug_jax.analysis.pictures import image_grid
from kdaug_jax.augment import Colours, apply_ops
from kdaug_jax.augment.engine import build_table
from kdaug_jax.augment.policies import SPACES
from kdaug_jax.errors import ConfigError, UserError, printable, suggest
from kdaug_jax.experiment import views
from kdaug_jax.experiment.binding import colour as fill_colour
from kdaug_jax.files import open_file, reason
from kdaug_jax.runtime import commands, workdir
from kdaug_jax.runtime.console import write_lines
from kdaug_jax.types import Info

LEVELS = 7


def read_pictures(files: Sequence[Path]) -> list[Image.Image]:
    """Reads images as they are stored.

    Args:
      files: PNG or JPEG files; empty for the two photographs that come with scikit-learn.

    Raises:
      ConfigError: a file cannot be read as an image.
    """
    if not files:
        from sklearn.datasets import load_sample_images

        return [Image.fromarray(picture) for picture in load_sample_images().images]
    pictures = []
    for file in files:
        try:
            with open_file(file, "image") as opened, Image.open(opened) as picture:
                pictures.append(picture.convert("RGB"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                "--image", f"{file} cannot be read ({reason(error)})", "name a PNG or JPEG"
            ) from None
    return pictures


def square(picture: Image.Image, size: int) -> np.ndarray:
    """Cuts the largest square from the middle of a picture and resizes it, `u8[size,size,3]`."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop((left, top, left + side, top + side))
    return np.asarray(middle.resize((size, size), Image.Resampling.BICUBIC))


def draw_ops(path: Path, space: str, images: np.ndarray) -> None:
    """Draws each op of a RandAugment space at magnitudes from 0 to the largest.

    Args:
      path: the PNG file to write.
      space: name in `policies.SPACES`.
      images: `u8[N,H,W,3]`, taken in turn from row to row.

    Raises:
      ConfigError: no such space.
    """
    if space not in SPACES:
        raise ConfigError("--ops", f"unknown space '{space}'", suggest(space, SPACES))
    size = images.shape[1:3]
    op_space = SPACES[space](size, None, None)
    levels = np.linspace(0, op_space.highest, LEVELS).round().astype(int).tolist()
    titles, rows, captions = [], [], []
    for number, (name, pair) in enumerate(op_space.levels.items()):
        ops = [pair(level, size)[0] for level in levels]
        image = np.repeat(images[number % len(images)][None], LEVELS, axis=0)
        fill = fill_colour("fill", op_space.fill, _info(images))
        rows.append(np.asarray(apply_ops(
            image, np.arange(LEVELS, dtype=np.int32)[:, None],
            np.full((LEVELS, 1, 2), 1 << 31, np.uint32), build_table(ops, size, op_space.variant),
            Colours(fill, fill), implementation="loop",
        )))
        titles.append(name)
        captions.append([
            f"m={level}" + ("" if op.value is None else f": {op.value:.4g}")
            for level, op in zip(levels, ops, strict=True)
        ])
    image_grid(path, titles, rows, captions)


def draw_views(
    path: Path, texts: Sequence[str], pictures: Sequence[Image.Image], size: int, samples: int,
    seed: int,
) -> None:
    """Draws samples of view expressions.

    Args:
      path: the PNG file to write.
      texts: the expressions, see `experiment.views`. A leading crop is cut from the stored
        pictures, other views start from squares of their middle.
      pictures: each gives `samples` images, and its middle before them.
      size: side of these squares in pixels.
      samples: how many.
      seed: of the draws.

    Raises:
      ConfigError: an expression does not fit.
    """
    squares = [square(picture, size) for picture in pictures]
    mean = tuple(np.stack(squares).mean((0, 1, 2)).tolist())
    titles, rows, captions = [], [], []
    for text in texts:
        leading, _, rest = views.split_leading(text, "views.x")
        build_view = jax.jit(views.build_augment(rest, mean=mean)) if rest else None
        for number, picture in enumerate(pictures):
            images = np.repeat(squares[number][None], samples, axis=0)
            if leading is not None:
                images = np.stack([
                    views.cut_image("x", leading, picture, sample, seed + number)[0]
                    for sample in range(samples)
                ])
            keys = jax.random.split(jax.random.key(seed + number), samples)
            made = images if build_view is None else np.asarray(build_view(keys, images))
            rows.append([squares[number], *made])
            titles.append(text if number == 0 else "")
            captions.append(["as stored", *[str(sample) for sample in range(samples)]])
    image_grid(path, titles, rows, captions)


def _info(images: np.ndarray) -> Info:
    mean = tuple(images.mean((0, 1, 2)).tolist())
    return Info(0, images.shape[1:3], np.zeros(0, np.int32), mean, mean)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = commands.Parser(
        prog="gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the PNG file to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ops", help=f"a space of ops: {', '.join(SPACES)}")
    what.add_argument("--view", action="append", help="a view expression, may be repeated")
    parser.add_argument("--image", action="append", type=Path, default=[], help="your own images")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--samples", type=int, default=8, help="pictures a view and image")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    options = parser.parse_args(argv)
    if not (1 <= options.size <= 4096 and 1 <= options.samples <= 100
            and 0 <= options.seed < 2**31):
        parser.error("size is 1..4096, samples is 1..100, seed is at least 0 and below 2^31")
    try:
        out = workdir.place("out", options.out)
        if out.exists() and not out.is_file() or not out.parent.is_dir():
            what = "is there and is no file" if out.exists() else "lies in no folder"
            raise ConfigError("out", f"{out} {what}", "name another file")
        pictures = read_pictures(options.image)
        if options.ops:
            images = np.stack([square(picture, options.size) for picture in pictures])
            draw_ops(out, options.ops, images)
        else:
            draw_views(
                out, options.view, pictures, options.size, options.samples, options.seed
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(printable(f"error: {out}: cannot be written ({error.strerror})"), file=sys.stderr)
        return 2
    write_lines(str(options.out))
    return 0


if __name__ == "__main__":
    commands.run(main)
