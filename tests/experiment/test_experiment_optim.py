"""The optimiser against PyTorch's update rule, written out in NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import optim
from kdaug_jax.experiment.combine import clip_per_variable
from kdaug_jax.types import Info

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
INFO = Info(4, (8, 8), np.zeros(16, np.int32), (0.0,), (1.0,))
PARAMS = {
    "student": {
        "conv": {"kernel": jnp.arange(4.0)},
        "bn": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "fc": {"kernel": jnp.ones(2), "bias": jnp.full(2, 2.0)},
    },
    "terms": {"kd": {"mu": jnp.ones(3), "kernel": jnp.ones(3)}},
}


def updates(grads, steps=1, no_decay=None, epoch=0, name="sgd", **fields):
    section = configs.optimizer(name, 0.1, **fields)
    spec = optim.build_optimizer(section, 10, 100, INFO)
    values = {path: jnp.asarray(value) for path, value in spec.hparams.items()}
    state, params = None, PARAMS
    for step in range(steps):
        chain = optim.transformation(
            spec, values, jnp.int32(step), jnp.int32(epoch), no_decay or {}
        )
        state = chain.init(params) if state is None else state
        change, state = jax.jit(chain.update)(grads, state, params)
        params = jax.tree.map(jnp.add, params, change)
    return params


def flat(tree):
    return {jax.tree_util.keystr(p): np.asarray(v) for p, v in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    rate, momentum, decay = 0.1, 0.9, 0.01
    grads = jax.tree.map(lambda p: 0.5 * jnp.ones_like(p), PARAMS)
    got = updates({"all": grads}, 3, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    for path, start in flat(PARAMS).items():
        value, velocity = start.copy(), np.zeros_like(start)
        for _ in range(3):
            gradient = 0.5 + decay * value
            velocity = momentum * velocity + gradient
            value = value - rate * (gradient + momentum * velocity if nesterov else velocity)
        np.testing.assert_allclose(flat(got)[path], value, rtol=1e-6)


@pytest.mark.parametrize(
    "scope, decayed",
    [
        ("all", {"conv.kernel", "bn.scale", "bn.bias", "fc.kernel", "fc.bias", "kd.kernel"}),
        ("kernels", {"conv.kernel", "fc.kernel", "kd.kernel"}),
        ("not_batchnorm", {"conv.kernel", "fc.kernel", "fc.bias", "kd.kernel"}),
    ],
)
def test_what_decays(scope, decayed):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    got = updates(
        {"all": zero}, no_decay={"kd": ("mu",)}, decay=scope, weight_decay=0.5, momentum=0.0
    )
    moved = set()
    for path, value in flat(got).items():
        if not np.array_equal(value, flat(PARAMS)[path]):
            moved.add(".".join(path.replace("']['", ".").strip("[']").split(".")[-2:]))
    assert moved == decayed


def test_clipping_comes_after_decay():
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    got = updates({"all": grads}, clip_norm=0.5, weight_decay=1.0, momentum=0.0)
    change = jax.tree.map(lambda a, b: (a - b) / 0.1, PARAMS, got)
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(change)))
    np.testing.assert_allclose(norm, 0.5, rtol=1e-5)


def test_clip_per_variable_against_golden():
    golden = np.load(GOLDEN / "kd_grad_clip.npz")
    task, distill = (
        {"student": {"w": jnp.asarray(golden[name])}, "terms": {"own": jnp.ones(2)}}
        for name in ("grad_task", "grad_kd")
    )
    for epoch, expected in zip(golden["epoch"], golden["combined_f64"], strict=True):
        combine = clip_per_variable(jnp.int32(epoch), jnp.float32(0.0))
        got = combine({"task": task, "distill": distill})
        np.testing.assert_allclose(got["student"]["w"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got["terms"]["own"], 2.0)


@pytest.mark.parametrize("momentum, delta", [(0.9, 0.075), (0.5, 0.0)])
def test_dot_gives_each_group_a_momentum_of_its_own(momentum, delta):
    rate, decay = 0.1, 0.01
    grads = {
        "task": jax.tree.map(lambda p: 0.5 * jnp.ones_like(p), PARAMS),
        "distill": jax.tree.map(lambda p: -0.2 * jnp.ones_like(p), PARAMS),
    }
    got = updates(grads, 3, momentum=momentum, weight_decay=decay, combine=f"dot({delta})")
    for path, start in flat(PARAMS).items():
        value, task, distill = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for _ in range(3):
            task = (momentum - delta) * task + 0.5 + decay * value
            distill = (momentum + delta) * distill - 0.2
            value = value - rate * (task + distill)
        np.testing.assert_allclose(flat(got)[path], value, rtol=1e-5)
    if not delta:
        together = {"all": jax.tree.map(jnp.add, *grads.values())}
        plain = updates(together, 3, momentum=momentum, weight_decay=decay)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, plain)


@pytest.mark.parametrize("combine", ["sum()", "clip_per_variable()", "dot(0.05)"])
def test_the_norm_that_is_logged_is_that_of_the_gradient_that_is_applied(combine):
    grads = {
        "task": jax.tree.map(lambda p: 0.5 * jnp.ones_like(p), PARAMS),
        "distill": jax.tree.map(lambda p: 0.7 * jnp.ones_like(p), PARAMS),
    }
    if combine == "sum()":
        grads = {"all": jax.tree.map(jnp.add, *grads.values())}
    spec = optim.build_optimizer(configs.optimizer("sgd", 0.1, combine=combine), 10, 100, INFO)
    values = {path: jnp.asarray(value) for path, value in spec.hparams.items()}
    norms = optim.gradient_norms(spec, values, jnp.int32(7), grads)
    # The first step of plain SGD is the rate times the gradient.
    moved = jax.tree.map(lambda a, b: (a - b) / 0.1, PARAMS, updates(grads, 1, epoch=7,
                                                                     combine=combine))
    applied = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(moved)))
    np.testing.assert_allclose(norms["grad_norm"], applied, rtol=1e-5)
    groups = {name: value for name, value in norms.items() if name != "grad_norm"}
    expected = {} if combine == "sum()" else {
        f"grad_norm_{name}": np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(tree)))
        for name, tree in grads.items()
    }
    assert groups.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(groups[name], value, rtol=1e-5)


@pytest.mark.parametrize("fields", [dict(name="adam"), dict(name="sgd", nesterov=True)])
def test_dot_is_for_plain_sgd(fields):
    section = configs.optimizer(schedule=0.1, combine="dot()", **fields)
    with pytest.raises(ConfigError) as caught:
        optim.build_optimizer(section, 10, 100, INFO)
    assert "optim.combine: 'dot' splits the momentum of plain SGD; use name='sgd'" in str(
        caught.value
    )


def trajectory(name, start, grads, **fields):
    """Our parameters after each gradient, for one kernel."""
    spec = optim.build_optimizer(configs.optimizer(name, 0.1, **fields), 10, 100, INFO)
    values = {path: jnp.asarray(value) for path, value in spec.hparams.items()}
    params = {"student": {"kernel": jnp.asarray(start, jnp.float32)}, "terms": {}}
    state, path = None, []
    for step, grad in enumerate(grads):
        chain = optim.transformation(spec, values, jnp.int32(step), jnp.int32(0), {})
        state = chain.init(params) if state is None else state
        ours = {"all": {"student": {"kernel": jnp.asarray(grad, jnp.float32)}, "terms": {}}}
        change, state = chain.update(ours, state, params)
        params = jax.tree.map(jnp.add, params, change)
        path.append(np.asarray(params["student"]["kernel"]))
    return path


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=5), rng.normal(size=(4, 5))


@pytest.mark.parametrize(
    "name, fields, theirs, settings",
    [
        ("sgd", dict(momentum=0.8, nesterov=True), "SGD", dict(momentum=0.8, nesterov=True)),
        ("adam", dict(b1=0.8), "Adam", dict(betas=(0.8, 0.999))),
        ("adamw", dict(eps=1e-5), "AdamW", dict(eps=1e-5)),
    ],
)
def test_optimisers_follow_torch(torch, problem, name, fields, theirs, settings):
    start, grads = problem
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = getattr(torch.optim, theirs)([weight], lr=0.1, weight_decay=0.02, **settings)
    path = trajectory(name, *problem, weight_decay=0.02, **fields)
    for grad, ours in zip(grads, path, strict=True):
        weight.grad = torch.tensor(grad)
        optimizer.step()
        np.testing.assert_allclose(ours, weight.detach().numpy(), rtol=1e-4)


def test_rmsprop_is_tensorflows(problem):
    value, grads = problem
    square, momentum = np.ones(5), np.zeros(5)
    path = trajectory("rmsprop", *problem, weight_decay=0.02)
    for grad, ours in zip(grads, path, strict=True):
        grad = grad + 0.02 * value
        square = 0.9 * square + 0.1 * grad**2
        momentum = 0.9 * momentum + 0.1 * grad / np.sqrt(square + 1e-3)
        value = value - momentum
        np.testing.assert_allclose(ours, value, rtol=1e-5)


def test_lamb_scales_each_layer_to_its_weights(problem):
    value, grads = problem
    first, second = np.zeros(5), np.zeros(5)
    path = trajectory("lamb", *problem, weight_decay=0.02)
    for number, (grad, ours) in enumerate(zip(grads, path, strict=True), start=1):
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        step = first / (1 - 0.9**number)
        step = step / (np.sqrt(second / (1 - 0.999**number)) + 1e-6) + 0.02 * value
        value = value - 0.1 * step * np.linalg.norm(value) / np.linalg.norm(step)
        np.testing.assert_allclose(ours, value, rtol=1e-4)


def test_an_optimiser_takes_its_own_options_only():
    with pytest.raises(ConfigError, match="optim: has no argument 'momentum'"):
        optim.build_optimizer(configs.optimizer("adamw", 0.1, momentum=0.9), 10, 100, INFO)
