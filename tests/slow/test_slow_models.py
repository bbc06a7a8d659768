"""Networks whose tracing or compilation takes seconds: all golden vectors, gradients, remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from kdaug_jax import models
from kdaug_jax.models.families.efficientnet import EfficientNet, _Scale
from kdaug_jax.models.layers import Kit, Mode
from tests import golden_models as golden
from tests.models.test_models_bits import NETWORKS as WITH_BITS
from tests.models.test_models_forward import KINDS
from tests.models.tracing import (
    LONG,
    STATE_DICTS,
    assert_is_published,
    assert_weights_fit,
    row_of,
)

pytestmark = pytest.mark.slow
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("name", sorted(LONG))
def test_network_is_the_published_one(name):
    assert_is_published(name)


@pytest.mark.parametrize("name", [name for name in STATE_DICTS if row_of(name) in LONG])
def test_weights_of_the_original_fit(name):
    assert_weights_fit(name)


def test_all_golden_files_agree():
    count = len(list(golden.STORED.glob("*.npz")))
    assert golden.check(golden.STORED) == (count, 0)


@pytest.mark.parametrize("path", sorted(golden.STORED.glob("*.npz")), ids=lambda path: path.stem)
def test_folded_networks_agree_with_golden_logits(path):
    content, state = golden.read(path)
    name = golden.network_of(path.stem)

    def fold(model, variables):
        return models.fold_batchnorm(model, variables, size=content["input"].shape[2:])

    logits = golden.forward(name, content, state, fold).logits
    # As for the networks themselves, but twice: folding rounds once more.
    tolerance = 2 * (5e-4 if "efficientnet" in name else 1e-4)
    spread = np.std(content["logits"])
    np.testing.assert_allclose(logits, content["logits"], rtol=0, atol=tolerance * spread)


@pytest.mark.parametrize(
    ("name", "bits"),
    [(name, None) for name in KINDS] + [(name, (2, 2)) for name in WITH_BITS],
)
def test_one_gradient_step_in_bfloat16_is_finite(name, bits):
    options = {"bits": bits} if bits else {}
    model = models.create(
        name,
        10,
        dtype="bfloat16",
        normalize=((128.0,) * 3, (64.0,) * 3),
        **options,
    )
    side = max(model.min_size, 16)
    compiled = jax.jit(lambda key: model.init(key, (side, side)), compiler_options=QUICK)
    variables = compiled(jax.random.key(0))
    pixels = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    labels = jax.nn.one_hot(jnp.arange(8), 10)

    def loss(params, stats):
        outputs, stats = model.apply(
            {"params": params, "batch_stats": stats},
            jnp.asarray(pixels),
            train=True,
            key=jax.random.key(1),
        )
        return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(outputs.logits), axis=-1)), stats

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (value, stats), gradients = step(variables["params"], variables["batch_stats"])
    assert np.isfinite(value)
    for leaf in jax.tree.leaves((stats, gradients)):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    # All that is used learns; Shake-Shake keeps shortcuts that are not.
    moved = [bool(np.any(leaf != 0)) for leaf in jax.tree.leaves(gradients)]
    unused = 9 * 4 if name.startswith("shake") else 0
    assert moved.count(False) <= unused + (len(moved) // 4 if bits else 0)


def test_rematerialisation_changes_nothing_but_memory():
    kit = Kit(momentum=0.99, epsilon=1e-3)
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    results = {}
    for remat in ("none", "convolutions", "blocks"):
        net = EfficientNet(_Scale(0.25, 0.2, 32, 0.2), 0.2, 0.2, remat, 10, kit)
        init = jax.jit(lambda key, net=net: net.init(key, x, Mode(False)), compiler_options=QUICK)
        variables = init(jax.random.key(1))

        def loss(params, net=net, stats=variables["batch_stats"]):
            tree = {"params": params, "batch_stats": stats}
            rngs = {"dropout": jax.random.key(2)}
            outputs, changed = net.apply(tree, x, Mode(True), rngs=rngs, mutable=["batch_stats"])
            return jnp.sum(jnp.square(outputs.logits)), changed

        step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
        results[remat] = step(variables["params"])
    # As one vector: single gradients may be zero but for rounding. 1e-3, since BatchNorm over the
    # last stage's four pixels amplifies rounding; another draw of dropout would change everything.
    expected = [ravel_pytree(part)[0] for part in results["none"]]
    for remat in ("convolutions", "blocks"):
        found = [ravel_pytree(part)[0] for part in results[remat]]
        for one, other in zip(found, expected, strict=True):
            assert jnp.linalg.norm(one - other) < 1e-3 * jnp.linalg.norm(other)
