"""What finished runs say: tables and pictures."""

from kdaug_jax.lazy import submodules

__all__ = [
    "bars", "calibration", "compare", "curves", "embeddings", "figures", "gallery", "matrices",
    "pictures", "plots", "rank_da",
]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
