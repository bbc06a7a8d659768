"""Floating-point operations of a program, counted while it is traced.

Compilers for GPUs tell none, and others count what a loop holds only once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


def count(program: Any) -> int:
    """Counts multiplications and additions of matrix products and convolutions.

    Args:
      program: a jaxpr. What a loop holds counts as often as it turns, once where that is not
        known; of a conditional the dearest branch counts. Kernels count as nothing.

    Returns:
      Operations over all devices: 2 for each product of two numbers, those with padding left out.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "pallas_call":
        return 0
    inner = [count(program) for value in parameters.values() for program in _programs(value)]
    if name == "cond":
        return max(inner, default=0)
    if name == "shard_map":  # traced for one device
        mesh = parameters["mesh"]
        axes = parameters.get("manual_axes", mesh.axis_names)
        return sum(inner) * math.prod(mesh.shape[axis] for axis in axes)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def _programs(value: Any) -> list[Any]:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [program for item in value for program in _programs(item)]
    return []


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars[:2])
    result = equation.outvars[0].aval.shape
    pairs = 1
    for axis, (before, _) in enumerate(parameters["padding"]):
        places = np.arange(result[numbers.out_spec[2 + axis]]) * parameters["window_strides"][axis]
        steps = np.arange(kernel[numbers.rhs_spec[2 + axis]]) * parameters["rhs_dilation"][axis]
        apart = parameters["lhs_dilation"][axis]
        read = places[:, None] + steps - before
        length = (image[numbers.lhs_spec[2 + axis]] - 1) * apart + 1
        pairs *= int(((read >= 0) & (read < length) & (read % apart == 0)).sum())
    features = result[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    return 2 * result[numbers.out_spec[0]] * features * pairs
