"""What papers 001 to 003 have of their own: picks, ensembles, quantisers, clipped gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import losses
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import optim
from kdaug_jax.experiment.combine import clip_per_variable
from kdaug_jax.models import quantize
from kdaug_jax.types import Info
from tests.golden_losses.common import differentiate


def cutmix_pick(file):
    t, keep = np.float32(file.setting("T")), file.setting("n_pick")
    student, teacher = jnp.asarray(file["pool_logits_s"]), jnp.asarray(file["pool_logits_t"])
    divergence = losses.kl_score(student, teacher, temperature=t)
    results = {}
    for name, picker in losses.PICKERS.items():
        name = "kld" if name == "kl" else name
        score = divergence if name == "kld" else picker(student, teacher)
        kept = losses.hardest(score, keep)
        results |= {
            f"score_{name}": score, f"picked_{name}": kept,
            f"ratio_{name}": losses.kept_ratio(score, kept),
            f"kl_ratio_r_{name}": losses.kept_ratio(divergence, kept),
        }
    return results


def label_disagreement(file):
    one_hot = np.eye(file["logits_t"].shape[-1], dtype=np.float32)
    lam = file["lam"][:, None]
    mixed = lam * one_hot[file["labels_a"]] + (1 - lam) * one_hot[file["labels_b"]]
    disagree = losses.label_disagreement(file["logits_t"], mixed)
    return {
        "mixed_label": mixed, "disagree": disagree,
        "count": jnp.sum(disagree), "fraction": jnp.mean(disagree, dtype=jnp.float32),
    }


def a2aug(file):
    labels, names = file["labels"], file.listed("Q")
    form = "kl_norm" if file.setting("normalize") else "kl"
    scale = np.float32(file.setting("scale"))

    def loss(*arrays):
        *views, mu = arrays
        together = losses.ensemble_logits(jnp.stack(views), mu)
        each = sum(losses.cross_entropy(view, labels).mean() for view in views)
        joint = losses.cross_entropy(together, labels).mean()
        soft = sum(
            losses.ensemble_distance(view, together, form=form, scale=scale).mean()
            for view in views
        )
        return each + joint + soft, {
            "ce_sum": each, "ce_ens": joint, "kl_sum": soft, "Q_ens": together,
            "weights": jax.nn.softmax(mu),
        }

    return differentiate(file, [*names, "mu"], loss)


def dorefa(file):
    bits, detach = file.setting("k"), bool(file.setting("detach_max"))

    def loss(w, a, c_w, c_a):
        weights = quantize.quantize_weight(w, bits, detach_max=detach)
        activations = quantize.quantize_activation(a, bits)
        value = jnp.sum(weights * c_w) + jnp.sum(activations * c_a)
        return value, {"w_q": weights, "a_q": activations}

    return differentiate(file, ["w", "a"], loss, c_w=file["c_w"], c_a=file["c_a"])


def kd_grad_clip(file):
    task, distill = ({"net": {"w": jnp.asarray(file[f"grad_{of}"])}} for of in ("task", "kd"))
    combined = []
    for epoch in file["epoch"]:
        combine = clip_per_variable(jnp.int32(epoch), jnp.float32(0.0))
        combined.append(combine({"task": task, "distill": distill})["net"]["w"])
    return {"combined": jnp.stack(combined)}


def dot_optimizer(file):
    settings = {name: file.setting(name) for name in ("lr", "momentum", "weight_decay", "delta")}
    section = configs.optimizer(
        "sgd", settings["lr"], momentum=settings["momentum"],
        weight_decay=settings["weight_decay"], combine=f"dot({settings['delta']})",
    )
    info = Info(2, (1, 1), np.zeros(2, np.int32), (0.0,), (1.0,))
    plan = optim.build_optimizer(section, 10, 100, info)
    values = {path: jnp.asarray(value) for path, value in plan.hparams.items()}
    params = {"student": {"kernel": jnp.asarray(file["param0"])}, "terms": {}}
    state, params_by_step = None, []

    @jax.jit
    def step(grads, state, params):
        chain = optim.transformation(plan, values, jnp.int32(0), jnp.int32(0), {})
        state = chain.init(params) if state is None else state
        change, state = chain.update(grads, state, params)
        return jax.tree.map(jnp.add, params, change), state

    for task, distill in zip(file["grad_task"], file["grad_kd"], strict=True):
        groups = {"task": task, "distill": distill}
        grads = {
            name: {"student": {"kernel": gradient}, "terms": {}}
            for name, gradient in groups.items()
        }
        params, state = step(grads, state, params)
        params_by_step.append(params["student"]["kernel"])
    return {"params": jnp.stack(params_by_step)}


FAMILIES = {
    "dot_optimizer": dot_optimizer,
    "cutmix_pick": cutmix_pick,
    "label_disagreement": label_disagreement,
    "a2aug": a2aug,
    "dorefa": dorefa,
    "kd_grad_clip": kd_grad_clip,
}
