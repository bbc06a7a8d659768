"""Losses: pure functions, and terms with parameters. `LOSSES` maps their names in configs."""

from kdaug_jax.losses.adapted import ab, cc, fitnet, ft, vid
from kdaug_jax.losses.contrastive import crd, info_nce, info_nce_term
from kdaug_jax.losses.correlation import dist, gram_of_classes, gram_of_examples, mlkd
from kdaug_jax.losses.decoupled import dkd
from kdaug_jax.losses.ensemble import (
    a2aug,
    ensemble_distance,
    ensemble_logits,
    l2_normalized,
)
from kdaug_jax.losses.feature import at, fsp, nst
from kdaug_jax.losses.graph import ii_kd, mhgd
from kdaug_jax.losses.overhaul import ofd
from kdaug_jax.losses.pick import (
    PICKERS,
    entropy,
    hardest,
    kept_ratio,
    kl_score,
    label_disagreement,
)
from kdaug_jax.losses.relation import pkt, rkd, rkd_angle, rkd_distance, rkd_role, sp
from kdaug_jax.losses.response import (
    average_teachers,
    binary_cross_entropy,
    cross_entropy,
    cross_entropy_kd,
    dml,
    hard_kd,
    kl,
    lskd,
    standardize,
    top_classes,
    topk_kl,
)
from kdaug_jax.losses.review import reviewkd
from kdaug_jax.losses.svd import kd_svd
from kdaug_jax.losses.term import Loss, Term

LOSSES = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "kl": kl,
    "topk_kl": topk_kl,
    "cross_entropy_kd": cross_entropy_kd,
    "hard_kd": hard_kd,
    "dml": dml,
    "lskd": lskd,
    "dkd": dkd,
    "dist": Loss(dist, min_group=2),
    "mlkd": Loss(mlkd, min_group=2),
    "a2aug": a2aug,
    # On activations that the config chooses.
    "fitnet": fitnet,
    "at": Loss(at, features="each"),
    "nst": Loss(nst, features="each"),
    "vid": vid,
    "fsp": Loss(fsp, features="all"),
    "ab": ab,
    "ft": ft,
    "sp": Loss(sp, features="each", min_group=2),
    "pkt": Loss(pkt, features="each", min_group=2),
    "cc": cc,
    "rkd": Loss(rkd, features="each", min_group=3),
    "rkd_distance": Loss(rkd_distance, features="each", min_group=2),
    "rkd_angle": Loss(rkd_angle, features="each", min_group=3),
    "rkd_role": Loss(rkd_role, features="each", min_group=3),
    "kd_svd": kd_svd,
    "mhgd": mhgd,
    "ii_kd": ii_kd,
    "crd": crd,
    "info_nce": info_nce_term,
    "ofd": ofd,
    "reviewkd": reviewkd,
}

__all__ = [
    "LOSSES",
    "Loss",
    "PICKERS",
    "Term",
    "a2aug",
    "ab",
    "at",
    "average_teachers",
    "binary_cross_entropy",
    "cc",
    "crd",
    "cross_entropy",
    "cross_entropy_kd",
    "dist",
    "dkd",
    "dml",
    "ensemble_distance",
    "ensemble_logits",
    "entropy",
    "fitnet",
    "fsp",
    "ft",
    "gram_of_classes",
    "gram_of_examples",
    "hard_kd",
    "hardest",
    "ii_kd",
    "kd_svd",
    "info_nce",
    "kept_ratio",
    "kl",
    "kl_score",
    "l2_normalized",
    "label_disagreement",
    "lskd",
    "mhgd",
    "mlkd",
    "nst",
    "ofd",
    "pkt",
    "reviewkd",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "rkd_role",
    "sp",
    "standardize",
    "top_classes",
    "topk_kl",
    "vid",
]
