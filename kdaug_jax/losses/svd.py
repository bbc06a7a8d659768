"""KD-SVD: leading right singular vectors of feature maps, and their flow from feature to feature.

A map `[H,W,C]` is a matrix with a row for each pixel. Its singular vectors are computed from the
eigenvectors of the smaller Gram matrix, with a gradient that omits pairs of (nearly) equal
eigenvalues, whose eigenvectors are not unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import adapters
from kdaug_jax.losses.arrays import masked_mean, matmul, need_maps, normalized
from kdaug_jax.losses.term import Context, Term, TermInput
from kdaug_jax.per_device import on_each_device

MODES = ("svd", "project")
# The alignment chooses among this many more vectors of the student than the teacher has.
SPARE = 3


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def leading_eigenvectors(gram: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns the largest eigenvalues of symmetric matrices and their eigenvectors.

    The gradient omits pairs whose eigenvalues differ by at most 1e-6 of the largest.

    Args:
      gram: `f32[...,N,N]`, symmetric.
      count: K, 1..N.

    Returns:
      `f32[...,K]`, descending, and `f32[...,N,K]`, of length 1 and either sign.
    """
    return _eigenvectors(gram, count)[0]


@jax.custom_batching.sequential_vmap
def _decompose_one(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tuple(jnp.linalg.eigh(gram, symmetrize_input=False))


def _decompose(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns eigenvalues, ascending, and eigenvectors of `f32[...,N,N]`.

    On CPUs one matrix after another: jaxlib (0.10) splits a batch of matrices among the threads
    that also run the program, which can deadlock.
    """
    def sequential(gram):
        flat = gram.reshape(-1, *gram.shape[-2:])
        values, vectors = jax.vmap(_decompose_one)(flat)
        return values.reshape(gram.shape[:-1]), vectors.reshape(gram.shape)

    def batched(gram):
        return tuple(jnp.linalg.eigh(gram, symmetrize_input=False))

    return jax.lax.platform_dependent(gram, cpu=sequential, default=batched)


def _eigenvectors(gram: jax.Array, count: int):
    # XLA does not divide a decomposition: each device would be sent all matrices of the batch.
    decompose = _decompose if gram.ndim < 3 else on_each_device(_decompose, len(gram), alone=False)
    values, vectors = decompose(gram)
    values, vectors = values[..., ::-1], vectors[..., ::-1]
    return (values[..., :count], vectors[..., :count]), (values, vectors)


def _eigenvectors_backward(count: int, residual, cotangents):
    values, vectors = residual
    by_values, by_vectors = cotangents
    leading = vectors[..., :count]
    # dv_j = sum_i v_i (v_i' dG v_j) / (l_j - l_i)
    gap = values[..., None, :count] - values[..., :, None]
    apart = jnp.abs(gap) > 1e-6 * jnp.abs(values[..., :1, None])
    share = jnp.where(apart, 1.0 / jnp.where(apart, gap, 1.0), 0.0)
    inner = matmul(jnp.swapaxes(vectors, -1, -2), by_vectors) * share
    by_gram = matmul(
        matmul(vectors, inner) + leading * by_values[..., None, :],
        jnp.swapaxes(leading, -1, -2),
    )
    return (0.5 * (by_gram + jnp.swapaxes(by_gram, -1, -2)),)


leading_eigenvectors.defvjp(_eigenvectors, _eigenvectors_backward)


def pixel_rows(maps: jax.Array) -> jax.Array:
    """Returns maps `[B,H,W,C]` as matrices `f32[B,H*W,C]`."""
    need_maps(maps)
    return maps.reshape(maps.shape[0], -1, maps.shape[-1]).astype(jnp.float32)


def right_singular(maps: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns the leading right singular vectors and values of maps.

    The sign of a singular vector is arbitrary, and the flow from feature to feature depends on it;
    here the sum of each vector is at least 0, as for maps after a ReLU.

    Args:
      maps: `[B,H,W,C]`.
      count: K, 1..min(H W, C).

    Returns:
      `f32[B,C,K]` of length 1 and `f32[B,K]`, descending.

    Raises:
      ArgumentError: not maps, or K is out of range.
    """
    _, vectors, values = _singular(pixel_rows(maps), count)
    return vectors, values


def _singular(rows: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns left `f32[B,P,K]` and right `f32[B,C,K]` singular vectors, and values `f32[B,K]`."""
    _, pixels, channels = rows.shape
    if not 1 <= count <= min(pixels, channels):
        raise ArgumentError(
            f"got k={count} singular vectors of {pixels} pixels with {channels} channels",
            f"must be 1..{min(pixels, channels)}; choose another feature or a smaller k",
        )
    transposed = jnp.swapaxes(rows, -1, -2)
    if channels <= pixels:
        square, right = leading_eigenvectors(matmul(transposed, rows), count)
        left = normalized(matmul(rows, right), axis=-2)
    else:
        square, left = leading_eigenvectors(matmul(rows, transposed), count)
        right = normalized(matmul(transposed, left), axis=-2)
    sign = jnp.where(jnp.sum(right, axis=-2, keepdims=True) < 0, -1.0, 1.0)
    sign = jax.lax.stop_gradient(sign)
    return left * sign, right * sign, jnp.sqrt(jnp.maximum(square, 1e-30))


def align(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns the student's vector nearest to each of the teacher's, with the same sign.

    Args:
      student: `f32[B,C,N]`, of length 1.
      teacher: `f32[B,C,K]`, of length 1.

    Returns:
      `f32[B,C,K]`, invariant to signs and order of the student's vectors.
    """
    cosine = jax.lax.stop_gradient(matmul(jnp.swapaxes(student, -1, -2), teacher))
    nearest = jnp.argmax(jnp.abs(cosine), axis=-2)
    chosen = jax.nn.one_hot(nearest, student.shape[-1], axis=-2, dtype=jnp.float32)
    return matmul(student, chosen * jnp.where(cosine < 0, -1.0, 1.0))


def aligned_vectors(
    student: jax.Array, teacher: jax.Array, k: int, mode: str = "svd"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the student's and the teacher's leading vectors of one feature, aligned.

    Args:
      student: `[B,H,W,C]`.
      teacher: `[B,H',W',C]`.
      k: number of the teacher's vectors.
      mode: "svd", singular vectors of the student, nearest of k + 3; or "project", the student's
        rows weighted by the teacher's left singular vectors, which needs equal H and W and no
        decomposition of the student.

    Returns:
      `f32[B,C,k]`, `f32[B,C,k]` without a gradient, and the teacher's values `f32[B,k]`.

    Raises:
      ArgumentError: not maps, unequal channels, or in mode "project" unequal H and W.
    """
    need_maps(student, teacher)
    if student.shape[-1] != teacher.shape[-1]:
        raise ArgumentError(
            f"needs equal widths, the student has {student.shape[-1]} channels and the teacher "
            f"{teacher.shape[-1]}", "choose other features, or set adapter=True",
        )
    left, right, values = jax.lax.stop_gradient(_singular(pixel_rows(teacher), k))
    if mode == "svd":
        most = min(k + SPARE, student.shape[1] * student.shape[2], student.shape[-1])
        return align(right_singular(student, most)[0], right), right, values
    rows = pixel_rows(student)
    if rows.shape[1] != left.shape[1]:
        raise ArgumentError(
            "mode 'project' needs maps of equal size, the student has "
            "{1}×{0} and the teacher {3}×{2}".format(*student.shape[1:3], *teacher.shape[1:3]),
            "choose other features, or mode='svd'",
        )
    return normalized(matmul(jnp.swapaxes(rows, -1, -2), left), axis=-2), right, values


def flow_distance(
    student: jax.Array, before: jax.Array, teacher: jax.Array, teacher_before: jax.Array
) -> jax.Array:
    """Squared differences of exp(-(v_d - u_d')^2 / 8) between vectors of neighbouring features.

    Args:
      student: `f32[B,D,K]`, the student's vectors v of a feature.
      before: `f32[B,D',K]`, its vectors u of the feature before.
      teacher: `f32[B,D,K]`.
      teacher_before: `f32[B,D',K]`.

    Returns:
      `f32[B]`, sums over d, d' and K.

    Source: Lee et al. 2018, "Self-supervised Knowledge Distillation Using Singular Value
    Decomposition".
    """

    def flow(v, u):  # minus 1, which cancels in the difference: near 1 float32 has few digits
        return jnp.expm1(-jnp.square(v[:, :, None, :] - u[:, None, :, :]) / 8.0)

    difference = flow(student, before) - jax.lax.stop_gradient(flow(teacher, teacher_before))
    return jnp.sum(jnp.square(difference), axis=(1, 2, 3))


def kd_svd_parts(
    student: Sequence[jax.Array], teacher: Sequence[jax.Array], k: int = 1, mode: str = "svd"
) -> list[jax.Array]:
    """Returns `flow_distance` for each pair of neighbouring features.

    Both networks' vectors are multiplied by the teacher's singular values, scaled to length 1.

    Args:
      student: at least two `[B,H,W,C]`.
      teacher: as many `[B,H',W',C]`.
      k: number of singular vectors of the teacher.
      mode: see `aligned_vectors`.

    Returns:
      A list of `f32[B]`.

    Raises:
      ArgumentError: an unknown mode, less than 2 features, or features that do not fit.
    """
    if mode not in MODES:
        raise ArgumentError(f"got mode={mode!r}", "must be 'svd' or 'project'")
    if len(student) < 2:
        raise ArgumentError(
            f"compares neighbouring features and got {len(student)}", "name at least 2"
        )
    parts, before = [], None
    for s, t in zip(student, teacher, strict=True):
        of_student, of_teacher, values = aligned_vectors(s, t, k, mode)
        weight = normalized(values)[:, None, :]
        vectors = of_student * weight, of_teacher * weight
        if before is not None:
            parts.append(flow_distance(vectors[0], before[0], vectors[1], before[1]))
        before = vectors
    return parts


def adapters_init(key: jax.Array, item: TermInput, adapter: bool) -> adapters.Params:
    """Initialises 1×1 convolutions for features of unequal widths, by position of the feature.

    Args:
      key: for the convolutions.
      item: only shapes are used.
      adapter: whether features of unequal widths get one.

    Returns:
      `{position: parameters}`.
    """
    need_maps(*item.chosen_student, *item.chosen_teacher)
    pairs = zip(item.chosen_student, item.chosen_teacher, strict=True)
    widths = ((s.shape[-1], t.shape[-1]) for s, t in pairs)
    return {
        str(i): adapters.widen_init(jax.random.fold_in(key, i), width, target)
        for i, (width, target) in enumerate(widths) if adapter and width != target
    }


def adapt(params: adapters.Params, maps: Sequence[jax.Array], groups: int) -> list[jax.Array]:
    """Applies the adapters to those of the student's maps that have one."""
    return [
        adapters.widen(params[str(i)], features, groups) if str(i) in params else features
        for i, features in enumerate(maps)
    ]


def reduced(
    values: jax.Array, mask: jax.Array, groups: int, reduction: str
) -> jax.Array:
    """Averages values over examples, or sums them within groups and averages over groups.

    Args:
      values: `f32[B]`.
      mask: `bool[B]`.
      groups: number of groups in the batch.
      reduction: "mean" or "sum".

    Returns:
      `f32[]`.

    Raises:
      ArgumentError: another reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"got reduction={reduction!r}", "must be 'mean' or 'sum'")
    mean = masked_mean(values, mask)
    return mean * (values.shape[0] // groups) if reduction == "sum" else mean


def _init(key, inputs: tuple[TermInput, ...], info, *, adapter, **options):
    return adapters_init(key, inputs[0], adapter), {}


def _apply(
    params, state, inputs: tuple[TermInput, ...], context: Context, *,
    k: int = 1, mode: str = "svd", adapter: bool = True, reduction: str = "mean",
):
    """KD-SVD over the chosen features: sum of `kd_svd_parts` over features.

    RepDistiller averages over examples; the original and paper 003's code sum over the batch, so
    that the clipped gradient of the latter is not negligible beside the task's. Paper 003 has
    K = 1; with mode "project" the author's later code has K = 4.

    Args:
      params: adapters.
      state: empty.
      inputs: one for each view.
      context: its groups are those of the adapters' BatchNorm.
      k: number of singular vectors of the teacher.
      mode: "svd" or "project", see `aligned_vectors`.
      adapter: map features of other widths to the teacher's by a 1×1 convolution and BatchNorm.
      reduction: "mean" or "sum" over the examples of a group.

    Returns:
      Value, state, no metrics.

    Raises:
      ArgumentError: another reduction.

    Source: Lee et al. 2018, "Self-supervised Knowledge Distillation Using Singular Value
    Decomposition"; Fu et al. 2020 (role-wise augmentation).
    """
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        maps = adapt(params, item.chosen_student, context.groups)
        parts = sum(kd_svd_parts(maps, item.chosen_teacher, k, mode))
        value += reduced(parts, item.view.mask, context.groups, reduction)
    return value, state, {}


kd_svd = Term(_init, _apply, features=True)
