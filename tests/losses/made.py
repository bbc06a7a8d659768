"""Arguments for losses of every kind, by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import losses, rng
from kdaug_jax.experiment.loss_registry import as_term
from kdaug_jax.losses import LOSSES, Loss
from kdaug_jax.losses.term import Context, TermInput
from kdaug_jax.types import Clock, Info, Outputs, View
from tests.losses_through_step import OPTIONS

INFO = Info(5, (4, 4), np.arange(16, dtype=np.int32) % 5, (0.0,), (1.0,))
ROWS = [name for name, row in LOSSES.items() if not callable(row)]
# Those that compare examples (ii_kd is made of three of them), and one of each other kind.
SHARDED = [
    name for name in ROWS
    if LOSSES[name].min_group > 1 and name != "ii_kd"
    or name in ("fitnet", "kd_svd", "crd", "a2aug")
]
SHAPES = {"f0": (4, 4, 5), "f1": (4, 4, 6), "pooled": (7,), "logits": (5,)}


def arrays(seed, size=8, **changed):
    random = np.random.default_rng(seed)
    return {
        name: random.normal(0, 1, (size, *changed.get(name, shape))).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def chosen_features(name):
    return [tuple(feature.split(":") * 2)[:2] for feature in OPTIONS[name].get("features", ())]


def make(name, size=8):
    """A function of arrays that gives the value of a term on one view, and its arrays."""
    row = LOSSES[name]
    term = as_term(row) if isinstance(row, Loss) else row
    options = {key: value for key, value in OPTIONS.get(name, {}).items() if key != "features"}
    wide = {} if name == "fsp" else {"f0": (4, 4, 6), "f1": (4, 4, 8), "pooled": (9,)}
    student, teacher = arrays(0, size), arrays(1, size, **wide)
    of_student, of_teacher = zip(*chosen_features(name), strict=True) if term.features else ((), ())

    def inputs(student, teacher):
        target = jax.nn.one_hot(jnp.arange(size) % 5, 5)
        view = View(None, target, jnp.arange(size), jnp.arange(size), jnp.ones(size, bool))
        outputs = [Outputs(arrays["logits"], {}) for arrays in (student, teacher)]
        features = (
            tuple(student[feature] for feature in of_student),
            tuple(teacher[feature] for feature in of_teacher),
        )
        count = 2 if name == "a2aug" else 1
        return (TermInput(*outputs, view, *features),) * count

    shapes = jax.eval_shape(inputs, student, teacher)
    filled = {**defaults(row), **options}
    params, state = term.init(jax.random.key(2), shapes, INFO, **filled)

    def value(student, teacher, groups=1, epoch=50):
        zero = jnp.int32(0)
        clock = Clock(jnp.uint32(0), jnp.int32(epoch), zero)
        context = Context(clock, rng.batch_key(clock, "terms/own"), INFO, groups)
        return term.apply(params, state, inputs(student, teacher), context, **filled)[0]

    return value, student, teacher


def defaults(row):
    function = row.function if isinstance(row, Loss) else row.apply
    return dict(function.__kwdefaults__ or {})


# Losses of logits, with their options.
PLAIN = {
    name: partial(
        row.function if isinstance(row, losses.Loss) else row, **{"topk_kl": {"k": 3}}.get(name, {})
    )
    for name, row in losses.LOSSES.items()
    if not isinstance(row, losses.Term) and not getattr(row, "features", "")
}
# With other options than the defaults.
PLAIN |= {
    "renormalized": partial(losses.topk_kl, k=2, renormalize=True),
    "kl_standardized": partial(losses.kl, temperature=2.0, standardize=True),
    "dml_symmetric": partial(losses.dml, symmetric=True),
    "dml_eps": partial(losses.dml, eps=1e-8),
    "mlkd_masked": partial(losses.mlkd, temperatures=(4.0,), masked=True),
    "kl_T20": partial(losses.kl, temperature=20.0),
    "dkd_T20": partial(losses.dkd, temperature=20.0),
    "dist_T20": partial(losses.dist, temperature=20.0),
}
RELATIONAL = ("dist", "dist_T20", "mlkd", "mlkd_masked")


def arguments(name, student, other):
    if not name.startswith("dkd"):
        return student, other
    return student, other, jax.nn.softmax(other.astype(jnp.float32))


def logits(seed, shape=(4, 6)):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, shape), jnp.float32)
