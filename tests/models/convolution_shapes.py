"""Convolutions with which each form meets odd sides, dead places, few channels and each padding."""

import numpy as np
from jax import lax
from numpy.lib.stride_tricks import sliding_window_view

from kdaug_jax.models.convolutions.choice import Convolution, result_shape

# Batch, height, width, inputs, outputs, groups.
_PADDED_EVENLY = (
    (8, 16, 16, 32, 48, 1), (4, 9, 7, 20, 24, 1), (8, 16, 16, 8, 16, 1), (4, 8, 8, 3, 16, 1),
    (8, 16, 16, 40, 40, 40), (4, 7, 9, 24, 24, 24), (4, 2, 2, 24, 24, 24), (8, 8, 8, 24, 48, 3),
)
_OTHERS = ((4, 8, 8, 32, 64, 1), (4, 9, 8, 32, 32, 32))
# And side of the kernel, stride, padding; as networks have them.
_SINGLE = (
    (4, 32, 32, 3, 64, 1, 3, 1, 2), (4, 17, 17, 64, 96, 1, 3, 1, 2), (4, 32, 32, 3, 6, 1, 5, 1, 0),
    (4, 14, 14, 6, 16, 1, 5, 1, 0), (4, 4, 4, 256, 512, 1, 3, 1, 1),
    (32, 16, 16, 20, 24, 1, 3, 1, 1), (32, 17, 16, 20, 24, 1, 3, 2, 1),
    (32, 16, 16, 20, 24, 1, 3, 1, 2), (32, 16, 16, 72, 12, 1, 1, 1, 0),
    (4, 8, 8, 16, 24, 1, 1, 1, 1),
)  # fmt: skip


def same(height, width, side, stride):
    """TensorFlow's rule of padding."""
    return tuple(lax.padtype_to_pads((height, width), (side, side), (stride, stride), "SAME"))


def case(batch, height, width, inputs, outputs, groups, side, stride, padding):
    """An image's shape, a kernel's shape and settings."""
    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    kernel = (side, side, inputs // groups, outputs)
    return (batch, height, width, inputs), kernel, Convolution(stride, padding, groups)


def cases():
    """Lists them."""
    listed = []
    for side, padding in ((1, 0), (3, 1), (5, 2)):
        for stride in (1, 2):
            listed += [case(*shape, side, stride, padding) for shape in _PADDED_EVENLY]
            for shape in _OTHERS:
                listed.append(case(*shape, side, stride, same(*shape[1:3], side, stride)))
                if side > 1:  # with 1×1 the same as above
                    listed.append(case(*shape, side, stride, 0))
    return listed + [case(*shape) for shape in _SINGLE]


def describe(image, kernel, settings):
    """A name for a test."""
    (top, bottom), _ = settings.padding
    sizes = "x".join(map(str, (*image[:3], image[3], kernel[3])))
    return f"{sizes}-k{kernel[0]}s{settings.stride}p{top}{bottom}g{settings.groups}"


def draw(image, kernel, settings):
    """Draws images, a kernel and a cotangent of the result."""
    random = np.random.default_rng(0)
    shapes = image, kernel, result_shape(image, kernel, settings)
    return [random.standard_normal(shape, dtype=np.float32) for shape in shapes]


def by_definition(x, kernel, cotangent, settings):
    """The result and both gradients, in float64."""
    x, kernel, cotangent = (array.astype(np.float64) for array in (x, kernel, cotangent))
    stride, groups, sides = settings.stride, settings.groups, kernel.shape[:2]
    padded = np.pad(x, ((0, 0), *settings.padding, (0, 0)))
    windows = sliding_window_view(padded, sides, (1, 2))[:, ::stride, ::stride]
    apart = lambda array, axis: np.split(array, groups, axis)  # noqa: E731
    results, by_kernel = [], []
    by_padded = np.zeros_like(padded)
    height, width = cotangent.shape[1:3]
    parts = zip(
        apart(windows, 3), apart(kernel, 3), apart(cotangent, 3), apart(by_padded, 3), strict=True
    )
    for window, weights, upstream, gradient in parts:  # the last is a view
        results.append(np.einsum("bhwcij,ijco->bhwo", window, weights, optimize=True))
        by_kernel.append(np.einsum("bhwcij,bhwo->ijco", window, upstream, optimize=True))
        for i in range(sides[0]):
            for j in range(sides[1]):
                rows = slice(i, i + stride * (height - 1) + 1, stride)
                columns = slice(j, j + stride * (width - 1) + 1, stride)
                gradient[:, rows, columns] += upstream @ weights[i, j].T
    (top, _), (left, _) = settings.padding
    by_image = by_padded[:, top : top + x.shape[1], left : left + x.shape[2]]
    return np.concatenate(results, 3), by_image, np.concatenate(by_kernel, 3)
