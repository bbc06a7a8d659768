"""The leading part of a view on the host: which boxes of an image are cut, and their pixels.

A leading part is one stage, or `resize_shorter` and a plain crop. The boxes of a whole batch are
drawn at once (`plan`); each image is decoded once and cut as often as there are views (`cut`).
Stages of the same names in `kdaug_jax.augment.STAGES` do the same on the device, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.images import boxes, tensorflow_resize, threefry

Size = tuple[int, int]
Arguments = Mapping[str, Any]
Sides = tuple[np.ndarray, np.ndarray]  # heights and widths, i32[n] both
# Which images, what is wrong with "{image}", and what to write.
Refused = tuple[np.ndarray, str, str]

STEP = 6  # top, left, height, width, out_height, out_width
METHODS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Crop(NamedTuple):
    """One stage of a leading part.

    Attributes:
      kind: its row in `CROPS`.
      arguments: those of the stage, complete with defaults.
    """

    kind: str
    arguments: Arguments


class CropRow(NamedTuple):
    """What a stage does on the host.

    Attributes:
      boxes: `boxes(words, sides, arguments) -> i32[n,6]`, what is cut of images, and to which size
        it is brought; see `STEP`.
      size: `size(arguments, before)` returns height and width of what comes out; `before` and the
        result are None where images differ in size.
      method: `method(arguments)` names how boxes are resized: "bilinear" or "bicubic" of Pillow,
        "tensorflow" to float32, "tensorflow_bytes", or "copy".
      refused: `refused(arguments, sides)` tells the images that it cannot be applied to, and why,
        or None.
      words: shape of the random words that an image takes, or None.
      fixes_size: whether all that comes out is of one size.
    """

    boxes: Callable[[np.ndarray | None, Sides, Arguments], np.ndarray]
    size: Callable[[Arguments, Size | None], Size | None]
    method: Callable[[Arguments], str]
    refused: Callable[[Arguments, Sides], Refused] | None = None
    words: tuple[int, ...] | None = None
    fixes_size: bool = True


def _steps(box: Sequence[np.ndarray], height: Any, width: Any) -> np.ndarray:
    """Stacks boxes `i32[n]` or `i32[n,1]` and the sizes that they are brought to: `i32[n,6]`."""
    sides = [np.asarray(side, np.int32).reshape(-1) for side in (*box, height, width)]
    return np.stack(np.broadcast_arrays(*sides), -1)


def _square(arguments: Arguments, before: Size | None) -> Size:
    del before
    return arguments["size"], arguments["size"]


def _random_resized_crop(words: np.ndarray, sides: Sides, arguments: Arguments) -> np.ndarray:
    scale, ratio = tuple(arguments["scale"]), tuple(arguments["ratio"])
    box = boxes.random_box(words, boxes.limits(*sides, scale, ratio), ratio)
    return _steps(box, *_square(arguments, None))


def _inception_crop(words: np.ndarray, sides: Sides, arguments: Arguments) -> np.ndarray:
    limits = boxes.inception_limits(*sides, boxes.SCALE, boxes.COVERED)
    shapes = boxes.inception_shapes(boxes.RATIO)
    drawn = boxes.inception_box(
        words, limits, boxes.RATIO, lambda shape: boxes.inception_heights(shapes[shape], limits)
    )
    drawn = boxes.Box(*(side[:, 0] for side in drawn))
    box = boxes.middle_or_drawn(drawn, *sides, arguments["size"])
    return _steps(box, *_square(arguments, None))


def _center_crop(words: None, sides: Sides, arguments: Arguments) -> np.ndarray:
    box = boxes.center_box(*sides, arguments["size"], arguments["padding"])
    return _steps(box, *_square(arguments, None))


def _empty_middle(arguments: Arguments, sides: Sides) -> Refused:
    size, padding = arguments["size"], arguments["padding"]
    return (
        boxes.center_box(*sides, size, padding).height < 1,
        f"size={size}, padding={padding} leave nothing of {{image}}", "take a smaller padding",
    )


def _resize(words: None, sides: Sides, arguments: Arguments) -> np.ndarray:
    return _steps((0, 0, *sides), arguments["height"], arguments["width"])


def _resize_shorter(words: None, sides: Sides, arguments: Arguments) -> np.ndarray:
    return _steps((0, 0, *sides), *boxes.shorter_size(*sides, arguments["side"]))


def _shorter_size(arguments: Arguments, before: Size | None) -> Size | None:
    if before is None:
        return None
    height, width = boxes.shorter_size(*before, arguments["side"])
    return int(height), int(width)


def _too_long(arguments: Arguments, sides: Sides) -> Refused:
    side = arguments["side"]
    return (
        boxes.too_large(*boxes.shorter_size(*sides, side)),
        f"side={side} makes more than {boxes.LARGEST_IMAGE:,} pixels of {{image}}",
        "take a smaller side",
    )


def _crop_center(words: None, sides: Sides, arguments: Arguments) -> np.ndarray:
    size = arguments["size"]
    top, left = (boxes.center_start(side, size) for side in sides)
    return _steps((top, left, size, size), size, size)


def _crop_random(words: np.ndarray, sides: Sides, arguments: Arguments) -> np.ndarray:
    size = arguments["size"]
    top, left = boxes.random_start(words, *sides, size)
    return _steps((top, left, size, size), size, size)


def _smaller(arguments: Arguments, sides: Sides) -> Refused:
    size = arguments["size"]
    return (
        np.minimum(*sides) < size, f"size={size} is larger than {{image}}",
        f"resize_shorter({size}) before it makes images large enough",
    )


def _method(arguments: Arguments) -> str:
    return arguments["method"]


CROPS: dict[str, CropRow] = {
    "random_resized_crop": CropRow(
        _random_resized_crop, _square, _method, words=boxes.WORDS
    ),
    "inception_crop": CropRow(
        _inception_crop, _square, lambda arguments: "tensorflow_bytes", words=boxes.WORDS
    ),
    "center_crop": CropRow(
        _center_crop, _square, _method, _empty_middle
    ),
    "efficientnet_crop": CropRow(
        _center_crop, _square, lambda arguments: "tensorflow", _empty_middle
    ),
    "resize": CropRow(
        _resize, lambda arguments, before: (arguments["height"], arguments["width"]),
        _method,
    ),
    "resize_shorter": CropRow(
        _resize_shorter, _shorter_size, _method, _too_long,
        fixes_size=False,
    ),
    "crop_center": CropRow(_crop_center, _square, lambda arguments: "copy"),
    "crop_random": CropRow(
        _crop_random, _square, lambda arguments: "copy", _smaller, words=(2,)
    ),
}


def check(crop: Crop, size: Size | None) -> None:
    """Validates the arguments of a stage.

    Args:
      crop: the stage.
      size: height and width of the images in pixels; where they differ None, see `misfit`.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    arguments = crop.arguments
    for name in ("size", "side", "height", "width"):
        if name in arguments and arguments[name] < 1:
            raise ArgumentError(f"got {name}={arguments[name]}", "must be at least 1 pixel")
    out = CROPS[crop.kind].size(arguments, None)
    if out is not None and boxes.too_large(*out):
        raise ArgumentError(
            f"gives images of {out[1]}×{out[0]}, more than {boxes.LARGEST_IMAGE:,} pixels",
            "ask for fewer",
        )
    if arguments.get("padding", 0) < 0:
        raise ArgumentError(f"got padding={arguments['padding']}", "must be at least 0 pixels")
    if "method" in arguments and arguments["method"] not in METHODS:
        method = arguments["method"]
        raise ArgumentError(f"unknown method {method!r}", suggest(str(method), METHODS))
    if "scale" in arguments:
        check_ranges(arguments["scale"], arguments["ratio"])
    refused = None if size is None else misfit([crop], [size])
    if refused is not None:
        raise refused[1]


