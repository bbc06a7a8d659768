"""Knowledge distillation and data augmentation in one jitted, sharded JAX step.

Sub-packages are imported when they are first used: `import kdaug_jax as kd; kd.losses.kl`.
"""

import sys

from kdaug_jax.lazy import submodules

if sys.argv[:1] == ["-m"]:  # `python -m kdaug_jax...`, before the modules of the command
    from kdaug_jax.runtime import streams

    streams.prepare()

__version__ = "0.2.0"

__all__ = [
    "analysis", "augment", "data", "deploy", "errors", "evaluation", "experiment", "images",
    "losses", "metrics", "models", "registry", "rng", "runtime", "training", "types",
]
__getattr__, __dir__ = submodules(__name__, tuple(__all__))
