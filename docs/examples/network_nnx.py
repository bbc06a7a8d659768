"""A Flax NNX network of your own; any other library fits in the same way.

    config.networks = {
        "student": configs.network("docs.examples.network_nnx:small_net", trainable=True),
    }

`small_net` returns an object with two pure functions. `init` returns the parameters and the running
statistics as nested dicts; `apply` rebuilds the module from them, and returns the new statistics in
third place. A network without running statistics returns `logits` or `(logits, features)` only.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class SmallNet(nnx.Module):
    """A convolution, BatchNorm, dropout and a classifier."""

    def __init__(self, num_classes, width, rngs):
        self.conv = nnx.Conv(3, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.classify = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        """Maps normalised images `f32[B,H,W,3]` to logits `f32[B,num_classes]` and features."""
        pooled = jnp.mean(nnx.relu(self.norm(self.conv(x))), axis=(1, 2))
        return self.classify(self.dropout(pooled)), {"pooled": pooled}


class Functions(NamedTuple):
    """A network as two pure functions; `min_size` and `native_size` could stand here as well."""

    init: Callable
    apply: Callable


def small_net(num_classes, width=8):
    """Returns the network; `num_classes` comes from the data set, the rest from `options`."""

    def make(key):
        return nnx.split(
            SmallNet(num_classes, width, nnx.Rngs(key)), nnx.Param, nnx.BatchStat, ...
        )

    def init(key, size):
        _, params, stats, _ = make(key)
        return {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(stats)}

    def apply(variables, image, *, train, key):
        # The module is made anew for its structure and the key of dropout; XLA drops its weights.
        graph, params, stats, rest = make(jax.random.key(0) if key is None else key)
        nnx.replace_by_pure_dict(params, variables["params"])
        nnx.replace_by_pure_dict(stats, variables["batch_stats"])
        module = nnx.merge(graph, params, stats, rest)
        module.train() if train else module.eval()
        logits, features = module(image)
        return logits, features, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return Functions(init, apply)
