"""The three implementations agree with each other and with the ops, on any devices."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kdaug_jax import augment
from kdaug_jax.augment import policies
from kdaug_jax.augment.arithmetic.packed import pack, unpack
from kdaug_jax.augment.engine import Colours, apply_ops, apply_policy, build_table
from kdaug_jax.augment.engine.apply import Shares, stage
from kdaug_jax.augment.engine.dispatch import capacity, gather, images_a_round, rooms
from kdaug_jax.augment.engine.kernels import bind_kernels, look_up
from kdaug_jax.augment.engine.policy import expected_shares
from kdaug_jax.augment.ops.table import OPS as TABLE
from kdaug_jax.augment.ops.table import SQUARES, VARIANTS, Op

SIZE = (14, 11)
FILL = np.array([9, 8, 7], np.uint8)
RANDOM = np.random.default_rng(0)
OPS = (
    Op("identity"), Op("invert"), Op("solarize", 100), Op("solarize_add", 60), Op("posterize", 3),
    Op("brightness", 1.6), Op("contrast", 0.4), Op("color", 1.7), Op("sharpness", 0.3),
    Op("auto_contrast"), Op("equalize"), Op("rotate", 33.0), Op("shear_x", 0.3),
    Op("shear_y", -0.2), Op("translate_x", 3), Op("translate_y", -4.6), Op("smooth"), Op("blur"),
    Op("brightness", 1.0), Op("rotate", 0.0), Op("cutout", 6), Op("erase_square", 5),
    Op("cutout_fast", 4.4),
)
INTERPOLATED = (Op("identity"), Op("rotate", 33.0, "bilinear"), Op("shear_x", 0.3, "bicubic"))


def batch(count, channels=3, size=SIZE, ops=OPS, stages=1):
    images = RANDOM.integers(0, 256, (count, *size, channels), np.uint8)
    op_ids = (np.arange(count * stages) % len(ops)).astype(np.int32).reshape(count, stages)
    offsets = RANDOM.integers(0, 2**32, (count, stages, 2), np.uint32)
    return images, op_ids, offsets


def run(table, colours, implementation, **options):
    def apply(images, op_ids, offsets):
        return apply_ops(
            images, op_ids, offsets, table, colours, implementation=implementation, **options
        )

    # Compiling without optimisation takes a third of the time and must not change a bit.
    return jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})


def by_op(op, image, fill, of=augment):
    """What the deterministic op gives."""
    arguments = () if op.value is None else (op.value,)
    if TABLE[op.name].geometric:
        method = {} if of is augment.tpu else {"method": op.resample}
        return getattr(of, op.name)(image, *arguments, fill, **method)
    return getattr(of, op.name)(image, *arguments)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_row_does_what_its_op_does(channels):
    fill = np.arange(9, 9 - channels, -1).astype(np.uint8)
    images, op_ids, offsets = batch(len(OPS), channels)
    made = run(build_table(OPS, SIZE), Colours(fill, fill), "loop")(images, op_ids, offsets)
    for op, image, found in zip(OPS, images, np.asarray(made), strict=True):
        if op.name in SQUARES:
            gone = (found == fill).all(-1)
            assert 4 <= gone.sum() <= 36 and (found[~gone] == image[~gone]).all()
            continue
        np.testing.assert_array_equal(found, by_op(op, image, fill), err_msg=str(op))


def test_the_rows_above_are_all_ops():
    assert {op.name for op in OPS} == set(TABLE)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_variants_do_what_their_ops_do(variant):
    ops = tuple(op for op in OPS if op.name not in ("smooth", "blur"))
    images, op_ids, offsets = batch(len(ops), ops=ops)
    table = build_table(ops, SIZE, variant)
    made = run(table, Colours(FILL, FILL), "loop")(images, op_ids, offsets)
    module = augment.torchvision if variant == "torchvision" else augment.tpu
    for op, image, found in zip(ops, images, np.asarray(made), strict=True):
        if op.name in SQUARES:
            continue
        own = module if hasattr(module, op.name) else augment
        if variant == "tpu_clean" and op.name == "contrast":
            expected = module.contrast(image, op.value, clean=True)
        else:
            expected = by_op(op, image, FILL, own)
        np.testing.assert_array_equal(found, expected, err_msg=str(op))


@pytest.mark.parametrize("channels", [3, 4])
def test_all_implementations_give_the_same_bits(channels):
    fill = RANDOM.integers(0, 256, channels).astype(np.uint8)
    table, colours = build_table(OPS, SIZE), Colours(fill, fill[::-1].copy())
    given = batch(96, channels, stages=2)
    expected = run(table, colours, "switch")(*given)
    for implementation in ("loop", "gather"):
        np.testing.assert_array_equal(run(table, colours, implementation)(*given), expected)


@pytest.mark.parametrize("count", [64, 60, 53])
def test_blocks_of_a_batch_give_the_same_bits(count, monkeypatch):
    ops = OPS[:12]
    table, colours, given = build_table(ops, SIZE), Colours(FILL, FILL), batch(count, ops=ops)
    expected = run(table, colours, "switch")(*given)
    monkeypatch.setattr(augment.engine.apply, "BLOCK", 16 * SIZE[0] * SIZE[1])
    np.testing.assert_array_equal(run(table, colours, "loop")(*given), expected)


def test_interpolating_rows_too():
    images, op_ids, offsets = batch(6, ops=INTERPOLATED)
    table = build_table(INTERPOLATED, SIZE)
    made = np.asarray(run(table, Colours(FILL, FILL), "loop")(images, op_ids, offsets))
    for number in (1, 2):
        expected = by_op(INTERPOLATED[number], images[number], FILL)
        np.testing.assert_array_equal(made[number], expected)


@pytest.mark.parametrize(
    "implementation, sides", [("loop", (4,)), ("gather", (4,)), ("gather", (2, 2))]
)
def test_any_sharding_gives_the_same_bits(implementation, sides):
    table, colours = build_table(OPS, SIZE), Colours(FILL, FILL)
    given = batch(64)
    expected = run(table, colours, "switch")(*given)
    axes = ("data", "model")[: len(sides)]
    mesh = jax.make_mesh(sides, axes, axis_types=(AxisType.Auto,) * len(axes))
    shared = [
        jax.device_put(one, NamedSharding(mesh, PartitionSpec(axes))) for one in given
    ]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = run(table, colours, implementation).lower(*shared).compile()
    made = compiled(*shared)
    np.testing.assert_array_equal(made, expected)
    assert made.sharding.spec == PartitionSpec(axes)
    text = compiled.as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "all-reduce", "permute"))


def test_an_image_is_the_same_in_any_batch_and_order():
    table, colours = build_table(OPS, SIZE), Colours(FILL, FILL)
    given = batch(32)
    order = RANDOM.permutation(32)
    for implementation in ("loop", "gather"):
        apply = run(table, colours, implementation)
        whole = np.asarray(apply(*given))
        np.testing.assert_array_equal(whole[order], apply(*(one[order] for one in given)))
        np.testing.assert_array_equal(whole[:8], apply(*(one[:8] for one in given)))


def test_kinds_that_outnumber_their_room_are_computed_nevertheless():
    table, colours = build_table(OPS, SIZE), Colours(FILL, FILL)
    images, op_ids, offsets = batch(32)
    crowd = [OPS.index(op) for op in (Op("sharpness", 0.3), Op("equalize"))]
    op_ids = np.resize(np.array(crowd, np.int32), (32, 1))
    shares = Shares((0.01,) * len(table.lut_sources), (0.01,) * len(table.kernels))
    assert capacity(0.01, 32) < 32
    apply = run(table, colours, "gather", shares=shares)
    np.testing.assert_array_equal(
        apply(images, op_ids, offsets), run(table, colours, "switch")(images, op_ids, offsets)
    )


def test_gathering_is_less_work_than_switching():
    policy = policies.randaugment(1, 9, size=SIZE)
    table, colours, count = build_table(policy.ops, SIZE), Colours(FILL, FILL), 512
    images, op_ids, offsets = batch(count, ops=policy.ops)

    def gathered(images, op_ids, offsets):
        row = jax.tree.map(lambda array: array[:, 0], look_up(table, op_ids, offsets))
        kernels, shares = bind_kernels(table, colours), expected_shares(policy, table)
        source_rooms = rooms(kernels.lut_sources, shares.source, count)
        kind_rooms = rooms(kernels.ops(kernels.luts), shares.kind, count)
        measure = functools.partial(gather, room=source_rooms)
        apply = functools.partial(gather, room=kind_rooms)
        return unpack(stage(pack(images), row, kernels, measure, apply), 3)

    def cost(function):
        costs = jax.jit(function).lower(images, op_ids, offsets).compile().cost_analysis()
        return costs["flops"], costs["bytes accessed"]

    def everything(images, op_ids, offsets):
        return apply_ops(images, op_ids, offsets, table, colours, implementation="switch")

    less, more = cost(gathered), cost(everything)
    assert less[0] < 0.4 * more[0] and less[1] < 0.6 * more[1]


@pytest.mark.parametrize(
    "share, batch, room",
    [
        (0.0, 64, 8), (0.0, 16, 2), (0.0, 4, 1), (1.0, 64, 64), (1.0, 3, 3),
        (1 / 14, 8, 6), (1 / 14, 16, 9), (1 / 14, 32, 13), (1 / 14, 64, 18), (1 / 7, 16, 11),
        (1 / 14, 1024, 120), (1 / 14, 8192, 712),
    ],
)
def test_room(share, batch, room):
    """What a device holds decides; small batches have no more room than they need."""
    assert capacity(share, batch) == room


@pytest.mark.parametrize(
    "share, batch, size",
    [(0.0, 16, 1), (1 / 14, 4, 1), (1 / 14, 16, 1), (1 / 7, 16, 2), (1 / 7, 128, 6), (1.0, 9, 9)],
)
def test_images_of_a_round(share, batch, size):
    assert images_a_round(share, batch) == size


@pytest.mark.parametrize(
    "op, variant, message",
    [
        (Op("invrt"), "pillow", "unknown op 'invrt'"),
        (Op("invert"), "pilow", "unknown variant 'pilow'"),
        (Op("rotate", 3.0, "cubic"), "pillow", "rotate has resample 'cubic'"),
        (Op("rotate", 3.0, "bilinear"), "tpu", "rotate is bilinear in variant 'tpu'"),
        (Op("cutout", 99), "pillow", "cutout has side 99"),
    ],
)
def test_ops_that_cannot_be_rows(op, variant, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_table((op,), SIZE, variant)
    assert len(caught.value.args) == 2


def test_images_of_another_size_are_refused():
    images, op_ids, offsets = batch(2, size=(5, 5))
    with pytest.raises(ValueError, match="the table is for"):
        apply_ops(images, op_ids, offsets, build_table(OPS, SIZE), Colours(FILL, FILL))


def test_arrays_of_numpy_are_taken():
    arrays = batch(3)
    table, colours = build_table(OPS, SIZE), Colours(FILL, FILL)
    made = apply_ops(*arrays, table, colours, implementation="loop")
    np.testing.assert_array_equal(made, run(table, colours, "switch")(*arrays))


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        (dict(images=np.zeros((2, 9, 8, 3), np.float32)), TypeError, "float32.* must be uint8"),
        (dict(images=[[0]]), TypeError, "images are a list; must be uint8"),
        (dict(images=np.zeros((9, 8, 3), np.uint8)), ValueError, r"must be uint8 \[B,H,W,3 or 4"),
        (dict(images=np.zeros((2, 9, 8, 1), np.uint8)), ValueError, r"\[2, 9, 8, 1\]; must be"),
        (dict(keys=jax.random.split(jax.random.key(0), 3)), ValueError, r"keys key<fry>\[3"),
        (dict(keys=jax.random.key(0)), ValueError, "one key for each image"),
        (dict(keys=np.zeros((2, 2), np.uint32)), ValueError, "one key for each image"),
        (dict(fill="mean"), TypeError, "fill='mean' is a name"),
        (dict(fill=(1, 2)), ValueError, "must be 3 whole numbers"),
        (dict(fill=300), ValueError, "fill=300; must be"),
        (dict(hparams={"mm": 3}), ValueError, "has no hyper-parameter 'mm'; did you mean m"),
        (dict(hparams={"m": 31}), ValueError, "m is 31; must be 0..30"),
        (dict(hparams={"m": [1, 2]}), ValueError, "m has shape"),
        (dict(implementation="gathr"), ValueError, "'gathr'; did you mean gather"),
    ],
)
def test_what_does_not_fit_a_policy_is_refused(wrong, error, message):
    right = {
        "keys": jax.random.split(jax.random.key(0), 2), "images": np.zeros((2, 9, 8, 3), np.uint8),
        "fill": 0, "hparams": None,
    }
    with pytest.raises(error, match=message):
        apply_policy(policies.randaugment(2, 9, size=(9, 8)), **{**right, **wrong})


def test_one_level_is_a_fill():
    keys = jax.random.split(jax.random.key(0), 4)
    images = RANDOM.integers(0, 256, (4, *SIZE, 3), np.uint8)
    policy = policies.wei2020(1, 5, size=SIZE)
    grey, colour = (apply_policy(policy, keys, images, fill) for fill in (9, (9, 9, 9)))
    np.testing.assert_array_equal(grey, colour)


def test_numbers_that_are_no_rows_of_the_batch_are_refused():
    images, op_ids, offsets = batch(3)
    with pytest.raises(ValueError, match="one row for each image"):
        apply_ops(images, op_ids[:2], offsets, build_table(OPS, SIZE), Colours(FILL, FILL))


def test_a_transparent_channel_tells_what_came_in():
    """Inverting after a move makes what came in white; what stays transparent becomes the fill."""
    ops = (Op("identity"), Op("translate_x", 3), Op("invert"))
    images = np.full((2, *SIZE, 3), 200, np.uint8)
    orders = iter([[1, 2], [2, 1]])

    def policy(order):
        return policies.Policy(
            ops, lambda key, traced: np.array(order, np.int32), 2, channels=4,
            cutout_fill=(1, 2, 3),
        )

    keys = jax.random.split(jax.random.key(0), 2)
    for order, edge in zip(orders, (np.full(3, 255), FILL), strict=True):
        made = np.asarray(apply_policy(policy(order), keys, images, FILL))
        assert (made[:, :, :-3] == 55).all() and (made[:, :, -3:] == edge).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda size: policies.randaugment(2, 9, size=size),
        lambda size: policies.autoaugment("cifar10", size=size),
        lambda size: policies.trivialaugment_wide(size=size),
        lambda size: policies.wei2020(2, 3, size=size),
        lambda size: policies.fixmatch(size=size),
    ],
    ids=["randaugment", "autoaugment", "trivialaugment", "wei2020", "fixmatch"],
)
def test_policies_apply_to_batches(make):
    size = (20, 20)
    images = RANDOM.integers(0, 256, (32, *size, 3), np.uint8)
    keys = jax.random.split(jax.random.key(3), 32)
    apply = jax.jit(lambda keys, images: apply_policy(make(size), keys, images, FILL))
    made = np.asarray(apply(keys, images))
    assert made.dtype == np.uint8 and 0.2 < (made != images).mean()
    np.testing.assert_array_equal(made[5:13], apply(keys[5:13], images[5:13]))