def check_ranges(scale: Any, ratio: Any) -> None:
    """Validates the ranges that boxes are drawn from.

    Args:
      scale: smallest and largest area, as fractions of the image's.
      ratio: smallest and largest width / height.

    Raises:
      ArgumentError: not two numbers, not in order, or out of range.
    """
    if not _is_pair(scale) or not 0 < scale[0] <= scale[1] <= 1:
        raise ArgumentError(f"scale={scale}", "must be two fractions above 0, the smaller first")
    if not _is_pair(ratio) or not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ArgumentError(f"ratio={ratio}", "must be two numbers above 0, the smaller first")


def _is_pair(value: Any) -> bool:
    numbers = isinstance(value, tuple | list) and len(value) == 2
    return numbers and all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    )


def misfit(crops: Sequence[Crop], sizes: ArrayLike) -> tuple[int, ArgumentError] | None:
    """Returns the first image that a leading part cannot be applied to, and why.

    Args:
      crops: the leading part.
      sizes: `i[n,2]`, height and width of each image.

    Returns:
      Its row and the error, or None if there is no such image.
    """
    sides = tuple(np.asarray(sizes, np.int32).T)
    for crop in crops:
        row = CROPS[crop.kind]
        pixels = (
            boxes.too_large(*sides), f"{{image}} has more than {boxes.LARGEST_IMAGE:,} pixels",
            "store it smaller",
        )
        stage_limit = row.refused and row.refused(crop.arguments, sides)
        for refused, what, remedy in filter(None, (pixels, stage_limit)):
            if refused.any():
                first = int(np.argmax(refused))
                height, width = (side[first] for side in sides)
                image = f"the {width}×{height} image"
                return first, ArgumentError(what.format(image=image), remedy)
        if not row.fixes_size:
            sides = tuple(row.boxes(None, sides, crop.arguments)[:, 4:].T)
    return None


