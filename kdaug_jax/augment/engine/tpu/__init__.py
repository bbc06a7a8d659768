"""The engine for TPUs: one Pallas kernel of all ops, without gathers or scatters of elements."""

from kdaug_jax.augment.engine.tpu.kernel import apply_rows, images_a_call
from kdaug_jax.augment.engine.tpu.limits import problems, slow_ops
from kdaug_jax.augment.engine.tpu.rows import FORMS

__all__ = ["FORMS", "apply_rows", "images_a_call", "problems", "slow_ops"]
