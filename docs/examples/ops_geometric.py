"""Geometric ops from outside the package: a scaling with a row of its own, and a plain flip.

Put this file beside your config and name the ops in a view:

    randaugment(2, 9, ops=("Rotate", "ops_geometric:SCALE_X", "ops_geometric:flip_y"))

A row of the op table says more than a plain function can: the affine map runs in the engine's own
kernels, with the fill of the view and any filter, and its values have a range and a sign.
"""

import jax
import numpy as np

from kdaug_jax.augment import Values, geometric_op


def scale_x_matrix(share, height, width):
    """Returns the map, output to input, that makes the content wider by a share of its width."""
    factor = 1 / (1 + share)
    return factor, 0, (1 - factor) * width / 2, 0, 1, 0


# Magnitudes reach from 0 to 0.4, with either sign, because the range begins below 0.
SCALE_X = geometric_op(scale_x_matrix, Values("share of the width", -0.4, 0.4))


def flip_y(image):
    """Turns `u8[H,W,C]` upside down."""
    return image[::-1]


def main():
    """Augments random images by a policy that names the ops."""
    from kdaug_jax.experiment.views import build_augment

    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    names = '("ops_geometric:SCALE_X", "ops_geometric:flip_y")'
    augment = jax.jit(build_augment(f"randaugment(1, 9, ops={names})"))
    augmented = augment(jax.random.split(jax.random.key(0), 8), images)
    print(f"{(augmented != images).mean():.0%} of the values changed")


if __name__ == "__main__":
    main()
