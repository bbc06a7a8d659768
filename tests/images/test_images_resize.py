import numpy as np
import pytest

from kdaug_jax.images import tensorflow_resize
from kdaug_jax.images.arithmetic import product, split
from tests.augment.images import photographs


def resized(pixels, height, width):
    """TensorFlow's sums, one neighbour after another: rows, then columns."""
    total = pixels.astype(np.float32)
    for axis, out in enumerate((height, width)):
        first, weight = tensorflow_resize.tensorflow_weights(total.shape[axis], out, 1)
        line = total.swapaxes(0, axis)
        total = np.zeros((out, *line.shape[1:]), np.float32)
        for neighbour in range(4):
            places = np.clip(first + neighbour, 0, len(line) - 1)
            total += product(split(line[places]), (weight[:, neighbour, None, None],))
        total = total.swapaxes(0, axis)
    return total


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [((50, 60), (230, 260)), ((300, 41), (113, 129)), ((300, 400), (20, 30)), ((1, 1), (3, 2)),
     ((2, 400), (112, 128))],
    ids=str,
)  # fmt: skip
def test_images_of_many_blocks_are_tensorflows_sums(before, after, rounds, monkeypatch):
    if rounds and not tensorflow_resize.rounds_products():
        pytest.skip("SciPy merges roundings on this processor")
    monkeypatch.setattr(tensorflow_resize, "rounds_products", lambda: rounds)
    pixels = photographs(1, *before)[0]
    pixels[:, ::3] = np.where(pixels[:, ::3] > 127, 255, 0)  # sums below 0 and above 255
    expected = resized(pixels, *after)
    result = tensorflow_resize.resize(pixels, *after)
    assert result.dtype == np.float32 and result.tobytes() == expected.tobytes()
    result = tensorflow_resize.resize(pixels, *after, np.uint8)
    np.testing.assert_array_equal(result, np.clip(expected, 0, 255).astype(np.uint8))
