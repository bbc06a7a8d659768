"""A Flax Linen network of your own, as a student or a teacher.

In a config, the module's path and the function's name stand in place of a network's name:

    config.networks = {
        "student": configs.network(
            "docs.examples.network_linen:SmallNet", trainable=True, options=dict(width=16),
        ),
    }

In Python: `models.create("docs.examples.network_linen:SmallNet", 10, normalize="cifar10")`.
"""

import flax.linen as nn
import jax.numpy as jnp


class SmallNet(nn.Module):
    """Two convolutions, BatchNorm, dropout and a classifier."""

    num_classes: int  # given by the data set
    width: int = 8  # an option of the config

    @nn.compact
    def __call__(self, x, train):
        """Maps normalised images `f32[B,H,W,C]` to logits `f32[B,num_classes]` and features."""
        stem = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(stem))
        x = nn.relu(nn.Conv(2 * self.width, (3, 3), strides=2)(x))
        pooled = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(0.1, deterministic=not train)(pooled)
        # Features may be left out; losses on activations find them by these names.
        return nn.Dense(self.num_classes)(x), {"stem": stem, "pooled": pooled}
