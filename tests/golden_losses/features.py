"""Losses on feature maps and on relations between examples."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from kdaug_jax.losses import adapted, feature, overhaul, relation, review
from tests.golden_losses.common import differentiate, nhwc


def _stages(function, weights=None, scale=1.0):
    """Sums `function(student, teacher) -> f32[B]` over the maps of the file."""

    def family(file):
        names, others = file.listed("f_s"), [nhwc(file[name]) for name in file.listed("f_t")]

        def loss(*maps):
            parts = [
                function(nhwc(s), t).mean() for s, t in zip(maps, others, strict=True)
            ]
            if weights is not None:
                parts = [w * part for w, part in zip(weights(len(parts)), parts, strict=True)]
            return scale * sum(parts), {"per_stage": scale * jnp.stack(parts)}

        return differentiate(file, names, loss)

    return family


def _pair(function):
    """`function(student, teacher) -> f32[B] or f32[]` of one feature."""

    def family(file):
        teacher = nhwc(file["f_t"])
        return differentiate(file, ["f_s"], lambda s: jnp.mean(function(nhwc(s), teacher)))

    return family


def at(file):
    p = int(file.setting("p"))
    return _stages(lambda s, t: feature.at(s, t, p=p))(file)


def ab(file):
    margin, scale = np.float32(file.setting("margin")), np.float32(file.setting("scale"))
    each = lambda s, t: feature.ab(s, t, margin=margin)  # noqa: E731
    return _stages(each, feature.feature_weights, scale)(file)


def fsp(file):
    names, teacher = file.listed("f_s"), [nhwc(file[name]) for name in file.listed("f_t")]

    def loss(*maps):
        parts = [part.mean() for part in feature.fsp_parts([nhwc(s) for s in maps], teacher)]
        return sum(parts), {"per_stage": jnp.stack(parts)}

    return differentiate(file, names, loss)


def vid(file):
    teacher = nhwc(file["f_t"])
    names = ["f_s", *file.listed("w"), "log_scale"]

    def loss(maps, *rest):
        *weights, log_scale = rest
        params = {f"conv{i}": {"kernel": w[:, :, 0, 0].T} for i, w in enumerate(weights)}
        return adapted.vid_nll({**params, "log_scale": log_scale}, nhwc(maps), teacher).mean()

    return differentiate(file, names, loss)


def rkd(file):
    options = {"distance": file.setting("w_d"), "angle": file.setting("w_a")}
    options = {name: np.float32(value) for name, value in options.items()}
    return _pair(lambda s, t: relation.rkd(s, t, **options))(file)


def rkd_role_kd(file):
    w_d, w_a = np.float32(file.setting("w_d")), np.float32(file.setting("w_a"))

    def loss(student, teacher):
        distance, angle = relation.rkd_role_parts(student, teacher)
        total = relation.rkd_role(student, teacher, distance=w_d, angle=w_a)
        return total, {"dist": distance, "angle": angle}

    return differentiate(file, ["logits_s"], loss, teacher=file["logits_t"])


def ofd_feat(file):
    teacher, margin = nhwc(file["f_t"]), file["margin"].reshape(-1)
    return differentiate(
        file, ["f_s"], lambda s: overhaul.partial_square(nhwc(s), teacher, margin).mean()
    )


def reviewkd_hcl(file):
    names, teacher = file.listed("f_s"), [nhwc(file[name]) for name in file.listed("f_t")]
    return differentiate(
        file, names,
        lambda *maps: review.hierarchical_context([nhwc(s) for s in maps], teacher).mean(),
    )


def reviewkd_abf(file):
    stored = {key: file[key] for key in file if key.startswith("param_")}

    def conv(name):
        return {"kernel": jnp.transpose(stored[f"param_{name}_weight"], (2, 3, 1, 0))}

    params = {name: conv(f"{name}_0") for name in ("conv1", "conv2")}
    params |= {
        f"bn{i}": {
            "scale": stored[f"param_conv{i}_1_weight"], "bias": stored[f"param_conv{i}_1_bias"]
        }
        for i in (1, 2)
    }
    params["attention"] = {**conv("att_conv_0"), "bias": stored["param_att_conv_0_bias"]}
    size = file.arrays["out_feat"].shape[2:]

    def loss(x, y):
        fused, handed = review.fuse(params, nhwc(x), nhwc(y), size, groups=1)
        total = jnp.mean(jnp.square(fused)) + jnp.mean(jnp.square(handed))
        return total, {
            "out_feat": jnp.moveaxis(fused, -1, 1), "out_res": jnp.moveaxis(handed, -1, 1)
        }

    return differentiate(file, ["x", "y"], loss)


FAMILIES = {
    "ofd_feat": ofd_feat,
    "reviewkd_hcl": reviewkd_hcl,
    "reviewkd_abf": reviewkd_abf,
    "at": at,
    "ab": ab,
    "nst": _stages(feature.nst),
    "fsp": fsp,
    "ft": _pair(feature.factor_distance),
    "fitnet_hint": _pair(feature.hint),
    "vid": vid,
    "sp": _pair(relation.sp),
    "pkt": _pair(relation.pkt),
    "cc": _pair(relation.cc),
    "rkd": rkd,
    "rkd_role_kd": rkd_role_kd,
}
