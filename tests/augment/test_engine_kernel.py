"""The kernel for TPUs, interpreted: the bits of the other implementations, and when it is taken."""

import functools

import jax
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from kdaug_jax.augment import policies, verify
from kdaug_jax.augment.engine import Colours, apply_ops, apply_policy, build_table, slow_ops, tpu
from kdaug_jax.augment.engine.apply import choose, shares_of
from kdaug_jax.augment.ops.table import OPS, TPU_FORMS, VARIANTS, Op
from kdaug_jax.errors import ArgumentError
from kdaug_jax.runtime.platform import target_platform

SIZE = (13, 11)
FILL = np.array([9, 8, 7], np.uint8)
RANDOM = np.random.default_rng(0)
CHEAP = (Op("identity"), Op("invert"), Op("color", 1.7), Op("posterize", 3))


def batch(ops, count, size=SIZE, channels=3, stages=2):
    images = RANDOM.integers(0, 256, (count, *size, channels), np.uint8)
    op_ids = RANDOM.integers(0, len(ops), (count, stages)).astype(np.int32)
    offsets = RANDOM.integers(0, 2**32, (count, stages, 2), np.uint32)
    return images, op_ids, offsets


def run(table, colours, implementation, **options):
    def apply(*given):
        return apply_ops(*given, table, colours, implementation=implementation, **options)

    return jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})


def tpu_mesh(devices=1):
    device = jax.sharding.AbstractDevice("TPU v5 lite", None, "tpu")
    return AbstractMesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device
    )


def lowered_for_tpu(function, *given):
    """The program of a TPU that is not there, as text; libtpu is not needed."""
    with jax.sharding.use_abstract_mesh(tpu_mesh()):
        return export.export(jax.jit(function), platforms=["tpu"])(*given).mlir_module()


SIZES = ((32, 32), (40, 52), (129, 65), (224, 224), (600, 600), (520, 700))
FAMILIES = {
    "luts": ("solarize", "contrast", "auto_contrast", "equalize"),
    "moves": ("rotate", "shear_y", "translate_x", "translate_y"),
    "pixels": ("color", "sharpness", "cutout", "cutout_fast", "smooth", "blur"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["pillow", "tpu", "torchvision"])
def test_rows_agree_with_the_reference(variant, family):
    ops = [
        op for op in verify.rows_of(SIZE, variant, ("nearest",)) if op.name in FAMILIES[family]
    ]
    results = verify.compare(ops, SIZE, variant, "kernel")
    assert {entry.op for entry in results} == set(FAMILIES[family])
    for entry in results:
        assert entry.form == "kernel" and entry.images and not entry.different, entry


@pytest.mark.parametrize("channels", [3, 4])
def test_alpha_is_kept_or_becomes_opaque(channels):
    ops = (*CHEAP, Op("rotate", 20.0), Op("brightness", 1.4), Op("smooth"))
    fill = np.arange(9, 9 - channels, -1).astype(np.uint8)
    table, colours = build_table(ops, SIZE), Colours(fill, fill)
    given = batch(ops, 30, channels=channels)
    np.testing.assert_array_equal(
        run(table, colours, "kernel")(*given), run(table, colours, "switch")(*given)
    )


def test_a_transparent_channel_that_policies_see():
    policy = policies.Policy(
        (Op("identity"), Op("translate_x", 3), Op("invert"), Op("cutout", 4)),
        lambda key, hparams: policies.policy.below(key, "op", 4, (2,)), 2, channels=4,
        cutout_fill=(1, 2, 3),
    )
    images = RANDOM.integers(0, 256, (12, *SIZE, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 12)
    made = [
        jax.jit(functools.partial(
            apply_policy, policy, fill=FILL, implementation=implementation
        ))(keys, images)
        for implementation in ("switch", "kernel")
    ]
    np.testing.assert_array_equal(*made)


def test_long_tables_are_looked_up_before(monkeypatch):
    """Of a table that scalar memory does not hold each op takes its row along, a few at a time."""
    table, colours, given = build_table(CHEAP, SIZE), Colours(FILL, FILL), batch(CHEAP, 12)
    expected = run(table, colours, "switch")(*given)
    assert tpu.images_a_call(table, 2) == 21845
    monkeypatch.setattr(tpu.kernel, "TABLE_WORDS", 10)
    monkeypatch.setattr(tpu.kernel, "SCALAR_WORDS", 31 * 2 * 4)
    assert tpu.images_a_call(table, 2) == 4
    np.testing.assert_array_equal(run(table, colours, "kernel")(*given), expected)


@pytest.mark.parametrize("count", [8, 6])
def test_any_sharding_gives_the_same_bits(count):
    """Four devices, each with its own images, or all with a batch that they cannot share."""
    table, colours, given = build_table(CHEAP, SIZE), Colours(FILL, FILL), batch(CHEAP, count)
    expected = run(table, colours, "switch")(*given)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data") if count % 4 == 0 else PartitionSpec()
    shared = [jax.device_put(array, NamedSharding(mesh, spec)) for array in given]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = run(table, colours, "kernel").lower(*shared).compile()
    made = compiled(*shared)
    np.testing.assert_array_equal(made, expected)
    assert made.sharding.spec == spec
    text = compiled.as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "all-reduce", "permute"))


