"""Strict mode of this folder, golden forward vectors and a quick way to initialise networks."""

import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax import models

_GOLDEN = Path(__file__).parents[1] / "golden" / "models"


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def initialised():
    """`initialised(name, num_classes, size=32, **kwargs) -> (model, variables)`, made once."""
    made = {}

    def make(name, num_classes=10, size=32, **kwargs):
        known = (name, num_classes, size, *sorted(kwargs.items()))
        if known not in made:
            model = models.create(name, num_classes, **kwargs)
            # Initialisation runs once: compile quickly, not well.
            init = jax.jit(
                lambda key: model.init(key, (size, size)),
                compiler_options={"xla_backend_optimization_level": 0},
            )
            made[known] = model, init(jax.random.key(0))
        return made[known]

    return make


@pytest.fixture(scope="session")
def golden():
    """`golden(name) -> (content, state, meta)` of a golden file.

    `content` holds `input` f32[2,3,H,W]; `logits`; `param_names`, `param_shapes` and
    `param_sums` of the PyTorch weights; `tap/<name>/shape|step|values|stats`, values being the
    flat channels-first array with the given step, stats its mean, standard deviation and norm.
    `state` are those weights, made again from their names.
    """

    def read(name):
        with np.load(_GOLDEN / f"{name}.npz") as stored:
            content = dict(stored)
        meta = json.loads(str(content.pop("meta")))
        shapes = [tuple(map(int, shape.split(","))) for shape in content["param_shapes"].tolist()]
        names = content["param_names"].tolist()
        state = {n: _weight(n, shape, meta["gain"]) for n, shape in zip(names, shapes, strict=True)}
        return content, state, meta

    return read


def _weight(name, shape, gain):
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    z = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(z)
    if name.endswith(("running_mean", "bias")):
        return np.float32(0.1) * z
    if len(shape) == 1:
        return 1 + np.float32(0.1) * z
    return z * np.float32(gain / np.sqrt(np.prod(shape[1:])))
