"""Augmentation policies as plain data: what may be applied at which strength, and the draw of it.

A policy knows nothing of images: it is a table of ops at fixed strengths and a function that draws
row numbers. Applying the rows is the engine's.
"""

from kdaug_jax.augment.ops.squares import box, square_offsets
from kdaug_jax.augment.ops.table import IDENTITY, VARIANTS, Op
from kdaug_jax.augment.policies.autoaugment import TABLES, autoaugment
from kdaug_jax.augment.policies.candidates import randaugment_candidates
from kdaug_jax.augment.policies.fixmatch import fixmatch
from kdaug_jax.augment.policies.levels import SOURCES
from kdaug_jax.augment.policies.pba import check_policy, pba, read_schedule, schedule
from kdaug_jax.augment.policies.policy import HparamSpec, Policy
from kdaug_jax.augment.policies.randaugment import SPACES, WEI2020, randaugment
from kdaug_jax.augment.policies.timm import timm
from kdaug_jax.augment.policies.trivial import trivialaugment_wide
from kdaug_jax.augment.policies.wei2020 import wei2020, wei2020_levels

__all__ = [
    "IDENTITY",
    "SOURCES",
    "SPACES",
    "TABLES",
    "VARIANTS",
    "WEI2020",
    "HparamSpec",
    "Op",
    "Policy",
    "autoaugment",
    "box",
    "check_policy",
    "fixmatch",
    "pba",
    "randaugment",
    "randaugment_candidates",
    "read_schedule",
    "schedule",
    "square_offsets",
    "timm",
    "trivialaugment_wide",
    "wei2020",
    "wei2020_levels",
]
