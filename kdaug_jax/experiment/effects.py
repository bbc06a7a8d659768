"""Settings without effect: on a run that goes on, on its weights, on its final metrics."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

# Paths of settings; `*` stands for names.
# A run may be resumed with other values of these.
FREE = (
    "mode", "teachers", "data.workers", "data.device_gb", "data.stage_gb", "data.crop",
    "data.classes",
    "mesh.data", "mesh.model", "networks.*.shard", "views.*.place", "log.*", "checkpoint.keep",
    "checkpoint.retry_minutes", "train.max_minutes", "train.profile",
)
# These change no weight of the last checkpoint. Where data lie is none of them.
ON_NO_WEIGHT = (*FREE, "data.source", "data.validation", "data.test", "eval.*", "checkpoint.*",
                "train.allow_weak_teacher")
# These change no final metric that is measured with and without them.
ON_NO_METRIC = (*FREE, "checkpoint.*", "eval.every_epochs", "population", "population.*")
# These only add metrics to others.
ADDING_METRICS = ("eval.metrics", "eval.sets", "eval.human")


def is_among(path: str, patterns: Sequence[str]) -> bool:
    """Returns whether one of the patterns stands for the path of a setting."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
