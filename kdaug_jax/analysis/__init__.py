"""What finished runs say: tables and pictures."""

from kdaug_jax.lazy import submodules

__all__ = ["compare", "gallery", "pictures", "rank_da"]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
