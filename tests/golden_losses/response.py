"""Losses on logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import losses
from tests.golden_losses.common import differentiate


def _one_hot(file, labels="labels"):
    return np.eye(file["logits_s"].shape[-1], dtype=np.float32)[file[labels]]


def cross_entropy(file):
    smoothing = np.float32(file.setting("eps"))
    labels = file["labels"]
    return differentiate(
        file, ["logits_s"],
        lambda s: losses.cross_entropy(s, labels, label_smoothing=smoothing).mean(),
    )


def cross_entropy_mixed(file):
    one_hot, lam = _one_hot(file), file["lam"]
    mixed = lam * one_hot + (1 - lam) * one_hot[file["perm"]]
    return differentiate(file, ["logits_s"], lambda s: losses.cross_entropy(s, mixed).mean())


def kl(file):
    t = np.float32(file.setting("T"))
    return differentiate(
        file, ["logits_s"],
        lambda s, teacher: losses.kl(s, teacher, temperature=t).mean(), teacher=file["logits_t"],
    )


def _with_labels(file, weight_ce, weight_kd, soft, names):
    """Weighted sum of cross entropy and a soft loss; `names` of the two in the file."""
    labels = file["labels"]

    def loss(student, teacher):
        ce, kd = losses.cross_entropy(student, labels).mean(), soft(student, teacher).mean()
        parts = {name: part for name, part in zip(names, (ce, kd), strict=True) if name in file}
        return weight_ce * ce + weight_kd * kd, parts

    return differentiate(file, ["logits_s"], loss, teacher=file["logits_t"])


def kd_total(file):
    t, alpha = np.float32(file.setting("T")), file.setting("alpha")
    return _with_labels(
        file, 1 - alpha, alpha, lambda s, r: losses.kl(s, r, temperature=t), ("ce", "kl_T2")
    )


def kd_004(file):
    t, gamma = np.float32(file.setting("T")), file.setting("gamma")
    by_class = {"batchmean": False, "elementmean": True}[file.setting("reduction")]
    labels = file["labels"]

    def loss(student, teacher):
        ce = losses.cross_entropy(student, labels).mean()
        kd = losses.kl(student, teacher, temperature=t, class_mean=by_class).mean()
        return (1 - gamma) * ce + gamma * kd, {"kl": kd / (t * t)}

    return differentiate(file, ["logits_s"], loss, teacher=file["logits_t"])


def kd_role_kd(file):
    t = np.float32(file.setting("T"))
    return _with_labels(
        file, file.setting("w_ce"), file.setting("w_kd"),
        lambda s, r: losses.kl(s, r, temperature=t, times_t2=False), ("ce", "kl"),
    )


def topk_kl(file):
    k, weight = np.int32(file.setting("K")), np.float32(file.setting("lam"))
    renormalize, labels = bool(file.setting("renormalize")), file["labels"]
    teacher = file["logits_t"]

    def loss(student, teacher):
        ce = losses.cross_entropy(student, labels).mean()
        each = losses.topk_kl(student, teacher, k=k, renormalize=renormalize)
        return ce + weight * each.mean(), {"ce": ce, "kl_per_example": each}

    results = differentiate(file, ["logits_s"], loss, teacher=teacher)
    chosen = np.asarray(losses.top_classes(jnp.asarray(teacher), k))
    return {**results, "topk_idx": np.nonzero(chosen)[1].reshape(len(teacher), k)}


def kd_x_plus_xmix(file):
    t, alpha = np.float32(file.setting("T")), file.setting("alpha")
    labels = file["labels"]

    def loss(student, mixed, teacher, teacher_mixed):
        ce = losses.cross_entropy(student, labels).mean()
        plain = losses.kl(student, teacher, temperature=t).mean()
        of_mixed = losses.kl(mixed, teacher_mixed, temperature=t).mean()
        parts = {"ce": ce, "kl_x_T2": plain, "kl_xmix_T2": of_mixed}
        return (1 - alpha) * ce + alpha * (plain + of_mixed), parts

    return differentiate(
        file, ["logits_s", "logits_s_mix"], loss,
        teacher=file["logits_t"], teacher_mixed=file["logits_t_mix"],
    )


def dml(file):
    eps, labels = file.setting("eps"), file["labels"]

    def loss(logits_1, logits_2):
        def of_student(student, peer):
            soft = losses.dml(student, jax.lax.stop_gradient(peer), eps=eps)
            return losses.cross_entropy(student, labels).mean() + soft.mean()

        first, second = of_student(logits_1, logits_2), of_student(logits_2, logits_1)
        return first + second, {"loss_1": first, "loss_2": second}

    return differentiate(file, ["logits_1", "logits_2"], loss)


def dkd(file):
    options = {
        "alpha": np.float32(file.setting("alpha")), "beta": np.float32(file.setting("beta")),
        "temperature": np.float32(file.setting("T")),
    }
    labels = file["labels"]
    return differentiate(
        file, ["logits_s"], lambda s, teacher: losses.dkd(s, teacher, labels, **options).mean(),
        teacher=file["logits_t"],
    )


def _softened(function):
    def family(file):
        t = np.float32(file.setting("T"))
        return differentiate(
            file, ["logits_s"], lambda s, teacher: function(s, teacher, temperature=t).mean(),
            teacher=file["logits_t"],
        )

    return family


FAMILIES = {
    "cross_entropy": cross_entropy,
    "cross_entropy_mixed": cross_entropy_mixed,
    "kl": kl,
    "kd_total": kd_total,
    "kd_004": kd_004,
    "kd_role_kd": kd_role_kd,
    "topk_kl": topk_kl,
    "kd_x_plus_xmix": kd_x_plus_xmix,
    "dml": dml,
    "dkd": dkd,
    "lskd": _softened(losses.lskd),
    "mlkd_batch": _softened(losses.gram_of_examples),
    "mlkd_class": _softened(losses.gram_of_classes),
}
