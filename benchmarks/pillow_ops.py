"""The ops of a policy by Pillow, for comparison."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from kdaug_jax.augment.policies import Op

ENHANCE = {
    "brightness": ImageEnhance.Brightness, "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast, "sharpness": ImageEnhance.Sharpness,
}
MOVES = {
    "shear_x": lambda v: (1, v, 0, 0, 1, 0), "shear_y": lambda v: (1, 0, 0, v, 1, 0),
    "translate_x": lambda p: (1, 0, p, 0, 1, 0), "translate_y": lambda p: (1, 0, 0, 0, 1, p),
}


def apply(image: Image.Image, op: Op, fill: tuple[int, ...]) -> Image.Image:
    """Applies one op; of erased squares, one in the middle."""
    if op.name == "identity":
        return image
    if op.name in ENHANCE:
        return ENHANCE[op.name](image).enhance(op.value)
    if op.name == "rotate":
        return image.rotate(op.value, fillcolor=fill)
    if op.name in MOVES:
        return image.transform(
            image.size, Image.Transform.AFFINE, MOVES[op.name](op.value), fillcolor=fill
        )
    if op.name == "cutout":
        left, top = ((side - op.value) // 2 for side in image.size)
        image = image.copy()
        image.paste(fill, (left, top, left + op.value, top + op.value))
        return image
    simple = {
        "invert": ImageOps.invert, "auto_contrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
    }
    if op.name in simple:
        return simple[op.name](image)
    return {"solarize": ImageOps.solarize, "posterize": ImageOps.posterize}[op.name](
        image, op.value
    )


def augment(image: np.ndarray, ops: list[Op], fill: tuple[int, ...]) -> np.ndarray:
    """Applies some ops in turn to `u8[H,W,3]`."""
    picture = Image.fromarray(image)
    for op in ops:
        picture = apply(picture, op, fill)
    return np.asarray(picture)
