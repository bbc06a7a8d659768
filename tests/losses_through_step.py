"""Terms of every loss, on the tiny networks, for tests that run them through the real step."""

from kdaug_jax.experiment import config as configs
from kdaug_jax.losses import LOSSES
from kdaug_jax.losses.term import Term
from tests.conftest import tiny_config

MAPS, VECTOR = ("f0", "f1"), ("pooled",)
# What a loss needs beside its defaults; features for those that work on activations.
OPTIONS = {
    "topk_kl": dict(k=2),
    "fitnet": dict(features=("f1",)),
    "at": dict(features=MAPS),
    "nst": dict(features=("f1",)),
    "vid": dict(features=MAPS),
    "fsp": dict(features=MAPS),
    "ab": dict(features=("f0",)),
    "ft": dict(features=("f1",)),
    "sp": dict(features=("f1",)),
    "pkt": dict(features=VECTOR),
    "cc": dict(features=VECTOR, dim=16),
    "rkd": dict(features=VECTOR),
    "rkd_distance": dict(features=("pooled", "logits")),
    "rkd_angle": dict(features=VECTOR),
    "rkd_role": dict(features=("logits",)),
    "kd_svd": dict(features=MAPS),
    "mhgd": dict(features=MAPS, heads=2),
    "ii_kd": dict(features=MAPS, heads=2),
    "crd": dict(features=VECTOR, negatives=8, dim=16),
    "info_nce": dict(features=VECTOR, dim=16),
    "ofd": dict(features=("f0",), margin="moving"),
    "reviewkd": dict(features=("f0", "f1", "pooled")),
}
# Losses that need equal widths of student and teacher.
EQUAL = ("fsp",)


def term(name, **changes):
    """The config of one term of the loss `name`."""
    row = LOSSES[name]
    roles = row.roles if isinstance(row, Term) else ()
    function = getattr(row, "function", row)
    code = () if isinstance(row, Term) else function.__code__.co_varnames
    teacher = {"teacher": "teacher"} if "teacher" in (*roles, *code) else {}
    on = ("x", "y") if name == "a2aug" else ("x",)
    return configs.term(name, on, **{**teacher, **OPTIONS.get(name, {}), **changes})


def config(names, teacher="tiny_wide", **sections):
    """An experiment with a term for each name, a tiny student and a frozen teacher."""
    terms = {name: term(name) for name in names}
    if not any(section["teacher"] for section in terms.values()):
        terms["kd"] = term("kl", weight=0.0)
    views = {"x": ""} | ({"y": "flip"} if "a2aug" in names else {})
    settings = dict(
        views=views,
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network(teacher),
        },
        terms=terms,
    )
    made = tiny_config(**{**settings, **sections})
    with made.unlocked():
        made.optim = configs.optimizer("adam", 0.02)  # whose step does not depend on a loss's size
    return made
