"""Packed weights: bit for bit what the network computes with, in as few bytes as promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError
from kdaug_jax.models import pack
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.models.foreign.carded import with_card
from kdaug_jax.models.quantize import quantize_weight
from kdaug_jax.runtime.model_card import ModelCard
from tests.tiny import RAW

CARD = ModelCard("resnet8", 10, (32, 32), *RAW, options={"bits": (4, 4)}, view="flip(1.0)")


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (13,), (1, 1)])
def test_pack_gives_back_what_is_computed_with(bits, shape):
    kernel = np.random.default_rng(bits).normal(size=shape).astype(np.float32)
    arrays = pack.pack(kernel, bits)
    assert arrays[""].nbytes == -(-kernel.size * bits // 8)
    assert arrays[":levels"].size <= 2**bits
    unpacked = pack.unpack(arrays, bits, shape)
    expected = jax.jit(quantize_weight, static_argnums=1)(jnp.asarray(kernel), bits)
    np.testing.assert_array_equal(unpacked, expected)
    assert unpacked.dtype == np.float32


@pytest.fixture(scope="module")
def quantised(initialised):
    model, variables = initialised("resnet8", 10, bits=(4, 4))
    return model, jax.tree.map(np.asarray, variables)


def test_files_hold_a_network(quantised, tmp_path):
    model, variables = quantised
    bits = pack.quantized_kernels(model, variables, (32, 32))
    assert set(bits.values()) == {4}
    assert "params/conv1/kernel" not in bits and "params/fc/kernel" not in bits
    assert "params/layer2_0/downsample_0/kernel" in bits
    path = tmp_path / "packed.safetensors"
    pack.write_packed(path, variables, bits, CARD)
    unpacked, card = pack.read_packed(path)
    assert card.arch == "resnet8" and card.view == "flip(1.0)"
    assert jax.tree.structure(unpacked) == jax.tree.structure(variables)
    kernel = variables["params"]["layer1_0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        unpacked["params"]["layer1_0"]["conv1"]["kernel"], pack.round_kernel(kernel, 4)
    )
    for part in ("bn1", "fc"):
        jax.tree.map(
            np.testing.assert_array_equal, unpacked["params"][part], variables["params"][part]
        )


def test_networks_without_bits_hold_none(initialised):
    model, variables = initialised("tiny", 4, size=8)
    assert pack.quantized_kernels(model, variables, (8, 8)) == {}


@pytest.mark.parametrize(
    ("name", "most"), [("rolekd_resnet18", 0.128), ("resnet20", 0.155), ("wrn_16_2", 0.14)]
)
def test_four_bits_are_a_sixth_at_most(name, most, tmp_path):
    model = models.create(name, 10, normalize=RAW, bits=(4, 4))
    shapes = jax.eval_shape(lambda key: model.init(key, (32, 32)), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    bits = pack.quantized_kernels(model, zeros, (32, 32))
    pack.write_packed(tmp_path / "packed", zeros, bits, CARD)
    pack.write_packed(tmp_path / "whole", zeros, {}, CARD)
    packed, whole = ((tmp_path / name).stat().st_size for name in ("packed", "whole"))
    assert packed <= most * whole <= 0.16 * whole
    rows = pack.sizes(zeros, bits)
    assert sum(row[1] for row in rows) == sum(leaf.size for leaf in jax.tree.leaves(zeros))
    assert next(row for row in rows if row[0] == "kernels of 4 bits")[3] * 8 == sum(
        row[2] for row in rows if row[0] == "kernels of 4 bits"
    )


def test_damaged_files(quantised, tmp_path):
    model, variables = quantised
    path = tmp_path / "packed.safetensors"
    pack.write_packed(path, variables, pack.quantized_kernels(model, variables, (32, 32)), CARD)
    arrays, metadata = safetensors_file.read(path)
    first = next(name for name in arrays if name.endswith(":levels"))
    other = first.removesuffix(":levels")
    for changes, texts in (
        ({first: None}, metadata), ({first: np.zeros(3, np.float32)}, metadata),
        ({other: np.zeros(3, np.uint8)}, metadata), ({other: None}, metadata),
        ({}, {}), ({}, {"packed": "[]"}), ({}, {"packed": "{"}), ({}, {"packed": '{"a": 1}'}),
    ):
        kept = {name: a for name, a in {**arrays, **changes}.items() if a is not None}
        safetensors_file.write(path, kept, texts)
        if changes:
            with pytest.raises(CheckpointError, match="what its card was written for"):
                pack.read_packed(path)
            # Written so by whoever knows how to.
            safetensors_file.write(path, kept, with_card(texts, CARD, kept))
        with pytest.raises(CheckpointError, match="holds no packed weights, or was damaged"):
            pack.read_packed(path)
