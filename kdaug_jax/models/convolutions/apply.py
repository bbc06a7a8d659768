"""The convolution of all networks, in the forms that `choice` names.

The environment variable `KDAUG_CONVOLUTIONS=plain` keeps `lax.conv_general_dilated` everywhere, to
compare with it, and for forward-mode differentiation, which the other forms refuse.
"""

from __future__ import annotations

import os
from functools import partial

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.models.convolutions import choice, dense, depthwise, plain, pointwise
from kdaug_jax.models.convolutions.choice import Convolution, Forms
from kdaug_jax.runtime.platform import target_platforms

VARIABLE = "KDAUG_CONVOLUTIONS"
AUTO, PLAIN = "auto", "plain"
# What `jax.checkpoint` calls the results, where a policy cannot go by the primitive.
NAME = "convolution"
# Of a program whose batch is not known before it runs.
_ANY_BATCH = 1 << 20


def convolve(
    x: jax.Array, kernel: jax.Array, settings: Convolution, forms: Forms | None = None
) -> jax.Array:
    """Convolves images in the form for the platform that is traced for.

    A program for several platforms holds the CPU's form and the plain one, of which each takes
    its own.

    Args:
      x: `[B,H,W,C_in]`.
      kernel: `[k,k,C_in/groups,C_out]` of the same dtype.
      settings: of the convolution.
      forms: of each pass, by name; None for those that `choice.choose` chooses.

    Returns:
      `[B,H',W',C_out]`.

    Raises:
      ArgumentError: a form that was asked for does not compute this convolution.
      ConfigError: the environment variable has an unknown value.
    """
    image = tuple(size if isinstance(size, int) else _ANY_BATCH for size in x.shape)
    if forms is not None:
        return _in_forms(x, kernel, settings, choice.check(forms, image, kernel.shape, settings))
    chosen = {
        platform: choice.choose(image, kernel.shape, settings, x.dtype, platform)
        for platform in platforms()
    }
    if all(forms == Forms() for forms in chosen.values()):
        return plain.convolve(x, kernel, settings)
    if len(chosen) == 1:
        return _in_forms(x, kernel, settings, chosen.popitem()[1])
    return lax.platform_dependent(
        x, kernel,
        cpu=lambda x, kernel: _in_forms(x, kernel, settings, chosen["cpu"]),
        default=lambda x, kernel: plain.convolve(x, kernel, settings),
    )


def platforms() -> tuple[str, ...]:
    """Returns the platforms whose forms are chosen: those traced for, none where all is plain.

    Raises:
      ConfigError: the environment variable has an unknown value.
    """
    value = os.environ.get(VARIABLE) or AUTO
    if value not in (AUTO, PLAIN):
        raise ConfigError(f"${VARIABLE}", f"unknown value '{value}'", suggest(value, (AUTO, PLAIN)))
    return target_platforms() if value == AUTO else ()


# For `jax.checkpoint`: keeps the results of convolutions and computes the rest again.
keep_results = jax.checkpoint_policies.save_from_both_policies(
    lambda primitive, *_, **__: primitive is lax.conv_general_dilated_p,
    jax.checkpoint_policies.save_only_these_names(NAME),
)


def _in_forms(
    x: jax.Array, kernel: jax.Array, settings: Convolution, forms: Forms
) -> jax.Array:
    if forms == Forms():
        return plain.convolve(x, kernel, settings)
    return checkpoint_name(_convolve(*_alike(x, kernel), settings, forms), NAME)


def _alike(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    """Makes both vary over the same axes of a `jax.shard_map`, as JAX's functions do."""
    varying = [jax.typeof(array).manual_axis_type.varying for array in (x, kernel)]
    missing = [tuple((varying[0] | varying[1]) - axes) for axes in varying]
    return [
        lax.pcast(array, axes, to="varying") if axes else array
        for array, axes in zip((x, kernel), missing, strict=True)
    ]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, settings: Convolution, forms: Forms):
    if forms.result == choice.PLAIN:
        return plain.convolve(x, kernel, settings)
    if forms.result == choice.DEPTHWISE:
        return depthwise.result(x, kernel, settings)
    if forms.result == choice.POINTWISE:
        return pointwise.result(x, kernel, settings)
    return dense.result(x, kernel, settings, forms.result)


def _forward(x, kernel, settings, forms):
    return _convolve(x, kernel, settings, forms), (x, kernel)


def _backward(settings, forms, saved, cotangent):
    x, kernel = saved
    return (
        _by_image(cotangent, kernel, x.shape, settings, forms.by_image),
        _by_kernel(x, cotangent, kernel.shape, settings, forms.by_kernel),
    )


_convolve.defvjp(_forward, _backward)


def _by_image(cotangent, kernel, shape, settings, form):
    by_form = {
        choice.PLAIN: plain.image_gradient,
        choice.DEPTHWISE: depthwise.by_image,
        choice.POINTWISE: pointwise.by_image,
    }
    return by_form.get(form, dense.by_image)(cotangent, kernel, shape, settings)


def _by_kernel(x, cotangent, shape, settings, form):
    if form == choice.PLAIN:
        return plain.kernel_gradient(x, cotangent, shape[:2], settings, x.dtype)
    if form == choice.DEPTHWISE:
        return depthwise.by_kernel(x, cotangent, shape, settings)
    if form in (choice.POINTWISE, choice.TRANSPOSED):
        return pointwise.by_kernel(x, cotangent, settings, form == choice.TRANSPOSED)
    return dense.by_kernel(x, cotangent, shape, settings, form)