@pytest.fixture
def blended(monkeypatch, tmp_path):
    """A user's op, which has no form in the kernel."""
    (tmp_path / "ops_mixed.py").write_text("def halved(image):\n    return image >> 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return Op("ops_mixed:halved")


@pytest.mark.parametrize("share", [0.9, 0.01])
def test_images_with_a_user_op_take_another_form(blended, share):
    """However many more of them there are than was expected."""
    ops = (*CHEAP, blended)
    table, colours, given = build_table(ops, SIZE), Colours(FILL, FILL), batch(ops, 64)
    shares = shares_of(table, 2)._replace(slow=share)
    np.testing.assert_array_equal(
        run(table, colours, "kernel", shares=shares)(*given),
        run(table, colours, "switch")(*given),
    )
    assert shares_of(table, 2).slow == pytest.approx(1 - 0.8**2)
    assert slow_ops(ops, SIZE) == ["ops_mixed:halved has no form in the kernel"]


def test_a_user_row_of_the_engine_own_kernels_is_fast():
    zoom = OPS["rotate"]._replace(
        layout=lambda op, size, variant: OPS["shear_x"].layout(op, size, variant)
    )
    assert zoom.has_tpu_form and all(row.has_tpu_form for row in OPS.values())
    assert set(TPU_FORMS.values()) == set(tpu.FORMS) - {"none", "shift"}


@pytest.mark.parametrize(
    "op, size, message",
    [
        (Op("shear_y", 0.99), (600, 600), None),
        (Op("rotate", 45.0), (520, 700), None),
        (Op("rotate", 45.0, "nearest"), (2000, 2000), "MiB of vector memory for images of 2000×"),
        (Op("shear_x", 7000.0), (32, 32), "maps images of 32×32 beyond 16384 pixels"),
        (Op("shear_y", 3.0), (384, 384), None),
        (Op("shear_y", 3.0), (385, 385), "moves images above 384 pixels too far within 128"),
    ],
)
def test_limits(op, size, message):
    lines = slow_ops((Op("identity"), op), size)
    assert lines == [] if message is None else message in lines[0] and op.name in lines[0]


def test_maps_that_shrink_or_magnify_too_much(monkeypatch):
    monkeypatch.syspath_prepend("docs/examples")
    ops = [Op("ops_geometric:SCALE_X", value) for value in (0.4, -0.4)]
    assert slow_ops(ops, SIZE) == []
    table = build_table((Op("rotate", 30.0),), SIZE)
    matrix = table.matrix.copy()
    matrix[0, :6] = (np.array([0.4, 0, 3, 0.1, 0.4, 3]) * 65536).astype(np.int32).view(np.uint32)
    assert tpu.problems(table._replace(matrix=matrix)) == [
        "turns or scales images more than two passes can"
    ]


@pytest.mark.parametrize(
    "platform, has_kernel, expected",
    [
        ("cpu", True, "loop"), ("cpu", False, "loop"), ("gpu", True, "gather"),
        ("gpu", False, "gather"), ("tpu", True, "kernel"), ("tpu", False, "gather"),
    ],
)
def test_choice_of_the_implementation(platform, has_kernel, expected):
    assert choose(platform, has_kernel) == expected


def test_the_target_is_that_of_the_mesh():
    assert target_platform() == "cpu"
    with jax.sharding.use_abstract_mesh(tpu_mesh()):
        assert target_platform() == "tpu"


def test_the_kernel_is_refused_on_a_gpu():
    device = jax.sharding.AbstractDevice("NVIDIA H200", None, "gpu")
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    table, given = build_table(CHEAP, SIZE), batch(CHEAP, 2)
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ArgumentError) as caught:
        apply_ops(*given, table, Colours(FILL, FILL), implementation="kernel")
    assert str(caught.value) == "implementation='kernel' for gpu; it is for TPUs; use 'auto' or " \
        "'gather'"


