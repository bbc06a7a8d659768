"""What tracing alone says of a network, and whether that is what is published of it."""

import functools
import json
import lzma
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.models.convolutions.apply import VARIABLE
from kdaug_jax.models.variables import flatten, mismatches
from kdaug_jax.models.weights import rename
from kdaug_jax.types import Outputs
from tests.models.published import FEATURES, ROWS
from tests.tiny import RAW

_GOLDEN = Path(__file__).parents[1] / "golden" / "models"
# {network: ["conv1.weight 16,3,3,3", ...]}; the networks' names may have a further word.
STATE_DICTS = json.loads(lzma.decompress((_GOLDEN / "state_dicts.json.xz").read_bytes()))

# Their tracing takes seconds each.
LONG = {
    "pyramidnet272_a200_shakedrop",
    "pyramidnet200_a240_shakedrop",
    "resnet200",
    "preresnet164",
    *(f"efficientnet_{member}" for member in ("b1", "b2", "b3", "b5", "b6", "b7", "b8", "l2")),
}


class Traced(NamedTuple):
    """A network, the shapes of its variables, its inference as a program, and its outputs."""

    model: models.Model
    variables: dict
    jaxpr: Any
    outputs: Outputs


@functools.cache
def trace(name: str, num_classes: int = 10, size: int = 0, **options: Any) -> Traced:
    """Traces the inference of one image, of the native size unless given; computes nothing."""
    model = models.create(name, num_classes, normalize=RAW, **options)
    side = size or model.native_size
    variables = shapes(model, side)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "plain")  # the forms of a CPU multiply in other places
        jaxpr, (outputs, _) = jax.make_jaxpr(
            lambda v, x: model.apply(v, x, train=False), return_shape=True
        )(variables, image)
    return Traced(model, variables, jaxpr.jaxpr, outputs)


def shapes(model: models.Model, side: int = 32) -> dict:
    """Returns the shapes of the variables."""
    return jax.eval_shape(lambda key: model.init(key, (side, side)), jax.random.key(0))


def row_of(name: str) -> str:
    """Returns the longest name of a row that begins `name`."""
    return max((row for row in ROWS if name.lower().startswith(row)), key=len)


def assert_is_published(name: str) -> None:
    """Compares sizes, multiply-adds and features with the row of that name."""
    row = ROWS[name]
    network = trace(name, row.num_classes)
    assert network.model.native_size == row.size
    params, stats = network.variables["params"], network.variables["batch_stats"]
    assert size_of(params) == row.backbone + row.per_class * row.num_classes
    kernels = [leaf for path, leaf in flatten({"params": params}).items() if "kernel" in path]
    assert sum(kernel.ndim == 4 for kernel in kernels) == row.convolutions
    assert (len(jax.tree.leaves(stats)) // 2, size_of(stats)) == (row.norms, row.norm_parameters)
    assert multiply_adds(network.jaxpr) == row.multiply_adds
    features = network.outputs.features
    assert FEATURES[name] == {
        feature: _channels_first(features[feature].shape[1:]) for feature in FEATURES[name]
    }
    assert network.outputs.logits.shape == (1, row.num_classes)
    assert network.outputs.features["pooled"].dtype == network.outputs.logits.dtype == np.float32


def assert_weights_fit(name: str) -> None:
    """Compares names and shapes of the original's weights with ours, one to one."""
    state = {}
    for line in STATE_DICTS[name]:
        weight, shape = line.split(" ")
        # One zero, seen in that shape.
        state[weight] = np.broadcast_to(np.float32(0), tuple(map(int, shape.split(","))))
    row = ROWS[row_of(name)]
    num_classes = len([array for array in state.values() if array.ndim == 2][-1])
    expected = flatten(trace(row_of(name), num_classes).variables)
    arrays = rename(state, expected)
    assert mismatches(arrays, expected) == ""
    assert len(arrays) == len(state)
    trained = sum(array.size for path, array in arrays.items() if path.startswith("params/"))
    assert trained == row.backbone + row.per_class * num_classes


def size_of(tree: Any) -> int:
    """Counts the elements of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def multiply_adds(jaxpr: Any) -> int:
    """Counts those of convolutions and dense layers, in this program and those inside it."""
    total = 0
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                total += multiply_adds(getattr(inner, "jaxpr", inner))
        if equation.primitive.name not in ("conv_general_dilated", "dot_general"):
            continue
        left, right = (variable.aval.shape for variable in equation.invars)
        outputs = int(np.prod(equation.outvars[0].aval.shape))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += outputs * int(np.prod([left[axis] for axis in contracted]))
        else:
            total += outputs * int(np.prod(right[:3]))  # height, width, inputs in the group
    return total


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[2], shape[0], shape[1]) if len(shape) == 3 else tuple(shape)


def _is_program(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")