def words_of(
    crops: Sequence[Crop], keys_of: Callable[[int], np.ndarray]
) -> list[np.ndarray | None]:
    """Draws the random words of a leading part.

    Args:
      crops: the leading part.
      keys_of: returns the keys `u32[n,2]` of a stage, given its number in the leading part; called
        only for stages that draw.

    Returns:
      `u32[n,*words]` for each stage, or None.
    """
    shapes = [CROPS[crop.kind].words for crop in crops]
    return [
        None if shape is None else threefry.bits(keys_of(number), shape)
        for number, shape in enumerate(shapes)
    ]


def plan(
    crops: Sequence[Crop], words: Sequence[np.ndarray | None], sizes: np.ndarray
) -> np.ndarray:
    """Works out what is cut of each image of a batch.

    Args:
      crops: the leading part.
      words: from `words_of`.
      sizes: `i[n,2]`, height and width of each image.

    Returns:
      `i32[n,len(crops),6]`, see `STEP`. Boxes of `crop_center` may reach beyond the image.

    Raises:
      ArgumentError: the leading part cannot be applied to an image, see `misfit`.
    """
    refused = misfit(crops, sizes)
    if refused is not None:
        raise refused[1]
    sides, steps = tuple(np.asarray(sizes, np.int32).T), []
    for crop, bits in zip(crops, words, strict=True):
        steps.append(CROPS[crop.kind].boxes(bits, sides, crop.arguments))
        sides = tuple(steps[-1][:, 4:].T)
    return np.stack(steps, 1)


def methods(crops: Sequence[Crop]) -> tuple[str, ...]:
    """Returns how the boxes of each stage of a leading part are resized, see `CropRow.method`."""
    return tuple(CROPS[crop.kind].method(crop.arguments) for crop in crops)


def output(crops: Sequence[Crop], size: Size | None = None) -> tuple[Size | None, np.dtype]:
    """Returns what comes out of a leading part.

    Args:
      crops: the leading part.
      size: height and width of all images in pixels, or None where they differ.

    Returns:
      Height and width, None where they differ, and the dtype: uint8 or float32.
    """
    for crop in crops:
        size = CROPS[crop.kind].size(crop.arguments, size)
    return size, np.dtype(np.float32 if methods(crops)[-1] == "tensorflow" else np.uint8)


def cut(image: Image.Image, steps: np.ndarray, methods: Sequence[str]) -> np.ndarray:
    """Cuts boxes out of an image and resizes them, one after another.

    Args:
      image: of mode RGB, in full.
      steps: `i32[K,6]`, those of the image in `plan`.
      methods: from `methods`.

    Returns:
      `u8[H,W,3]`, read-only, or `f32[H,W,3]` with the method "tensorflow".
    """
    for step, method in zip(steps.tolist(), methods, strict=True):
        top, left, height, width, out_height, out_width = step
        edges = (left, top, left + width, top + height)
        # As torchvision does: a box given to `resize` would let it look beyond the box.
        if edges != (0, 0, *image.size):
            image = image.crop(edges)
        if method.startswith("tensorflow"):
            dtype = np.float32 if method == "tensorflow" else np.uint8
            return tensorflow_resize.resize(np.asarray(image), out_height, out_width, dtype)
        if method != "copy" and image.size != (out_width, out_height):
            image = image.resize((out_width, out_height), METHODS[method])
    return np.asarray(image)
