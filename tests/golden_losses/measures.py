"""Calibration, human labels and class discrimination."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import metrics


def metrics_004(file):
    logits, label = jnp.asarray(file["logits"]), jnp.asarray(file["labels"])
    counts, embedding = file["human_counts"], jnp.asarray(file["embeddings"])
    human = jnp.asarray(counts / counts.sum(1, keepdims=True), jnp.float32)
    mask, classes = jnp.ones(len(label), bool), logits.shape[-1]

    @jax.jit
    def sums(logits, embedding, human):
        p = jax.nn.softmax(logits)
        by_class = partial(metrics.class_sums, label=label, mask=mask, classes=classes)
        moments = metrics.moments(embedding, mask)
        bins = [key for key in file if key.startswith("ece_")]
        return {
            "bins": {
                key: metrics.reliability(logits, label, mask, bins=int(key.removeprefix("ece_")))
                for key in bins
            },
            "each": metrics.human_kl(logits, human),
            "human_kl": metrics.human_kl_total(logits, human, mask),
            "human_ce": metrics.human_cross_entropy(logits, human, mask),
            "network": by_class(p), "human": by_class(human),
            "units": metrics.unit_sums(embedding, label, mask, moments, classes),
            "confusion": metrics.confusion(logits, label, mask),
            "accuracy": metrics.accuracy(logits, label, mask),
        }

    got = sums(logits, embedding, human)
    result = metrics.class_discrimination(got["units"])
    table5 = metrics.class_discrimination(got["units"], table5=True)
    means = metrics.class_means(got["human"]), metrics.class_means(got["network"])
    macro = metrics.precision_recall_f1(got["confusion"])
    return {
        **{key: metrics.ece(bins) for key, bins in got["bins"].items()},
        "kld_per_example": got["each"], "kld_human_model": metrics.mean(got["human_kl"]),
        "human_ce": metrics.mean(got["human_ce"]),
        "class_separability": metrics.class_separability(got["network"]),
        "class_kld_matrix_human_model": metrics.kl_matrix(*means),
        "cohesion_per_class": result.cohesion_per_class, "cohesion": result.cohesion,
        "adhesion_per_pair": result.adhesion_per_pair[np.triu_indices(classes, 1)],
        "adhesion": result.adhesion, "discrimination": result.discrimination,
        "discrimination_table5": table5.discrimination,
        "accuracy": metrics.mean(got["accuracy"]),
        **{f"{name}_macro": value for name, value in macro.items()},
    }


FAMILIES = {"metrics_004": metrics_004}
