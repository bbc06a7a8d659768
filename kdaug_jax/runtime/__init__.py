"""What surrounds training: devices, checkpoints, metrics out, working directory."""

from kdaug_jax.lazy import submodules

__all__ = ["checkpoint", "compile_cache", "console", "sharding", "workdir", "writer"]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
