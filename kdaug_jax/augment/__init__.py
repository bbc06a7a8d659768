"""Augmentation of uint8 images on the device: deterministic ops and thin random wrappers.

An op takes one image `u8[H,W,C]` and returns one; map it over a batch with `jax.vmap`. C is 3, or 4
with alpha. The ops here are those of Pillow, pixel for pixel; `tpu` holds those of the
EfficientNet code. Under each op lie the pieces that a batched engine needs, which take what
differs between images as arrays: `apply_lut` with the tables of `lut` and `statistics`,
`affine_nearest` and its like with coefficients, `blend` with a split factor.

`OPS` is the op table: one row an op, from which engine, policies and documentation derive.
`STAGES` maps the names of the view language to the random wrappers.
"""

from kdaug_jax.augment import policies
from kdaug_jax.augment.engine import Colours, apply_ops, apply_policy
from kdaug_jax.augment.mixing import (
    cutmix,
    mixup,
    random_cutmix,
    random_mixup,
    random_mixup_or_cutmix,
)
from kdaug_jax.augment.ops import lut, torchvision, tpu
from kdaug_jax.augment.ops.blending import (
    blend,
    blend_colours,
    blend_lut,
    luma,
    split_alpha,
)
from kdaug_jax.augment.ops.boxes import draw_box, draw_inception_box
from kdaug_jax.augment.ops.colour import (
    brightness,
    color,
    identity,
    invert,
    posterize,
    solarize,
    solarize_add,
)
from kdaug_jax.augment.ops.crop import flip, pad_crop, random_flip, random_pad_crop
from kdaug_jax.augment.ops.filters import blur, sharpness, smooth
from kdaug_jax.augment.ops.geometry import (
    affine,
    affine_coefficients,
    affine_nearest,
    rotate,
    rotation,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
from kdaug_jax.augment.ops.lut import apply_lut, apply_rgb_lut, with_alpha
from kdaug_jax.augment.ops.masks import cutout, erase_square, paint, random_cutout
from kdaug_jax.augment.ops.plain_crop import crop_center, crop_random, resize_shorter
from kdaug_jax.augment.ops.resample import (
    affine_bicubic,
    affine_bilinear,
    exact_coefficients,
    premultiply,
    unpremultiply,
)
from kdaug_jax.augment.ops.resized_crop import (
    center_crop,
    efficientnet_crop,
    inception_crop,
    random_resized_crop,
)
from kdaug_jax.augment.ops.resizing import (
    resize,
    resize_box,
    resize_box_tensorflow,
    resize_tensorflow,
    to_bytes,
)
from kdaug_jax.augment.ops.statistics import (
    auto_contrast,
    contrast,
    contrast_lut,
    equalize,
    equalize_lut,
    histogram,
    mean_luma,
    stretch_lut,
)
from kdaug_jax.augment.ops.table import (
    OPS,
    Op,
    OpRow,
    Values,
    describe_ops,
    function_op,
    geometric_op,
    lut_op,
    statistics_op,
    stencil_op,
)
from kdaug_jax.augment.stage import Stage
from kdaug_jax.augment.stages import STAGES
from kdaug_jax.images.boxes import Box, center_box

__all__ = [
    "OPS",
    "STAGES",
    "Box",
    "Colours",
    "Op",
    "OpRow",
    "Stage",
    "Values",
    "affine",
    "affine_bicubic",
    "affine_bilinear",
    "affine_coefficients",
    "affine_nearest",
    "apply_lut",
    "apply_ops",
    "apply_policy",
    "apply_rgb_lut",
    "auto_contrast",
    "blend",
    "blend_colours",
    "blend_lut",
    "blur",
    "brightness",
    "center_box",
    "center_crop",
    "color",
    "contrast",
    "contrast_lut",
    "crop_center",
    "crop_random",
    "cutmix",
    "cutout",
    "describe_ops",
    "draw_box",
    "draw_inception_box",
    "efficientnet_crop",
    "equalize",
    "equalize_lut",
    "erase_square",
    "exact_coefficients",
    "flip",
    "function_op",
    "geometric_op",
    "histogram",
    "identity",
    "inception_crop",
    "invert",
    "luma",
    "lut",
    "lut_op",
    "mean_luma",
    "mixup",
    "pad_crop",
    "paint",
    "policies",
    "posterize",
    "premultiply",
    "random_cutmix",
    "random_cutout",
    "random_flip",
    "random_mixup",
    "random_mixup_or_cutmix",
    "random_pad_crop",
    "random_resized_crop",
    "resize",
    "resize_box",
    "resize_box_tensorflow",
    "resize_shorter",
    "resize_tensorflow",
    "rotate",
    "rotation",
    "sharpness",
    "shear_x",
    "shear_y",
    "smooth",
    "solarize",
    "solarize_add",
    "split_alpha",
    "statistics_op",
    "stencil_op",
    "stretch_lut",
    "to_bytes",
    "torchvision",
    "tpu",
    "translate_x",
    "translate_y",
    "unpremultiply",
    "with_alpha",
]
