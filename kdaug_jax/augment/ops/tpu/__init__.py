"""The ops of the EfficientNet code for TPUs, of images `u8[H,W,3]`: the variant "tpu".

Three of its traits are errors by any other standard. Solarize's threshold is stored in a byte,
modulo 256; posterize's bits are read so that 0 and more than 8 keep one; contrast moves colours
from a 256th of the number of pixels instead of their mean. Each function that has one takes
`clean`: False repeats it ("tpu"), True mends it ("tpu_clean").

Identity, invert, brightness, `solarize_add`, equalize and cutout are as Pillow's; that code gives
cutout half its side.
"""

from kdaug_jax.augment.ops.colour import brightness, identity, invert, solarize_add
from kdaug_jax.augment.ops.masks import cutout
from kdaug_jax.augment.ops.statistics import equalize
from kdaug_jax.augment.ops.tpu.colour import (
    SCALES,
    auto_contrast,
    color,
    contrast,
    contrast_level,
    grey,
    grey_of,
    grey_of_parts,
    grey_parts,
    mean_level,
    posterize,
    posterize_lut,
    sharpness,
    smooth,
    smooth_values,
    solarize,
    solarize_lut,
    stretch,
    stretch_lut,
)
from kdaug_jax.augment.ops.tpu.geometry import (
    affine_nearest,
    nearest_pixels,
    rotate,
    rotation,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)

__all__ = [
    "SCALES",
    "affine_nearest",
    "auto_contrast",
    "brightness",
    "color",
    "contrast",
    "contrast_level",
    "cutout",
    "equalize",
    "grey",
    "grey_of",
    "grey_of_parts",
    "grey_parts",
    "identity",
    "invert",
    "mean_level",
    "nearest_pixels",
    "posterize",
    "posterize_lut",
    "rotate",
    "rotation",
    "sharpness",
    "shear_x",
    "shear_y",
    "smooth",
    "smooth_values",
    "solarize",
    "solarize_add",
    "solarize_lut",
    "stretch",
    "stretch_lut",
    "translate_x",
    "translate_y",
]
