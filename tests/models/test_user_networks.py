"""Networks of a user's own: named by module or registered, trained, stored, read back, refused."""

import inspect
import io
import json
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models, registry
from kdaug_jax.deploy import artifact, export
from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen.standalone import load_one
from kdaug_jax.models import export_weights, import_weights
from kdaug_jax.training import loop
from kdaug_jax.types import Outputs
from tests.conftest import tiny_config
from tests.tiny import RAW

LINEN = "docs.examples.network_linen:SmallNet"
NNX = "docs.examples.network_nnx:small_net"
HERE = __name__
IMAGE = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module", params=[LINEN, NNX], ids=["linen", "nnx"])
def trained(request, tmp_path_factory):
    """The directory of a student that was trained for a few steps and exported."""
    directory = tmp_path_factory.mktemp("user")
    network = configs.network(request.param, trainable=True, options={"width": 4})
    stream = io.StringIO()
    config = tiny_config(networks={"student": network}, train=dict(epochs=1.0))
    loop.train(config, directory, stream=stream)
    export.export_run(directory, stream=stream)
    return request.param, directory


def test_a_student_is_trained_stored_and_exported(trained):
    name, directory = trained
    assert np.isfinite(json.loads((directory / "results.json").read_text())[""]["eval/test/nll"])
    loaded = load_one(directory, say=print)
    assert loaded.model.name == name and loaded.card.options == {"width": 4}
    # Running statistics have followed the images.
    assert any(np.abs(leaf).max() > 1e-3 and np.abs(leaf - 1).max() > 1e-3
               for leaf in jax.tree.leaves(loaded.variables["batch_stats"]))
    expected = loaded.model.apply(loaded.variables, IMAGE, train=False)[0].logits
    card, function = artifact.read(directory / "export")
    assert card.arch == name
    np.testing.assert_allclose(function(IMAGE), expected, rtol=1e-5, atol=1e-6)


def test_it_teaches_from_its_directory(trained, tmp_path):
    name, directory = trained
    config = tiny_config(
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network(name, checkpoint=str(directory), options={"width": 4}),
        },
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("kl", ("x",), teacher="teacher", gradient_group="distill"),
        },
        train=dict(allow_weak_teacher=True, epochs=1.0),
    )
    stream = io.StringIO()
    loop.train(config, tmp_path / "run", stream=stream)
    assert f"teacher ({name})" in stream.getvalue()


def test_a_teacher_that_only_its_record_names_is_not_imported(trained, tmp_path):
    name, directory = trained
    networks = {
        "student": configs.network("tiny", trainable=True),
        "teacher": configs.network("", checkpoint=str(directory)),
    }
    terms = {"kd": configs.term("kl", ("x",), teacher="teacher", gradient_group="distill")}
    message = f"networks.teacher.name: '{name}' would import, and so run, code that no config"
    with registry.importing(False), pytest.raises(ConfigError, match=message):
        loop.train(tiny_config(networks=networks, terms=terms), tmp_path / "run")


def test_its_weights_come_back(trained, tmp_path, capsys):
    name, directory = trained
    file = tmp_path / "weights.safetensors"
    words = [f"--from={directory}", f"--to={file}"]
    # Its record names a module, and may be anybody's.
    assert export_weights.main(words) == 2
    said = capsys.readouterr().err
    assert f"'{name}' would import, and so run, code that no config of yours names; " in said
    assert said.endswith("read that module, then --allow_imports\n")
    assert export_weights.main([*words, "--allow_imports"]) == 0
    _, variables = import_weights.import_file(file, name)
    jax.tree.map(np.testing.assert_array_equal, variables, load_one(directory, say=print).variables)


