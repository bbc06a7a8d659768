"""Augmentation of uint8 images on the device: deterministic ops and thin random wrappers.

`STAGES` maps the names of the view language to the random wrappers.
"""

from kdaug_jax.augment.crop import check_pad_crop, flip, pad_crop, random_flip, random_pad_crop
from kdaug_jax.augment.geometry import (
    affine_coefficients,
    affine_nearest,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
from kdaug_jax.augment.masks import check_cutout, cutout, erase_square, paint, random_cutout
from kdaug_jax.augment.randaugment import (
    SPACES,
    check_randaugment,
    limit_randaugment,
    randaugment,
)
from kdaug_jax.augment.stage import Stage

STAGES: dict[str, Stage] = {
    "pad_crop": Stage(random_pad_crop, check=check_pad_crop),
    "flip": Stage(random_flip),
    "cutout": Stage(random_cutout, check=check_cutout),
    "randaugment": Stage(randaugment, limits=limit_randaugment, check=check_randaugment),
}

__all__ = [
    "SPACES",
    "STAGES",
    "Stage",
    "affine_coefficients",
    "affine_nearest",
    "cutout",
    "erase_square",
    "flip",
    "pad_crop",
    "paint",
    "randaugment",
    "random_cutout",
    "random_flip",
    "random_pad_crop",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
