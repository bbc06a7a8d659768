"""Strict mode for all tests: four virtual devices, no rank promotion, one compile cache."""

import importlib.util
import os
import sys

import jax
import pytest

from kdaug_jax.runtime import compile_cache, sharding

sharding.use_virtual_devices(4)
jax.config.update("jax_numpy_rank_promotion", "raise")
compile_cache.use()
# Starts JAX: from here on no test of the command line can choose another number of devices.
assert jax.device_count() == 4

EXTRAS_REQUIRED = os.environ.get("KDAUG_REQUIRE_EXTRAS") == "1"


def pytest_collection_modifyitems(items):
    """Without PyTorch each comparison with it is skipped by name, unless nothing may be."""
    if EXTRAS_REQUIRED or importlib.util.find_spec("torch") is not None:
        return
    for item in items:
        if "torch" in item.fixturenames:
            reason = f"PyTorch is not installed, so nobody compared {item.name}"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def torch():
    """PyTorch, an optional extra of the comparisons; a missing one fails where it is required."""
    if EXTRAS_REQUIRED:
        import torch

        return torch
    return pytest.importorskip("torch", reason="not installed: pip install torch==2.13.0")


@pytest.fixture(scope="session", autouse=True)
def tiny_family():
    """Adds the networks of `tests.tiny`."""
    from tests import tiny

    tiny.register()


@pytest.fixture(scope="session", autouse=True)
def kept_indices(tmp_path_factory):
    """Keeps the indices of image folders out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def frozen_teacher(monkeypatch):
    """Gives frozen networks random weights instead of those of a checkpoint."""
    from kdaug_jax import models
    from kdaug_jax.experiment import networks

    build = networks.build_network

    def without_checkpoint(name, config, info, branches, replica_batch_size, dtype):
        if config["trainable"]:
            return build(name, config, info, branches, replica_batch_size, dtype)
        model = models.create(config["name"], info.num_classes, normalize=(info.mean, info.std))
        facts = {"name": config["name"], "mean": info.mean, "std": info.std}
        return networks.Network(model, False, "", facts)

    monkeypatch.setattr(networks, "build_network", without_checkpoint)


@pytest.fixture
def run(monkeypatch):
    """Calls main with the words of a command line; gives the exit status."""
    import main

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        return main.main()

    return call


def tiny_config(**sections):
    """A complete small experiment: a tiny student and, unless replaced, one cross entropy."""
    from kdaug_jax.experiment import config as configs

    config = configs.default()
    with config.unlocked():
        config.data.source = "synthetic:8x8,4,40"
        config.data.batch_size = 8
        config.views = {"x": "pad_crop(1)|flip"}
        config.networks = {"student": configs.network("tiny", trainable=True)}
        config.terms = {"ce": configs.term("cross_entropy", ("x",))}
        config.train.epochs = 2.0
        config.log.every_steps = 2
        for name, value in sections.items():
            if isinstance(value, dict) and name not in ("views", "networks", "terms"):
                config[name].update(value)
            else:
                config[name] = value
    return config