@pytest.mark.parametrize("name", [LINEN, NNX])
def test_views_of_a_batch_are_normalised_apart(name):
    model = models.create(name, 4, normalize="cifar10", width=4)
    variables = jax.jit(lambda key: model.init(key, (8, 8)))(jax.random.key(0))
    other = IMAGE[::-1] // 2
    stacked = np.stack([IMAGE, other], axis=1).reshape(8, 8, 8, 3)
    key = jax.random.key(1)

    @jax.jit
    def both(variables):
        joint = model.apply(variables, stacked, train=True, branches=(0, 0), key=key)
        statistics, apart = variables["batch_stats"], []
        for view, image in enumerate((IMAGE, other)):
            outputs, statistics = model.apply(
                {**variables, "batch_stats": statistics}, image, train=True,
                key=jax.random.fold_in(key, view),
            )
            apart.append(outputs)
        return joint, apart, statistics

    (outputs, statistics), apart, expected = both(variables)
    for view in (0, 1):
        np.testing.assert_allclose(outputs.logits[view::2], apart[view].logits, atol=1e-5)
        np.testing.assert_allclose(
            outputs.features["pooled"][view::2], apart[view].features["pooled"], atol=1e-5
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), statistics, expected)


class Plain(nn.Module):
    """Returns logits alone."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


class Wrong(nn.Module):
    """Returns what `kind` says."""

    num_classes: int
    kind: str = "shape"

    @nn.compact
    def __call__(self, x, train):
        logits = nn.Dense(self.num_classes + (self.kind == "shape"))(jnp.mean(x, axis=(1, 2)))
        self.variable("cache", "x", jnp.zeros, ()) if self.kind == "collection" else None
        return {
            "type": logits.astype(jnp.bfloat16), "feature": (logits, {"all": logits[0]}),
            "list": [logits], "outputs": Outputs(logits, {}),
        }.get(self.kind, logits)


class Silent(nn.Module):
    num_classes: int

    def __call__(self, x):
        return x


class Pair(NamedTuple):
    init: object
    apply: object
    min_size: object = 1


def lists(num_classes):
    return Pair(lambda key, size: {"params": [jnp.zeros(3)], "batch_stats": {}}, print)


def integers(num_classes):
    return Pair(lambda key, size: {"params": {"n": jnp.zeros(3, int)}, "batch_stats": {}}, print)


def growing(num_classes):
    def init(key, size):
        return {"params": {}, "batch_stats": {}}

    def apply(variables, image, *, train, key):
        return jnp.zeros((len(image), num_classes)), {}, {"n": jnp.zeros(1)}

    return Pair(init, apply)


def negative(num_classes):
    return Pair(print, print, min_size=-1)


def nothing(num_classes):
    return None


def wide(num_classes, width):
    return Plain(num_classes)


not_callable = 3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Wrong", {}, "Wrong returns logits float32[2, 5] for 2 images; return float32[2, 4]"),
        ("Wrong", {"kind": "type"}, "returns logits bfloat16[2, 4] for 2 images"),
        ("Wrong", {"kind": "feature"}, "the feature 'all' of shape [4] for 2 images; return array"),
        ("Wrong", {"kind": "list"}, "returns list; return logits or (logits, dict of features)"),
        ("Wrong", {"kind": "collection"}, "variables with ['batch_stats', 'cache', 'params']; re"),
        ("Wrong", {"kinds": ""}, "options: Wrong has no 'kinds'; did you mean kind?"),
        ("Wrong", {"parent": ""}, "has no 'parent'; known: kind"),
        ("Silent", {}, "Silent.__call__ takes no argument 'train'; write __call__(self, x, train)"),
        ("lists", {}, "has variables with another structure; return {\"params\": ..."),
        ("integers", {}, "keeps params/n as int32; keep variables as float32"),
        ("growing", {}, "changes its batch_stats: batch_stats/n is extra; return them as in"),
        ("negative", {}, "has min_size -1; pixels, at least 1"),
        ("nothing", {}, "makes a NoneType, which is no network; return a Linen module, or an ob"),
        ("wide", {}, "wide needs 'width'; options={'width': ...}"),
        ("not_callable", {}, "is a int; name a function or a Linen module class that takes 'num_c"),
        ("IMAGE", {}, "is a ndarray; name a function"),
        ("test_views_of_a_batch_are_normalised_apart", {}, "takes no argument 'num_classes'"),
        ("Wrnog", {}, f"module {HERE} has no 'Wrnog'; did you mean Wrong"),
    ],
)
def test_a_network_that_is_not_as_it_must_be_is_refused_by_name(name, options, words, tmp_path):
    network = configs.network(f"{HERE}:{name}", trainable=True, options=options)
    with pytest.raises(ConfigError) as caught:
        loop.train(tiny_config(networks={"student": network}), tmp_path, stream=io.StringIO())
    assert str(caught.value).startswith("networks.student.")
    assert words.replace("Wrong has", f"{HERE}:Wrong has") in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_branches": 2}, "has one set of BatchNorm statistics, not 2"),
        ({"replica_batch_size": 2}, "cannot split the batch"),
        ({"dtype": "bfloat16"}, "takes no argument 'dtype', so it cannot compute in bfloat16"),
    ],
)
def test_what_a_network_does_not_take_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        models.create(f"{HERE}:Plain", 4, normalize=RAW, **settings)
    # A module that takes the mode, `num_branches` and `dtype` does.
    assert models.create("tiny", 4, normalize=RAW, **settings).num_branches in (1, 2)


def test_networks_have_names_of_their_own():
    assert models.register("plain of this test", Plain) in models.names()
    model = models.create("plain of this test", 4, normalize=RAW)
    assert (model.min_size, model.native_size, model.channels) == (1, 32, 3)
    models.check(model, (8, 8), train=True)
    with pytest.raises(ArgumentError, match="'resnet20' is a network of this package"):
        models.register("resnet20", Plain)


def test_outputs_may_be_returned_as_such():
    model = models.create(f"{HERE}:Wrong", 4, normalize=RAW, kind="outputs")
    models.check(model, (8, 8), train=True)


def test_pixels_of_another_unit_are_refused_where_they_can_be_seen():
    image = IMAGE.astype(np.float32) / 255
    black = np.zeros_like(image)

    def apply(image, normalize):
        model = models.create(f"{HERE}:Plain", 4, normalize=normalize)
        variables = model.init(jax.random.key(0), (8, 8))
        return model.apply(variables, image, train=False)

    with pytest.raises(ConfigError, match=r"float pixels within 0..1, but the mean is \(12"):
        apply(image, "cifar100")
    with pytest.raises(ConfigError, match="within 0..1"):
        apply(jnp.asarray(image), "imagenet")
    whole = (255 * image).astype(np.uint8)
    overshot = 300 * image - 20  # as bicubic crops in floats
    for accepted in (black, black + 1, 255 * image, whole, whole.astype(np.int32), overshot):
        apply(accepted, "cifar10")
    for other in (2 * image - 1, 257 * whole.astype(np.uint16), whole > 9, whole.astype(np.int8)):
        with pytest.raises(ConfigError, match=r"give pixels 0\.\.255, which the network"):
            apply(other, "cifar10")
    apply(image, ((0.5,) * 3, (2.0,) * 3))
    with pytest.raises(ConfigError, match="of pixels 0..1; multiply both by 255"):
        apply(black, ((0.5,) * 3, (0.25,) * 3))
    jax.jit(lambda image: apply(image, "cifar10"))(image)
    # A constant of a traced function can be seen.
    half = jnp.asarray(image, jnp.bfloat16)
    with pytest.raises(ConfigError, match="within 0..1"):
        jax.jit(lambda: apply(half, "cifar10"))()
    constant = jnp.asarray(255 * image)
    jax.jit(lambda: apply(constant, "cifar10"))()


def test_init_and_apply_are_documented():
    model = models.create("tiny", 4, normalize="svhn")
    documented = (model.init, ("key", "size")), (model.apply, ("image", "branches"))
    for function, arguments in documented:
        assert all(f"{name}: " in inspect.getdoc(function) for name in arguments)
        assert "Returns:" in inspect.getdoc(function)
