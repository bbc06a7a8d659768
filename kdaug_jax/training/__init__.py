"""Executes programs: the step, the loop, evaluation, populations."""

from kdaug_jax.lazy import submodules

__all__ = ["loop", "plan", "population", "preview", "setup", "state", "step", "teachers"]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
