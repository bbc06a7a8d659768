"""What every loss keeps: at high temperature, in bfloat16, at an equal teacher, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import losses
from kdaug_jax.losses import LOSSES, Loss
from kdaug_jax.runtime import sharding
from tests.losses.made import PLAIN, RELATIONAL, SHARDED, arguments, make

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(RNG.normal(0, 3, (8, 10)), jnp.float32) for _ in range(2))
LABELS = jnp.arange(8, dtype=jnp.int32)
HOT = {
    "kl": lambda s, t: losses.kl(s, t, temperature=20.0),
    "kl, mean over classes": lambda s, t: losses.kl(s, t, temperature=20.0, class_mean=True),
    "lskd": lambda s, t: losses.lskd(s, t, temperature=20.0),
    "dkd": lambda s, t: losses.dkd(s, t, LABELS, temperature=20.0),
    "dist": lambda s, t: losses.dist(s, t, temperature=20.0),
    "mlkd": lambda s, t: losses.mlkd(s, t, temperatures=(20.0,)),
    "cross_entropy_kd": lambda s, t: losses.cross_entropy_kd(s, t, temperature=20.0),
}


@pytest.mark.parametrize("name", HOT)
def test_gradients_in_bfloat16_at_temperature_20_are_those_of_float32(name):
    """T^2 = 400 magnifies what is rounded: only the logits may be, never what follows."""
    gradient = jax.jit(jax.grad(lambda s, t: jnp.mean(HOT[name](s, t))))
    student, teacher = STUDENT.astype(jnp.bfloat16), TEACHER.astype(jnp.bfloat16)
    half = gradient(student, teacher)
    wide = gradient(student.astype(jnp.float32), teacher.astype(jnp.float32))
    assert half.dtype == jnp.bfloat16 and np.isfinite(half.astype(jnp.float32)).all()
    scale = np.abs(wide).max()
    assert scale > 0
    np.testing.assert_allclose(half.astype(jnp.float32), wide, atol=0.01 * scale)


@pytest.mark.parametrize("name", [name for name in HOT if name != "cross_entropy_kd"])
def test_nothing_is_left_to_learn_at_temperature_20(name):
    value, gradient = jax.value_and_grad(lambda s: jnp.sum(HOT[name](s, TEACHER)))(TEACHER)
    np.testing.assert_allclose(value, 0.0, atol=2e-3)  # 400 times what float32 rounds off
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)


def test_a_soft_cross_entropy_has_its_least_value_at_the_teacher():
    gradient = jax.grad(lambda s: jnp.sum(losses.cross_entropy_kd(s, TEACHER)))(TEACHER)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_top_k_sees_nothing_at_an_equal_teacher_with_all_classes():
    value, gradient = jax.value_and_grad(
        lambda s: jnp.sum(losses.topk_kl(s, TEACHER, k=10))
    )(TEACHER)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


def test_the_role_wise_form_sees_neither_rotation_nor_each_rows_scale():
    rotation, _ = np.linalg.qr(RNG.normal(size=(10, 10)))
    scale = jnp.asarray(RNG.uniform(0.5, 4.0, (8, 1)), jnp.float32)
    changed = scale * (STUDENT @ jnp.asarray(rotation, jnp.float32))
    loss = jax.jit(losses.rkd_role)
    np.testing.assert_allclose(loss(changed, TEACHER), loss(STUDENT, TEACHER), rtol=1e-4)


@pytest.mark.parametrize("devices", [2, 4])
def test_values_on_logits_do_not_depend_on_the_number_of_devices(devices):
    def values(student, teacher):
        labels = jax.nn.softmax(teacher)
        return {
            name: jnp.mean(loss(*arguments(name, student, labels if "entropy" in name else teacher)
                                [:2], *([labels] if name.startswith("dkd") else [])))
            for name, loss in PLAIN.items()
        }

    single = jax.jit(values)(STUDENT, TEACHER)
    mesh = sharding.make_mesh(devices, 8)
    many = jax.jit(values)(*sharding.put_batch(mesh, (STUDENT, TEACHER)))
    for name in PLAIN:
        np.testing.assert_allclose(single[name], many[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert set(RELATIONAL) <= set(single)


# Those that test_losses_grouped does not spread; what is left are functions of logits.
OTHERS = [name for name, row in LOSSES.items()
          if not callable(row) and name not in (*SHARDED, "mhgd", "ii_kd")]


def test_values_on_activations_do_not_depend_on_the_number_of_devices():
    made = {name: make(name) for name in OTHERS}
    assert {"at", "nst", "vid", "fsp", "ab", "ft", "ofd", "reviewkd"} <= set(made)

    @jax.jit
    def values(given):
        return {name: made[name][0](*given[name]) for name in made}

    given = {name: parts[1:] for name, parts in made.items()}
    single, spread = values(given), values(sharding.put_batch(sharding.make_mesh(4, 8), given))
    for name in made:
        np.testing.assert_allclose(single[name], spread[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_every_loss_is_spread_somewhere():
    on_logits = {name for name, row in LOSSES.items()
                 if callable(row) or isinstance(row, Loss) and not row.features}
    graphs = {"mhgd", "ii_kd"}  # tests/losses/test_graph.py has their groups
    assert on_logits | set(SHARDED) | set(OTHERS) | graphs == set(LOSSES)
