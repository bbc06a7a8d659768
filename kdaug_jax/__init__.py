"""Knowledge distillation and data augmentation in one jitted, sharded JAX step.

Sub-packages are imported when they are first used: `import kdaug_jax as kd; kd.losses.kl`.
"""

from kdaug_jax.lazy import submodules

__version__ = "0.2.0"

__all__ = [
    "analysis", "augment", "data", "deploy", "errors", "evaluation", "experiment", "images",
    "losses", "metrics", "models", "registry", "rng", "runtime", "training", "types",
]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
