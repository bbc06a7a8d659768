"""From a config to a program: everything named, checked and planned before any device work."""

from kdaug_jax.lazy import submodules

__all__ = [
    "config", "networks", "optim", "phases", "program", "schedules", "sections", "terms", "views",
]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
