"""Draws what augmentation does: ops at rising magnitudes, or samples of view expressions.

python -m kdaug_jax.analysis.gallery ops.png --ops=paper
python -m kdaug_jax.analysis.gallery views.png --view="autoaugment('cifar10')" --view="flip"
python -m kdaug_jax.analysis.gallery figure3.png --figure=3

Figures 1 to 3 are those of Wei et al. 2020: copies that AutoAugment makes of an image, what rising
magnitudes of RandAugment make of it, and the five ops of the paper's own space at magnitudes 0 to
10, with two of them in turn in the last row.
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
from kdaug_jax.augment.policies import SPACES, wei2020_levels
from kdaug_jax.augment.policies.policy import Levels
from kdaug_jax.errors import ConfigError, UserError, printable, suggest
from kdaug_jax.experiment import views
from kdaug_jax.experiment.binding import colour as fill_colour
from kdaug_jax.files import open_file, reason
from kdaug_jax.runtime import commands, workdir
from kdaug_jax.runtime.console import write_lines
from kdaug_jax.types import Info

LEVELS = 7
OWN_LEVELS = range(11)  # of the space of Wei et al. 2020
COPIES = "autoaugment('imagenet_v0')"
RISING = (9, 18, 27, 36)
TWO_IN_TURN = ("ShearX", "TranslateY")


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
    op_space = SPACES[space](images.shape[1:3], None, None)
    levels = np.linspace(0, op_space.highest, LEVELS).round().astype(int).tolist()
    image_grid(path, *op_rows(
        op_space.levels, [(name,) for name in op_space.levels], levels, op_space.variant,
        op_space.fill, images,
    ))


def draw_own_space(path: Path, images: np.ndarray) -> None:
    """Draws Figure 3 of Wei et al. 2020: the five ops at each magnitude, and two in turn.

    Args:
      path: the PNG file to write.
      images: `u8[N,H,W,3]`, taken in turn from row to row.
    """
    space = wei2020_levels()
    sequences = [*((name,) for name in space), TWO_IN_TURN]
    image_grid(path, *op_rows(space, sequences, OWN_LEVELS, "pillow", "mean", images))


def op_rows(
    space: Levels, sequences: Sequence[Sequence[str]], levels: Sequence[int], variant: str,
    fill: str | int, images: np.ndarray,
) -> tuple[list[str], list[np.ndarray], list[list[str]]]:
    """Applies ops in turn, with a positive sign, at rising levels.

    Args:
      space: ops by name.
      sequences: for each row the names of the ops that are applied in turn.
      levels: of the columns.
      variant: of the arithmetic, see `Policy`.
      fill: of what an op uncovers.
      images: `u8[N,H,W,3]`, taken in turn from row to row.

    Returns:
      Title, `u8[columns,H,W,3]` and captions of each row.
    """
    size, count = images.shape[1:3], len(levels)
    colour = fill_colour("fill", fill, _info(images))
    titles, rows, captions = [], [], []
    for number, names in enumerate(sequences):
        ops = [space[name](level, size)[0] for level in levels for name in names]
        image = np.repeat(images[number % len(images)][None], count, axis=0)
        rows.append(np.asarray(apply_ops(
            image, np.arange(len(ops), dtype=np.int32).reshape(count, len(names)),
            np.full((count, len(names), 2), 1 << 31, np.uint32), build_table(ops, size, variant),
            Colours(colour, colour), implementation="loop",
        )))
        titles.append(", ".join(names))
        captions.append([
            ": ".join([f"m={level}", *(
                f"{op.value:.4g}" for op in ops[column * len(names):(column + 1) * len(names)]
                if op.value is not None
            )])
            for column, level in enumerate(levels)
        ])
    return titles, rows, captions


def figure_views(number: int, size: int) -> list[str]:
    """Returns the view expressions of Figure 1 or 2 of Wei et al. 2020.

    Args:
      number: 1 or 2.
      size: side of the images in pixels, to which distances are in proportion.
    """
    if number == 1:
        return [COPIES]
    pixels = f"translate_const={100 * size / 224:.1f}, cutout_const={40 * size / 224:.1f}"
    return [COPIES, *(f"randaugment(2, {m}, 'tpu_clean', {pixels})" for m in RISING)]


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
    what.add_argument("--figure", type=int, choices=(1, 2, 3), help="of Wei et al. 2020")
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
        images = np.stack([square(picture, options.size) for picture in pictures])
        if options.ops:
            draw_ops(out, options.ops, images)
        elif options.figure == 3:
            draw_own_space(out, images)
        else:
            texts = options.view or figure_views(options.figure, options.size)
            draw_views(out, texts, pictures, options.size, options.samples, options.seed)
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
