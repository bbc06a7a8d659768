"""A stencil op from outside the package: Pillow's EDGE_ENHANCE, as a plain function of one image.

Put this file beside your config and name the op in a view:

    randaugment(2, 9, ops=("Rotate", "Color", "ops_stencil:edge_enhance"))

A policy calls a function with a second argument, `f(image, level)`, with the level 0..1 that it
applies: the magnitude over the largest one.
"""

import jax
import jax.numpy as jnp
import numpy as np


def edge_enhance(image):
    """Doubles each pixel's difference from its eight neighbours; `u8[H,W,C]`, border unchanged."""
    height, width, _ = image.shape
    wide = jnp.asarray(image).astype(jnp.int32)
    windows = (
        wide[row : row + height - 2, column : column + width - 2]
        for row in range(3) for column in range(3)
    )
    # The kernel is 10 in the middle, -1 around it, over 2; halves are rounded up.
    enhanced = (11 * wide[1:-1, 1:-1] - sum(windows) + 1) >> 1
    return jnp.asarray(image).at[1:-1, 1:-1].set(jnp.clip(enhanced, 0, 255).astype(jnp.uint8))


def main():
    """Augments random images by a policy that names the op."""
    from kdaug_jax.experiment.views import build_augment

    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    augment = jax.jit(build_augment('randaugment(1, 9, ops=("ops_stencil:edge_enhance",))'))
    augmented = augment(jax.random.split(jax.random.key(0), 8), images)
    print(f"{(augmented != images).mean():.0%} of the values changed")


if __name__ == "__main__":
    main()
