"""Convolutions in the form of the platform: which, that all are equal, and where there is one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.models import gradients
from kdaug_jax.models.convolutions import apply
from kdaug_jax.models.convolutions.choice import SMALL, Convolution, Forms, choose, fast_forms
from kdaug_jax.models.families import efficientnet
from kdaug_jax.runtime.platform import several
from tests.models.convolution_shapes import by_definition, case, cases, describe, draw

# Of the largest magnitude.
TOLERANCE = 3e-6
DEPTHWISE, POINTWISE = Forms(*["depthwise"] * 3), Forms(*["pointwise"] * 3)

# Images [B,H,W,C_in], outputs, groups, side of the kernel, stride, padding, and what runs.
TABLE = (
    # Depthwise, of any stride.
    ((64, 16, 16, 96), 96, 96, 3, 1, 1, DEPTHWISE),
    ((64, 16, 16, 96), 96, 96, 5, 2, 2, DEPTHWISE),
    # 1×1 without padding, up to 8 groups; few rows are transposed before.
    ((64, 16, 16, 96), 24, 1, 1, 1, 0, POINTWISE),
    ((64, 16, 16, 96), 192, 1, 1, 2, 0, POINTWISE),
    ((64, 16, 16, 96), 96, 3, 1, 1, 0, POINTWISE),
    ((64, 4, 4, 96), 96, 1, 1, 1, 0, POINTWISE._replace(by_kernel="transposed")),
    ((64, 16, 16, 96), 96, 12, 1, 1, 0, Forms()),
    # Other groups stay as they are.
    ((64, 16, 16, 96), 96, 4, 3, 1, 1, Forms()),
    ((64, 16, 16, 96), 192, 96, 3, 1, 1, Forms()),
    # Without groups, stride 1: the sum of the gradient by the kernel in parts, if it is long.
    ((64, 16, 16, 32), 32, 1, 3, 1, 1, Forms("plain", "plain", "parts")),
    ((64, 8, 8, 64), 64, 1, 3, 1, 1, Forms()),
    ((30, 16, 16, 32), 32, 1, 3, 1, 1, Forms()),
    # Stride 2: the gradient by the image in phases; larger strides as they are.
    ((64, 32, 32, 32), 64, 1, 3, 2, 1, Forms("plain", "phases", "parts")),
    ((64, 8, 8, 64), 128, 1, 1, 2, 1, Forms("plain", "phases", "plain")),
    ((8, 32, 32, 32), 64, 1, 3, 4, 1, Forms()),
    # A result, or a gradient, larger than what it is made of.
    ((64, 32, 32, 3), 64, 1, 3, 1, 2, Forms("padded", "plain", "padded parts")),
    ((64, 8, 8, 64), 96, 1, 3, 1, 2, Forms("padded", "plain", "padded")),
    ((64, 14, 14, 32), 32, 1, 5, 1, 0, Forms("plain", "flipped", "plain")),
    ((64, 8, 8, 64), 96, 1, 1, 1, 1, Forms("padded", "flipped", "padded")),
    # At most 16 channels, and fewer on one side.
    ((64, 32, 32, 16), 16, 1, 3, 1, 1, Forms()),
    ((64, 32, 32, 8), 16, 1, 3, 1, 1, Forms("column pairs", "flipped", "plain")),
    ((64, 32, 32, 3), 16, 1, 3, 1, 1, Forms("column pairs", "flipped", "plain")),
    ((64, 32, 31, 8), 16, 1, 3, 1, 1, Forms()),
    ((64, 32, 32, 3), 6, 1, 5, 1, 0, Forms("rows", "flipped", "plain")),
)  # fmt: skip


@pytest.mark.parametrize("image, outputs, groups, side, stride, padding, expected", TABLE)
def test_what_runs_when(image, outputs, groups, side, stride, padding, expected, monkeypatch):
    monkeypatch.setattr("kdaug_jax.models.convolutions.choice.NUM_PARTS", 4)
    image, kernel, settings = case(*image, outputs, groups, side, stride, padding)
    assert choose(image, kernel, settings, jnp.float32, "cpu") == expected
    for platform, dtype in (("tpu", "float32"), ("gpu", "float32"), ("cpu", "bfloat16")):
        assert choose(image, kernel, settings, jnp.dtype(dtype), platform) == Forms()


def test_jax_0_12_sums_in_one_part(monkeypatch):
    monkeypatch.setattr("kdaug_jax.models.convolutions.choice.NUM_PARTS", 1)
    shape = case(64, 16, 16, 32, 32, 1, 3, 1, 1)
    assert choose(*shape, jnp.float32, "cpu") == Forms()


def test_what_is_small_stays_plain():
    image, kernel, settings = case(4, 16, 16, 64, 64, 64, 3, 1, 1)
    assert np.prod(image) == SMALL
    assert choose(image, kernel, settings, jnp.float32, "cpu") == Forms()
    larger = (5, *image[1:])
    assert choose(larger, kernel, settings, jnp.float32, "cpu") == DEPTHWISE


def passes(forms, settings):
    """The result and both gradients as a compiled function."""

    @jax.jit
    def run(x, kernel, cotangent):
        function = lambda x, kernel: apply.convolve(x, kernel, settings, forms)  # noqa: E731
        y, gradients = jax.vjp(function, x, kernel)
        return (y, *gradients(cotangent))

    return run


def assert_equal_passes(image, kernel, settings):
    """Compares the fast forms with the plain one and with float64."""
    arrays = draw(image, kernel, settings)
    fast = passes(fast_forms(image, kernel, settings), settings)(*arrays)
    plain = passes(Forms(), settings)(*arrays)
    _, *sides, _ = arrays[2].shape
    within = kernel[0] * kernel[1]
    terms = within * kernel[2], within * kernel[3] // settings.groups, image[0] * np.prod(sides)
    exactly = by_definition(*arrays, settings)
    for ours, theirs, exact, count in zip(fast, plain, exactly, terms, strict=True):
        assert ours.shape == theirs.shape == exact.shape and ours.dtype == np.float32
        largest = np.abs(exact).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * largest)
        errors = [np.abs(result - exact).max() / largest for result in (ours, theirs)]
        # Or what a sum of so many rounded terms errs by, in whatever order they are added.
        assert errors[0] <= max(errors[1], 2**-23 * np.sqrt(count), 2**-22)


FAST = [shape for shape in cases() if fast_forms(*shape) != Forms()]


@pytest.mark.parametrize("image, kernel, settings", FAST, ids=[describe(*shape) for shape in FAST])
def test_forms_are_equal(image, kernel, settings):
    assert_equal_passes(image, kernel, settings)


def test_every_form_is_compared():
    used = {name for shape in FAST for name in fast_forms(*shape)}
    assert used == {
        "plain", "depthwise", "pointwise", "transposed", "padded", "column pairs", "rows",
        "flipped", "phases", "parts", "padded parts",
    }  # "cropped" is a part of "flipped"


def mesh_of(platform):
    kind = AbstractDevice(device_kind="a device", num_cores=1, platform=platform)
    return AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,), abstract_device=kind)


def transformed(convolve, within):
    """The gradients of a convolution within a transformation of JAX."""
    loss = lambda x, kernel: jnp.sum(convolve(x, kernel))  # noqa: E731
    if within == "remat":
        loss = jax.checkpoint(loss)
    if within == "vmap":
        return jax.vmap(jax.grad(loss, (0, 1)), in_axes=(None, 0))
    if within == "scan":
        step = lambda total, kernel: (total, jax.grad(loss, (0, 1))(total, kernel))  # noqa: E731
        return lambda x, kernels: lax.scan(step, x, kernels)
    if within == "shard_map":
        rows, whole = PartitionSpec("data"), PartitionSpec()
        return lambda x, kernel: jax.shard_map(
            jax.grad(loss, (0, 1)), in_specs=(rows, whole), out_specs=(rows, whole)
        )(x, kernel)
    return jax.grad(loss, (0, 1))


WITHIN = ("", "vmap", "remat", "scan", "shard_map")
LARGE = case(64, 16, 16, 32, 32, 32, 3, 1, 1)


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize(
    "platform, dtype", [("tpu", "float32"), ("cuda", "float32"), ("cpu", "bfloat16")]
)
def test_elsewhere_the_program_is_xlas_convolution_alone(within, platform, dtype):
    image, kernel, settings = LARGE
    members = (2,) if within in ("vmap", "scan") else ()
    arrays = (
        jax.ShapeDtypeStruct(image, dtype), jax.ShapeDtypeStruct((*members, *kernel), dtype)
    )

    def ours(x, kernel):
        return gradients.convolve(x, kernel, settings)

    def xlas(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), settings.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=settings.groups,
        )

    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
        programs = [
            str(jax.make_jaxpr(transformed(convolve, within))(*arrays)) for convolve in (ours, xlas)
        ]
    without_addresses = [re.sub(r"0x[0-9a-f]+|<function .*?>", "", text) for text in programs]
    assert without_addresses[0] == without_addresses[1]
    assert "conv_general_dilated" in programs[0] and "custom_vjp" not in programs[0]


@pytest.mark.parametrize("within", WITHIN[1:])
@pytest.mark.parametrize(
    "shape", [case(8, 6, 6, 4, 4, 4, 3, 2, 1), case(8, 6, 6, 8, 8, 1, 3, 1, 1)],
    ids=["depthwise", "column pairs"],
)
def test_transformations_of_fast_forms(within, shape):
    image, kernel, settings = shape
    members = (2,) if within in ("vmap", "scan") else ()
    random = np.random.default_rng(1)
    arrays = [
        random.integers(-4, 5, size).astype(np.float32)  # whose sums are exact
        for size in (image, (*members, *kernel))
    ]
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        fast, plain = (
            jax.jit(transformed(
                lambda x, kernel, f=forms: apply.convolve(x, kernel, settings, f) ** 2, within
            ))(*arrays)
            for forms in (fast_forms(*shape), Forms())
        )
    jax.tree.map(np.testing.assert_array_equal, fast, plain)


def exported(platforms):
    """A depthwise convolution of any number of images as a program for platforms."""
    (_, *sides), kernel, settings = LARGE
    batch, = export.symbolic_shape("b")
    arrays = (
        jax.ShapeDtypeStruct((batch, *sides), jnp.float32),
        jax.ShapeDtypeStruct(kernel, jnp.float32),
    )
    with several(("cpu", "cuda", "tpu")):
        function = jax.jit(lambda x, kernel: gradients.convolve(x, kernel, settings))
        return export.export(function, platforms=platforms)(*arrays)


def test_a_program_for_several_platforms_holds_both_forms():
    program = exported(("cpu", "cuda", "tpu"))
    assert "stablehlo.convolution" in program.mlir_module()
    x, kernel, _ = draw(*LARGE)
    call = jax.jit(program.call).lower(x, kernel).compile()
    # The CPU's program has the step's form only: as fast, for it is the same.
    assert "convolution(" not in call.as_text()
    expected = passes(DEPTHWISE, LARGE[2])(x, kernel, np.ones_like(x))[0]
    np.testing.assert_array_equal(call(x, kernel), expected)


@pytest.mark.parametrize("platform, count", [("cuda", 1), ("tpu", 1), ("cpu", 0)])
def test_each_platform_runs_its_own_form(platform, count):
    text = exported((platform,)).mlir_module()
    assert text.count("stablehlo.convolution") == count
    assert ("stablehlo.multiply" in text) == (count == 0)


def test_rematerialisation_keeps_what_it_kept(monkeypatch):
    layers = [case(64, 16, 16, 8, 32, 1, 1, 1, 0), LARGE, case(64, 16, 16, 32, 8, 1, 3, 1, 1)]

    def block(kernels, x):
        for kernel, (_, _, settings) in zip(kernels, layers, strict=True):
            x = jax.nn.silu(gradients.convolve(x, kernel, settings))
        return x

    def residuals(kernels, x):
        policy = efficientnet._REMAT["convolutions"]
        return jax.tree.leaves(jax.vjp(jax.checkpoint(block, policy=policy), kernels, x)[1])

    def kept():
        kernels = [jax.ShapeDtypeStruct(kernel, jnp.float32) for _, kernel, _ in layers]
        image = jax.ShapeDtypeStruct(layers[0][0], jnp.float32)
        leaves = jax.eval_shape(residuals, kernels, image)
        return sorted(leaf.shape for leaf in leaves if leaf.shape[0] == 64)

    fast = kept()
    monkeypatch.setenv(apply.VARIABLE, "plain")
    assert fast == kept() == [(64, 16, 16, 8)] * 2 + [(64, 16, 16, 32)] * 2


def test_forward_mode_is_refused_and_plain_takes_it(monkeypatch):
    image, kernel, settings = LARGE
    x, kernel, _ = draw(image, kernel, settings)

    def tangent():
        def convolve(x):
            return gradients.convolve(x, kernel, settings)

        return jax.jit(lambda x: jax.jvp(convolve, (x,), (x,))).lower(x).out_info

    with pytest.raises(TypeError, match="can't apply forward-mode .* custom_vjp function"):
        tangent()
    monkeypatch.setenv(apply.VARIABLE, "plain")
    assert tangent()[1].shape == x.shape


@pytest.mark.parametrize(
    "forms, message",
    [
        (
            Forms("depthwise"),
            "'depthwise' does not compute result of an image [4, 8, 8, 8], a kernel [3, 3, 8, 8], "
            "stride 1 and 1 groups; choose plain or column pairs or rows or cropped or padded",
        ),
        (
            Forms(by_image="phases"),
            "'phases' does not compute by_image of an image [4, 8, 8, 8], a kernel [3, 3, 8, 8], "
            "stride 1 and 1 groups; choose plain or flipped",
        ),
        (
            Forms(by_kernel="winograd"),
            "'winograd' is no form of by_kernel of an image [4, 8, 8, 8], a kernel [3, 3, 8, 8], "
            "stride 1 and 1 groups; choose plain or padded or parts or padded parts",
        ),
    ],
)
def test_a_form_that_does_not_apply_is_refused(forms, message):
    image, kernel, settings = case(4, 8, 8, 8, 8, 1, 3, 1, 1)
    with pytest.raises(ArgumentError) as raised:
        apply.convolve(jnp.zeros(image), jnp.zeros(kernel), settings, forms)
    assert str(raised.value) == message


def test_forms_by_name_suit_a_convolution_that_has_them():
    shape = case(4, 8, 8, 8, 8, 1, 3, 1, 1)
    arrays = draw(*shape)
    forms = Forms("rows", "flipped", "parts")
    for ours, exact in zip(
        passes(forms, shape[2])(*arrays), by_definition(*arrays, shape[2]), strict=True
    ):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=TOLERANCE * np.abs(exact).max())


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv(apply.VARIABLE, "plane")
    with pytest.raises(ConfigError) as raised:
        gradients.convolve(jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 1, 2, 2)),
                           Convolution(1, ((0, 0), (0, 0)), 1))
    assert str(raised.value) == (
        "$KDAUG_CONVOLUTIONS: unknown value 'plane'; did you mean plain?"
    )
