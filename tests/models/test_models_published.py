"""Every published network by name: sizes, multiply-adds, features and weights, by tracing."""

import pytest

from kdaug_jax import models
from tests.models.published import FEATURES, ROWS
from tests.models.tracing import (
    LONG,
    STATE_DICTS,
    assert_is_published,
    assert_weights_fit,
    row_of,
    size_of,
    trace,
)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in LONG])
def test_network_is_the_published_one(name):
    assert_is_published(name)


@pytest.mark.parametrize("name", [name for name in STATE_DICTS if row_of(name) not in LONG])
def test_weights_of_the_original_fit(name):
    assert_weights_fit(name)


def test_every_row_can_be_named():
    assert len(ROWS) == 61
    assert set(ROWS) == set(FEATURES)
    assert set(ROWS) <= set(models.names())
    assert set(ROWS) > LONG


def test_autoaugments_shake_shake_differs_in_the_stem():
    # BatchNorm's 32 for the bias' 16.
    params = trace("shake26_2x32d_aa").variables["params"]
    assert size_of(params) == 2_989_018
    assert "bias" not in params["c_in"] and "bn_in" in params


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("vgg16", 14_714_688 + 8_448),  # convolutions as published, and BatchNorm
        ("vgg19", 20_024_384 + 11_008),
        ("tv_resnet101", 44_549_160 - 2_049_000),
        ("tv_resnet152", 60_192_808 - 2_049_000),
        ("resnet34_cifar", 21_284_672 - 9_408 + 1_728),  # tv_resnet34 with the small stem
        ("resnet34_cifar_rd", 21_284_672 - 9_408 + 1_728),
        ("preresnet110", 1_730_064 - 192),  # from resnet110 as preresnet56 from resnet56
    ],
)
def test_further_networks_have_the_known_sizes(name, backbone):
    params = trace(name, size=32).variables["params"]
    classifier = next(params[last] for last in ("fc", "classifier", "linear") if last in params)
    assert size_of(params) - size_of(classifier) == backbone


def test_pyramidnet_has_the_same_weights_with_and_without_shakedrop():
    plain, shaken = (trace(f"pyramidnet11_a6{end}").variables for end in ("", "_shakedrop"))
    assert plain == shaken