def test_a_program_for_a_tpu_is_the_kernel_without_gathers():
    ops = tuple(Op(name, value[-1]) for name, value in verify.values_of(SIZE).items())
    ops = tuple(op for op in ops if op.name not in ("cutout", "erase_square", "cutout_fast"))
    for variant in VARIANTS:
        table, given = build_table(ops, SIZE, variant), batch(ops, 8)
        text = lowered_for_tpu(
            lambda *given, table=table: apply_ops(*given, table, Colours(FILL, FILL)), *given
        )
        assert text.count("stablehlo.custom_call @tpu_custom_call") == 1
        outside = text[: text.index("@tpu_custom_call")]
        assert not any(word in outside for word in ("gather", "scatter", "sort", "while"))


def test_verify_prints_a_table_and_its_exit_status(capsys, monkeypatch):
    few = ("identity", "invert")
    monkeypatch.setattr(verify, "values_of", lambda size: dict.fromkeys(few, (None,)))
    words = ["--size=12x10", "--variant=pillow", "--implementation=kernel"]
    assert verify.main(words) == 0
    out = capsys.readouterr().out
    assert "4 × cpu (cpu)" in out and "2 of 2 rows agree bit for bit: this device" in out
    assert "pillow   12×10" in out
    monkeypatch.setattr(verify, "compare", lambda *given: [
        verify.Difference("invert", "", "kernel", 3, 1)
    ])
    assert verify.main(words) == 1
    assert "0 of 1 rows agree bit for bit\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--size=12"], "--size: '12' is no list of sizes of 8 pixels and more; use 32x32,224x224"),
        (["--variant=pilow"], "--variant: 'pilow' is unknown; did you mean pillow"),
        (["--implementation=kernl"], "--implementation: 'kernl' is unknown; did you mean kernel"),
    ],
)
def test_verify_refuses(capsys, words, message):
    assert verify.main(words) == 2
    assert message in capsys.readouterr().err


def test_verify_knows_all_ops():
    assert set(verify.values_of(SIZE)) == set(OPS)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_rows_of_all_ops_in_two_stages(size, variant):
    """Some rows, other ones at each size: `augment.verify` takes all of them, for hours."""
    first = 2 * SIZES.index(size) + VARIANTS.index(variant) % 2
    some = slice(first, None, 12 if max(size) < 300 else 36)
    for entry in verify.compare(verify.rows_of(size, variant)[some], size, variant, "kernel"):
        assert not entry.different, entry
