"""Strict mode of this folder, and a quick way to initialise networks."""

import jax
import pytest

from kdaug_jax import models
from tests.tiny import RAW


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
            model = models.create(name, num_classes, normalize=RAW, **kwargs)
            # Initialisation runs once: compile quickly, not well.
            init = jax.jit(
                lambda key: model.init(key, (size, size)),
                compiler_options={"xla_backend_optimization_level": 0},
            )
            made[known] = model, init(jax.random.key(0))
        return made[known]

    return make
