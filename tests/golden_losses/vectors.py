"""Losses on singular vectors: KD-SVD and the graphs of MHGD."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.losses import graph, svd
from kdaug_jax.losses.arrays import normalized
from tests.golden_losses.common import differentiate, nhwc


def _lapack_signs(maps, count):
    """Signs that the reference's decomposition gave the right singular vectors, `f32[B,1,K]`.

    They are arbitrary, but the reference's value depends on those of the teacher.
    """
    rows = np.asarray(svd.pixel_rows(maps), np.float64)
    theirs = np.linalg.svd(rows, full_matrices=False)[2][:, :count].swapaxes(1, 2)
    ours = np.asarray(svd.right_singular(maps, count)[0])
    return np.sign(np.sum(ours * theirs, axis=1, keepdims=True)).astype(np.float32)


def kdsvd(file):
    k = file.setting("k")
    names, teacher = file.listed("f_s"), [nhwc(file[name]) for name in file.listed("f_t")]
    vectors = []
    for maps in teacher:
        right, values = svd.right_singular(maps, k)
        weight = normalized(values)[:, None, :]
        vectors.append((right * _lapack_signs(maps, k), weight))

    def loss(*maps):
        of_student = [
            svd.align(svd.right_singular(nhwc(s), k + svd.SPARE)[0], right) * weight
            for s, (right, weight) in zip(maps, vectors, strict=True)
        ]
        of_teacher = [right * weight for right, weight in vectors]
        parts = [
            svd.flow_distance(s, s_before, t, t_before).mean()
            for s, s_before, t, t_before in zip(
                of_student[1:], of_student, of_teacher[1:], of_teacher, strict=False
            )
        ]
        return sum(parts), {"per_pair": jnp.stack(parts)}

    return differentiate(file, names, loss)


def svd_align(file):
    teacher, c = nhwc(file["f_t"]), file["c"]
    count = min(teacher.shape[1] * teacher.shape[2], teacher.shape[-1])

    def loss(student):
        student = nhwc(student)
        of_student, of_teacher, _ = svd.aligned_vectors(student, teacher, 1)
        outer = of_student @ jnp.swapaxes(of_teacher, -1, -2)
        singular = jax.lax.stop_gradient(svd.right_singular(student, count)[1])
        return jnp.sum(outer * c), {
            "vs_outer_vt": outer, "vt_outer_vt": of_teacher @ jnp.swapaxes(of_teacher, -1, -2),
            "singular_s": singular, "singular_t": svd.right_singular(teacher, count)[1],
        }

    return differentiate(file, ["f_s"], loss)


def mhgd_graph_loss(file):
    heads = file.setting("heads")
    assert file.setting("D2") * heads == file["W_sender"].shape[1]
    params, moments = {}, {}
    for name, short in (("sender", "s"), ("receiver", "r")):
        params[name] = {"kernel": file[f"W_{name}"]}
        params[f"bn_{name}"] = {
            "scale": file[f"bn_{short}_gamma"], "bias": file[f"bn_{short}_beta"]
        }
        moments[name] = {key: file[f"bn_{short}_{key}"] for key in ("mean", "var")}

    def loss(v_s, v_s_prev, v_t, v_t_prev):
        of_student, _ = graph.graph(params, v_s, v_s_prev, heads, moments)
        of_teacher, _ = graph.graph(params, v_t, v_t_prev, heads, moments)
        return graph.graph_distance(of_student, of_teacher), {"G_s": of_student, "G_t": of_teacher}

    names = ["v_s", "v_s_prev"]
    return differentiate(file, names, loss, v_t=file["v_t"], v_t_prev=file["v_t_prev"])


FAMILIES = {"kdsvd": kdsvd, "svd_align": svd_align, "mhgd_graph_loss": mhgd_graph_loss}
