"""Floating-point operations counted in traced programs."""

import jax
import jax.numpy as jnp
import pytest

from kdaug_jax.compile import flops
from kdaug_jax.runtime import sharding


def counted(function, *shapes):
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    return flops.count(jax.make_jaxpr(function)(*arrays))


def convolution(image, kernel, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image, kernel, dimension_numbers=numbers, **options)


def test_a_product():
    assert counted(jnp.matmul, (5, 7), (7, 3)) == 2 * 5 * 7 * 3
    assert counted(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (2, 5, 7), (2, 7, 3)) == 420


@pytest.mark.parametrize(
    "options, products",
    [
        (dict(window_strides=(1, 1), padding="VALID"), 4 * 4 * 9),
        # Of 6 outputs along a side, those at the edges have 2 of 3 pixels.
        (dict(window_strides=(1, 1), padding="SAME"), (3 * 6 - 2) ** 2),
        (dict(window_strides=(2, 2), padding=((1, 1), (1, 1))), (3 + 3 + 2) ** 2),
    ],
)
def test_a_convolution_is_counted_without_its_padding(options, products):
    def apply(image, kernel):
        return convolution(image, kernel, **options)

    assert counted(apply, (2, 6, 6, 3), (3, 3, 3, 5)) == 2 * products * 2 * 3 * 5


def test_gradients_of_a_convolution_count_as_much_as_the_convolution():
    def loss(image, kernel):
        return convolution(image, kernel, window_strides=(2, 2), padding=((1, 1), (1, 1))).sum()

    shapes = (2, 8, 8, 3), (3, 3, 3, 5)
    forward = counted(loss, *shapes)
    assert counted(jax.grad(loss, argnums=1), *shapes) == 2 * forward
    assert counted(jax.grad(loss, argnums=(0, 1)), *shapes) == 3 * forward


def test_a_depthwise_convolution():
    def apply(image, kernel):
        return convolution(image, kernel, window_strides=(1, 1), padding="VALID",
                           feature_group_count=4).sum()

    shapes = (1, 6, 6, 4), (3, 3, 1, 4)
    assert counted(apply, *shapes) == 2 * 16 * 9 * 4
    assert counted(jax.grad(apply, argnums=1), *shapes) == 2 * (2 * 16 * 9 * 4)


def test_loops_branches_and_devices():
    def step(x, w):
        return x @ w, None

    once = 2 * 4 * 4 * 4
    assert counted(lambda x, w: jax.lax.scan(lambda c, _: step(c, w), x, length=6)[0],
                   (4, 4), (4, 4)) == 6 * once
    assert counted(lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w),
                   (4, 4), (4, 4)) == 2 * once
    assert counted(lambda x, w: jax.checkpoint(jax.jit(jnp.matmul))(x, w), (4, 4), (4, 4)) == once
    mesh = sharding.make_mesh(-1, 8)
    spread = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(jax.P(sharding.DATA), jax.P()),
        out_specs=jax.P(sharding.DATA),
    )
    assert counted(spread, (8, 4), (4, 4)) == 2 * once
