"""Searches over the members of a population: they copy states and change traced numbers."""

from kdaug_jax.lazy import submodules

__all__ = ["pba", "run"]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
