"""The batched engine: rows of op tables, and four ways of applying one to each image."""

from kdaug_jax.augment.engine.apply import apply_ops
from kdaug_jax.augment.engine.kernels import Colours
from kdaug_jax.augment.engine.policy import apply_policy
from kdaug_jax.augment.engine.rows import Table, build_table
from kdaug_jax.augment.engine.tpu import slow_ops

__all__ = ["Colours", "Table", "apply_ops", "apply_policy", "build_table", "slow_ops"]
