"""Contrastive losses: CRD with memory banks of the whole training split, and in-batch InfoNCE."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import adapters
from kdaug_jax.losses.arrays import (
    flat,
    masked_mean,
    matmul,
    need_number,
    need_same_examples,
    normalized,
    over_groups,
)
from kdaug_jax.losses.lanes import take_along_rows
from kdaug_jax.losses.sampling import (
    Strata,
    contrast_rows,
    has_strata,
    rows_of,
    sampling_state,
    stratum_of,
)
from kdaug_jax.losses.term import Context, RowUpdate, Term, TermInput, merged, written
from kdaug_jax.types import Fraction, Info, Positive, is_known

Params = dict[str, Any]
Inputs = tuple[TermInput, ...]
EPS = 1e-7
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Banks of at most this many times the requested rows are scored as a whole: one matrix product then
# costs less than gathering rows.
DENSE = 8


def embed(params: Params, features: jax.Array) -> jax.Array:
    """Maps features through a dense layer to rows of length 1.

    Args:
      params: see `adapters.linear`.
      features: `[B,...]`.

    Returns:
      `f32[B,D]`.
    """
    return normalized(adapters.linear(params, flat(features)))


def bank_scores(
    bank: jax.Array, query: jax.Array, rows: jax.Array, chunk: int, strata: Strata | None = None
) -> jax.Array:
    """Returns the inner products of each query with its rows of a bank.

    Args:
      bank: `[N,D]`, float32 or bfloat16; no gradient flows to it.
      query: `f32[B,D]`.
      rows: `i32[B,K]`, 0..N-1.
      chunk: rows per query that are gathered at once, where gathering is cheaper than the product
        with the whole bank; bounds the memory to B chunk D numbers.
      strata: of all rows but the first of each query, if these were drawn from strata. A TPU then
        gathers no elements of the product with the whole bank.

    Returns:
      `f32[B,K]`.
    """
    bank = jax.lax.stop_gradient(bank)
    if bank.shape[0] <= DENSE * rows.shape[1]:
        if strata is None:
            return _by_elements(query, bank, rows, strata)
        return _dense_scores(query, bank, rows, strata)
    count = rows.shape[1]
    padded = jnp.pad(rows, ((0, 0), (0, -count % chunk)))
    parts = jnp.moveaxis(padded.reshape(rows.shape[0], -1, chunk), 1, 0)

    @jax.checkpoint  # gather again in the backward pass instead of storing the rows
    def score(query, part):
        gathered = bank[part].astype(jnp.float32)
        return matmul(gathered, query[:, :, None])[..., 0]

    _, scores = jax.lax.scan(lambda carry, part: (carry, score(query, part)), None, parts)
    return jnp.moveaxis(scores, 0, 1).reshape(rows.shape[0], -1)[:, :count]


def _by_elements(query, bank, rows, strata):
    """Takes elements of the product with the whole bank: the form for CPUs and GPUs."""
    del strata
    scores = matmul(query, bank.astype(jnp.float32).T)
    return jnp.take_along_axis(scores, rows, axis=1)


def _by_lanes(query, bank, rows, strata, *, interpret: bool = False):
    """Takes elements of the product with the bank sorted by class: the form for TPUs."""
    positive = matmul(query[:, None, :], bank[rows[:, 0]].astype(jnp.float32)[:, :, None])
    scores = matmul(query, bank[strata.order].astype(jnp.float32).T)
    negative = _take_strata(interpret, scores, strata)
    return jnp.concatenate([positive[:, 0], negative], axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take_strata(interpret: bool, scores: jax.Array, strata: Strata) -> jax.Array:
    return take_along_rows(scores, strata.place, interpret=interpret)


def _take_strata_forward(interpret, scores, strata):
    return _take_strata(interpret, scores, strata), strata


def _take_strata_backward(interpret, strata, cotangent):
    """Each row asks its stratum whether it was drawn: a gather where the transpose scatters."""
    stratum, other_class = stratum_of(strata)
    drawn = take_along_rows(strata.place, stratum, interpret=interpret)
    given = take_along_rows(cotangent, stratum, interpret=interpret)
    position = jnp.arange(stratum.shape[1], dtype=jnp.int32)[None, :]
    return jnp.where(other_class & (drawn == position), given, 0.0), None


_take_strata.defvjp(_take_strata_forward, _take_strata_backward)


@jax.custom_vjp
def _dense_scores(query, bank, rows, strata):
    arguments = query, bank, rows, strata
    return jax.lax.platform_dependent(*arguments, tpu=_by_lanes, default=_by_elements)


def _dense_scores_forward(*arguments):
    return _dense_scores(*arguments), arguments


def _dense_scores_backward(arguments, cotangent):
    # Of each platform the gradient apart: the two forms keep different things for it.
    def transposed(form):
        def by_query(query, *others_and_cotangent):
            *others, cotangent = others_and_cotangent
            return jax.vjp(lambda query: form(query, *others), query)[1](cotangent)[0]

        return by_query

    by_query = jax.lax.platform_dependent(
        *arguments, cotangent, tpu=transposed(_by_lanes), default=transposed(_by_elements)
    )
    return by_query, None, None, None


_dense_scores.defvjp(_dense_scores_forward, _dense_scores_backward)


def nce(score: jax.Array, z: jax.Array, size: int, temperature: Positive):
    """Noise-contrastive loss of the first score of a row, the positive, against the others.

    Args:
      score: `f32[B,1+K]`, inner products, the positive one first.
      z: `f32[]`, the normaliser, or below 0 to set it from these scores.
      size: N, rows of the bank.
      temperature: `f32[]`, more than 0.

    Returns:
      `f32[B]` and the normaliser, without a gradient.
    """
    out = jnp.exp(score / jnp.asarray(temperature, jnp.float32))
    z = jax.lax.stop_gradient(jnp.where(z < 0, jnp.mean(out) * size, z))
    p, noise = out / z, jnp.float32((score.shape[1] - 1) / size)
    positive = jnp.log(p[:, 0] / (p[:, 0] + noise + EPS))
    negative = jnp.sum(jnp.log(noise / (p[:, 1:] + noise + EPS)), axis=1)
    return -(positive + negative), z


def crd_loss(
    state: Params, student: jax.Array, teacher: jax.Array, contrast: jax.Array,
    temperature: Positive, chunk: int, strata: Strata | None = None,
) -> tuple[jax.Array, jax.Array]:
    """CRD loss: the student's embeddings against the teacher's bank, and the reverse.

    Args:
      state: "student" and "teacher" banks `[N,D]`, "z" `f32[2]`.
      student: `f32[B,D]`, of length 1.
      teacher: `f32[B,D]`, of length 1.
      contrast: `i32[B,1+K]`, rows, the positive first.
      temperature: `f32[]`, more than 0.
      chunk: see `bank_scores`.
      strata: see `bank_scores`.

    Returns:
      `f32[B]`, the sum of both, and the normalisers `f32[2]` for student and teacher.
    """
    size = state["student"].shape[0]
    of_student = bank_scores(state["teacher"], student, contrast, chunk, strata)
    of_teacher = bank_scores(state["student"], teacher, contrast, chunk, strata)
    student_loss, z_student = nce(of_student, state["z"][0], size, temperature)
    teacher_loss, z_teacher = nce(of_teacher, state["z"][1], size, temperature)
    return student_loss + teacher_loss, jnp.stack([z_student, z_teacher])


def moved(
    bank: jax.Array, rows: jax.Array, embedded: jax.Array, momentum: Fraction
) -> RowUpdate:
    """Moves rows of a bank towards embeddings: normalised (m old + (1 - m) new).

    Args:
      bank: `[N,D]`.
      rows: `i32[B]`; those out of range are skipped. A row given twice takes one of both values.
      embedded: `f32[B,D]`, of length 1; no gradient flows to them.
      momentum: `f32[]`, m, 0..1.

    Returns:
      The rows, which `term.written` writes.
    """
    momentum = jnp.asarray(momentum, jnp.float32)
    old = bank.at[rows].get(mode="fill", fill_value=0).astype(jnp.float32)
    new = normalized(momentum * old + (1.0 - momentum) * jax.lax.stop_gradient(embedded))
    return RowUpdate(bank, rows, new.astype(bank.dtype))


def _embeddings_init(key, inputs: Inputs, dim: int) -> Params:
    item = inputs[0]
    count = len(item.chosen_student)
    if count != 1:
        raise ArgumentError(f"works on one feature and got {count}", "name one")
    if dim < 1:
        raise ArgumentError(f"got dim={dim}", "must be at least 1")
    keys = jax.random.split(key)
    return {
        network: adapters.linear_init(layer_key, features.size // features.shape[0], dim)
        for network, layer_key, features in zip(
            ("student", "teacher"), keys, (*item.chosen_student, *item.chosen_teacher),
            strict=True,
        )
    }


def _embeddings(params: Params, item: TermInput) -> tuple[jax.Array, jax.Array]:
    return (
        embed(params["student"], item.chosen_student[0]),
        embed(params["teacher"], item.chosen_teacher[0]),
    )


def _crd_init(key, inputs: Inputs, info: Info, *, dim, negatives, dtype, chunk, **options):
    if dtype not in DTYPES:
        raise ArgumentError(f"got dtype={dtype!r}", "must be 'float32' or 'bfloat16'")
    if chunk < 1:
        raise ArgumentError(f"got chunk={chunk}", "must be at least 1")
    layers_key, student_key, teacher_key = jax.random.split(key, 3)
    params = _embeddings_init(layers_key, inputs, dim)
    shape, bound = (len(info.labels), dim), (3.0 / dim) ** 0.5
    banks = {
        network: adapters.uniform(bank_key, shape, bound).astype(DTYPES[dtype])
        for network, bank_key in (("student", student_key), ("teacher", teacher_key))
    }
    return params, {**banks, "z": jnp.full(2, -1.0), **sampling_state(info, negatives)}


def _crd(
    params, state, inputs: Inputs, context: Context, *,
    dim: int = 128, negatives: int = 16384, temperature: Positive = 0.07,
    momentum: Fraction = 0.5, positive: str = "exact", dtype: str = "float32", chunk: int = 1024,
):
    """Contrastive representation distillation on one feature, usually the pooled vector.

    Each example's embedding by the student is contrasted with the teacher's embeddings of
    `negatives` examples of other classes, as of the last visit to each, and the reverse. Both dense
    layers are trained, so that there are two banks. Their normalisers are set by the first batch
    and kept. The banks are part of the state and of checkpoints. Views must hold unmixed, unique
    examples, because each example has one row. The weight is 0.8, beside KL with weight 0 or 1.

    Args:
      params: dense layers of student and teacher.
      state: banks, normalisers, and tables of the classes from which negatives are drawn.
      inputs: one for each view.
      context: its key draws each example's negatives, on the device.
      dim: width of the embeddings.
      negatives: K, number of negatives per example; without repetition where there are as many.
      temperature: of the inner products.
      momentum: share of the old row in the update of a bank.
      positive: "exact" for the example itself, "relax" for a random one of its class.
      dtype: of the banks, "float32" or "bfloat16".
      chunk: rows that are gathered at once from a bank, see `bank_scores`.

    Returns:
      Value, state, no metrics.

    Source: Tian et al. 2020, "Contrastive Representation Distillation", with the loss of its public
    code.
    """
    value = jnp.zeros((), jnp.float32)
    banks: dict[str, RowUpdate] = {}
    for number, item in enumerate(inputs):
        state = written({**state, **banks})  # rows of the previous views
        student, teacher = _embeddings(params, item)
        rows = rows_of(state, item.view.index)
        key = jax.random.fold_in(context.key, number)
        contrast, strata = contrast_rows(
            state, key, rows, item.view.index, negatives, positive
        )
        if not has_strata(context.info, negatives):
            strata = None
        losses, z = crd_loss(state, student, teacher, contrast, temperature, chunk, strata)
        value += masked_mean(losses, item.view.mask)
        updated = jnp.where(item.view.mask, rows, state["student"].shape[0])
        changed = {
            "student": moved(state["student"], updated, student, momentum),
            "teacher": moved(state["teacher"], updated, teacher, momentum),
        }
        banks = {
            name: merged(banks[name], update) if banks else update
            for name, update in changed.items()
        }
        state = {**state, "z": z}
    return value, {**state, **banks}, {}


def info_nce(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, *,
    temperature: Positive = 0.07, symmetric: bool = False, ignore_same_class: bool = False,
) -> jax.Array:
    """InfoNCE: cross entropy of matching each student's embedding with its teacher's in the group.

    Args:
      student: `f32[B,D]`, of length 1.
      teacher: `f32[B,D]`, of length 1.
      labels: `i32[B]`, only used by `ignore_same_class`.
      temperature: `f32[]`, more than 0.
      symmetric: average with the loss of matching each teacher's embedding with its student's.
      ignore_same_class: exclude other examples of the same class from the negatives.

    Returns:
      `f32[B]`.

    Raises:
      ArgumentError: the embeddings are of other examples, or known not to have the length 1, or the
        labels are no class numbers.

    Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding",
    eq. 4.
    """
    need_same_examples(student, teacher)
    need_number("temperature", temperature, 0.0, over=True)
    for whose, rows in (("student", student), ("teacher", teacher)):
        _need_unit(whose, rows)
    if ignore_same_class and labels.shape != student.shape[:1]:
        raise ArgumentError(
            f"got labels {list(labels.shape)}", f"must be class numbers {[len(student)]}"
        )
    score = matmul(student, teacher.T) / jnp.asarray(temperature, jnp.float32)
    if ignore_same_class:
        same = (labels[:, None] == labels[None, :]) & ~jnp.eye(labels.shape[0], dtype=bool)
        score = jnp.where(same, -1e30, score)
    forward = -jnp.diagonal(jax.nn.log_softmax(score, axis=1))
    if not symmetric:
        return forward
    return 0.5 * (forward - jnp.diagonal(jax.nn.log_softmax(score, axis=0)))


def _need_unit(whose: str, rows: jax.Array) -> None:
    if not is_known(rows):
        return
    length = np.linalg.norm(np.asarray(rows, np.float64), axis=-1)
    if ((np.abs(length - 1.0) > 1e-2) & (length > 0.0)).any():
        raise ArgumentError(
            f"the {whose}'s embeddings have lengths {length.min():.3g} to {length.max():.3g}",
            "divide them by their lengths",
        )


def _info_nce_init(key, inputs: Inputs, info, *, dim, **options):
    return _embeddings_init(key, inputs, dim), {}


def _info_nce(
    params, state, inputs: Inputs, context: Context, *,
    dim: int = 128, temperature: Positive = 0.07, symmetric: bool = False,
    ignore_same_class: bool = False,
):
    """In-batch contrastive distillation on one feature, without memory banks.

    Args:
      params: dense layers of student and teacher, both trained.
      state: empty.
      inputs: one for each view.
      context: negatives come from the same group.
      dim: width of the embeddings.
      temperature: of the inner products.
      symmetric: see `info_nce`.
      ignore_same_class: see `info_nce`.

    Returns:
      Value, state, no metrics.
    """
    def loss(student, teacher, labels):
        return jnp.mean(info_nce(
            student, teacher, labels, temperature=temperature, symmetric=symmetric,
            ignore_same_class=ignore_same_class,
        ))

    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        pair = _embeddings(params, item)
        value += over_groups(loss, context.groups, *pair, jnp.asarray(item.view.label))
    return value, state, {}


crd = Term(_crd_init, _crd, features=True, unique_examples=True)
info_nce_term = Term(_info_nce_init, _info_nce, features=True, min_group=2)
