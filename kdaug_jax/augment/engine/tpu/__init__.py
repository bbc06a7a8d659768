"""The engine for TPUs: one Pallas kernel of all ops, without gathers or scatters of elements."""

from kdaug_jax.augment.engine.tpu.kernel import STAGES_A_CALL, apply_rows
from kdaug_jax.augment.engine.tpu.limits import problems, slow_ops
from kdaug_jax.augment.engine.tpu.rows import FORMS

__all__ = ["FORMS", "STAGES_A_CALL", "apply_rows", "problems", "slow_ops"]
