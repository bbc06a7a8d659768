"""CRD with its memory banks over several steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.losses import contrastive
from kdaug_jax.losses.term import written


def crd(file):
    temperature, momentum = (np.float32(file.setting(f"nce_{name}")) for name in "tm")
    assert file.setting("eps") == np.float32(contrastive.EPS)
    state = {
        "student": jnp.asarray(file["memory_v1_0"]), "teacher": jnp.asarray(file["memory_v2_0"]),
        "z": jnp.full(2, -1.0),
    }
    assert state["student"].shape[0] == file.setting("n_data")

    @jax.jit
    def run(arrays, state, contrast):
        def loss(arrays):
            student, teacher = (
                contrastive.embed(
                    {"kernel": arrays[f"W_{of}"].T, "bias": arrays[f"b_{of}"]}, arrays[f"f_{of}"]
                )
                for of in "st"
            )
            each, z = contrastive.crd_loss(state, student, teacher, contrast, temperature, 8)
            return each.mean(), (z, student, teacher)

        return jax.value_and_grad(loss, has_aux=True)(arrays)

    layers = {name: jnp.asarray(file[name]) for name in ("W_s", "b_s", "W_t", "b_t")}
    results, step = {}, 0
    while f"f_s_step{step}" in file:
        end = f"_step{step}"
        arrays = {**layers, **{name: jnp.asarray(file[name + end]) for name in ("f_s", "f_t")}}
        contrast = jnp.asarray(file["contrast_idx" + end])
        assert contrast.shape[1] == 1 + file.setting("nce_k")
        (value, (z, student, teacher)), grads = run(arrays, state, contrast)
        rows = jnp.asarray(file["idx" + end])
        state = written({
            "student": contrastive.moved(state["student"], rows, student, momentum),
            "teacher": contrastive.moved(state["teacher"], rows, teacher, momentum), "z": z,
        })
        now = {
            "loss": value, "Z_v1": z[0], "Z_v2": z[1],
            "memory_v1": state["student"], "memory_v2": state["teacher"],
            **{f"grad_{name}": grad for name, grad in grads.items()},
        }
        results |= {name + end: array for name, array in now.items()}
        step += 1
    return results


FAMILIES = {"crd": crd}
