"""Deployment of trained networks: as one function, as packed weights, on the command line."""

from kdaug_jax.lazy import submodules

__all__ = ["artifact", "export", "predict"]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
