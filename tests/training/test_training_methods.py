"""Methods train on handwritten digits: one of each kind here, every one in tests/slow."""

import jax
import numpy as np

from tests.training.digits import falls, method, run


def moved(first, last):
    return {
        jax.tree_util.keystr(path): bool(np.any(np.asarray(before) != np.asarray(after)))
        for (path, before), after in zip(
            jax.tree.leaves_with_path(first), jax.tree.leaves(last), strict=True
        )
    }


def test_losses_on_logits_fall_in_fifty_steps(frozen_teacher):
    names = ("cross_entropy", "kl", "topk_kl", "dkd", "dist", "rkd_role")
    _, _, values = run(*method(names))
    assert [name for name in names if not falls(name, values)] == []


def test_adapters_and_attention_train_under_the_clip(frozen_teacher):
    """And the losses fall that they serve: fitnet, vid, cc, crd and II-KD's parts."""
    names = ("cross_entropy", "fitnet", "vid", "cc", "ii_kd", "crd")
    made, frozen = method(names)
    made.optim.combine = "clip_per_variable()"
    for name in names[1:]:
        made.terms[name].gradient_group = "distill"
    first, last, values = run(made, frozen)
    assert [name for name in names if not falls(name, values)] == []
    own = moved(first.params["terms"], last.params["terms"])
    assert [path for path, changed in own.items() if not changed] == []
    assert {path.split("'")[1] for path in own} == {"fitnet", "vid", "cc", "ii_kd", "crd"}
    assert any("attention" in path for path in own) and any("adapters" in path for path in own)
    moments = last.term_state["ii_kd"]["1"]["sender"]
    assert (moments["mean"] != 0).any() and (moments["var"] != 1).all()
    for part in ("graph", "attention", "flow"):
        values_of = values[f"train/ii_kd/{part}"]
        assert np.isfinite(values_of).all() and np.ptp(values_of) > 0
