"""What a teacher says wrongly is seen: order of classes, probabilities, answers that mix."""

import io
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from kdaug_jax import data, models
from kdaug_jax.errors import CheckpointError, ConfigError, UserError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen import functions, probing
from kdaug_jax.experiment.frozen.adapting import adapted_logits
from kdaug_jax.metrics.arguments import are_probabilities
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.models.layers import Linear
from kdaug_jax.training import loop
from kdaug_jax.training.plan import plan_run
from kdaug_jax.training.setup import check_teachers, prepare
from kdaug_jax.types import Outputs
from tests.conftest import tiny_config

CLASSES = 12
COUNTED = tuple(map(str, range(CLASSES)))
AS_TEXT = tuple(sorted(COUNTED))


def dataset(names, count=96):
    """Images whose class shows in their mean level; the labels count `names`."""
    generator = np.random.default_rng(0)
    number = np.arange(count) % CLASSES  # of the class, counted 0..11
    image = 20 * number[:, None, None, None] + generator.integers(0, 9, (count, 8, 8, 3))
    label = np.array([names.index(str(value)) for value in number], np.int32)
    pair = image.astype(np.uint8), label
    return data.from_arrays(dict.fromkeys(("train", "validation", "test"), pair), names)


@pytest.fixture
def counted(monkeypatch):
    for name, names in (("counted", COUNTED), ("as_text", AS_TEXT)):
        made = dataset(names)
        monkeypatch.setitem(data.SOURCES, name, lambda argument, options, made=made: made)


def logits(image):
    """The right class, counted 0..11, as the level nearest to the mean of the image."""
    mean = image.astype(jnp.float32).mean((1, 2, 3))[:, None]
    return -((mean - 4.0 - 20.0 * jnp.arange(CLASSES)[None]) / 8.0) ** 2


def save(path, function=logits, dtype=jnp.uint8, constraints=()):
    batch, = export.symbolic_shape("b", constraints=constraints)
    aval = jax.ShapeDtypeStruct((batch, 8, 8, 3), dtype)
    path.write_bytes(export.export(jax.jit(function))(aval).serialize())
    return str(path)


def table(path, source="counted", change=lambda logits: logits, **more):
    split = data.load(source, {"train": "train"}).splits["train"]
    values = change(np.asarray(logits(jnp.asarray(split.image))))
    np.savez(path, index=split.index, logits=values, **more)
    return str(path)


def config(checkpoint, source="counted", weak=False, **teacher):
    return tiny_config(
        data=dict(source=source, batch_size=16), views={"x": ""},
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network("", checkpoint=checkpoint, **teacher),
        },
        terms={"kd": configs.term("kl", ("x",), teacher="teacher")},
        train=dict(epochs=0.2, allow_weak_teacher=weak),
    )


def said(tmp_path, checkpoint, *args, **settings):
    """Does what comes before the first step; returns what was printed."""
    lines = []
    setup = prepare(config(checkpoint, *args, **settings), tmp_path, lines.append)
    check_teachers(setup, lines.append, lambda: None)
    setup.feed.close()
    return "\n".join(lines)


def refused(tmp_path, checkpoint, *args, **settings):
    with pytest.raises(UserError) as caught:
        plan_run(config(checkpoint, *args, **settings), tmp_path / "w", print)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- order of classes


def test_a_teacher_that_counts_its_classes_otherwise_is_refused_or_reordered(counted, tmp_path):
    named = table(tmp_path / "t.npz", class_names=np.array(COUNTED))
    line = refused(tmp_path, named, "as_text")
    assert "its classes are in another order: class 2 is '2' there and '10' in the data" in line
    assert "networks.teacher.class_order='by_name'" in line
    unnamed = table(tmp_path / "u.npz")
    with pytest.raises(ConfigError) as caught:
        said(tmp_path, unnamed, "as_text")
    assert "is near chance (0.083); its classes look permuted: 100 % if reordered" in str(
        caught.value
    )
    printed = said(tmp_path, named, "as_text", class_order="by_name")
    assert "by the names of its classes: class 2, '10', is number 10 there" in printed
    assert "teacher: accuracy on the training split 100.00 %, NLL 0.0" in printed


def test_a_function_is_reordered_too(counted, tmp_path):
    path = save(tmp_path / "f.stablehlo")
    assert "networks.teacher.class_order: is 'by_name', but it has no class names" in refused(
        tmp_path, path, "as_text", class_order="by_name"
    )
    with pytest.raises(ConfigError, match="permuted: 100 % if reordered"):
        said(tmp_path, path, "as_text")
    printed = said(tmp_path, path, "counted")
    assert "it has no class names, so their order cannot be compared" in printed
    assert "holds no card and no checksum" in printed


def test_two_swapped_classes_are_reported(counted, tmp_path):
    swapped = [1, 0, *range(2, CLASSES)]
    path = save(tmp_path / "f.stablehlo", lambda image: logits(image)[:, jnp.array(swapped)])
    printed = said(tmp_path, path)
    assert "warning: networks.teacher: its classes look permuted: 100 % if reordered" in printed


def test_weak_teachers_do_not_look_permuted():
    generator = np.random.default_rng(0)
    for _ in range(50):
        counts = generator.multinomial(40, np.ones(16) / 16).reshape(4, 4)
        assert probing.permuted_accuracy(counts) is None
    assert probing.permuted_accuracy(np.eye(4)) is None
    assert probing.permuted_accuracy(25 * np.eye(4)[[1, 0, 2, 3]]) == 1.0


# ---- probabilities


def test_probabilities_are_not_taken_for_logits(counted, tmp_path):
    softmax = lambda values: np.asarray(jax.nn.softmax(values))  # noqa: E731
    for number, change in enumerate((
        softmax, lambda v: 100 * softmax(v), lambda v: softmax(v).astype(np.float16),
        lambda v: np.eye(CLASSES, dtype=np.float32)[v.argmax(1)],
    )):
        path = table(tmp_path / f"{number}.npz", change=change)
        line = refused(tmp_path, path)
        assert "so these are probabilities; set networks.teacher.outputs='probabilities'" in line
        plan_run(config(path, outputs="probabilities"), tmp_path / "w", print)
    assert "networks.teacher.outputs: is 'probabilities', but not every row" in refused(
        tmp_path, table(tmp_path / "logits.npz"), outputs="probabilities"
    )
    path = save(tmp_path / "f.stablehlo", lambda image: jax.nn.softmax(logits(image)))
    with pytest.raises(ConfigError, match="so these are probabilities; set networks.teacher"):
        said(tmp_path, path)
    plain = said(tmp_path / "a", save(tmp_path / "g.stablehlo"))
    logs = said(tmp_path / "b", path, outputs="probabilities")
    nll = [line.split("NLL")[1] for text in (plain, logs) for line in text.splitlines()
           if "teacher: validation accuracy 100.00 %" in line]
    assert len(nll) == 2 and nll[0] == nll[1]


def test_what_looks_like_probabilities():
    generator = np.random.default_rng(0)
    z = generator.normal(size=(7, 5))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert are_probabilities(p) and are_probabilities(p[:1]) and are_probabilities(255 * p)
    for other in (z, np.abs(z), np.log(p), np.zeros((7, 5)), np.ones((7, 5)), p - 0.1):
        assert not are_probabilities(other)
    np.testing.assert_allclose(adapted_logits(p, (), True), np.log(p), rtol=1e-6)
    assert np.isfinite(adapted_logits(np.eye(3), (), True)).all()


# ---- answers that depend on the batch


def _batch_statistics(image):
    values = logits(image)
    return (values - values.mean(0, keepdims=True)) / (values.std(0, keepdims=True) + 1e-3)


def _dropout(image):
    values = logits(image)
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, values.shape)
    return jnp.where(kept, values, 0.0)


@pytest.mark.parametrize(("function", "message"), [
    (_batch_statistics, "differently in a batch of 5 than of 16, as BatchNorm in training mode"),
    (_dropout, "differently at another place of the batch, as dropout in training mode does"),
    (lambda image: logits(image) - logits(image[:1]), "at another place of the batch"),
])  # fmt: skip
def test_functions_that_mix_their_batch(counted, tmp_path, function, message):
    path = save(tmp_path / "f.stablehlo", function)
    with pytest.raises(ConfigError, match=message) as caught:
        said(tmp_path, path)
    assert "export it in inference mode" in str(caught.value)


def test_each_part_of_an_average_is_tried(counted, tmp_path):
    good = save(tmp_path / "good.stablehlo")
    mixing = save(tmp_path / "mixing.stablehlo", lambda image: logits(image) - logits(image[:1]))
    with pytest.raises(ConfigError) as caught:
        said(tmp_path, (good, mixing))
    assert str(caught.value).startswith(f"networks.teacher ({mixing}): answers an image ")
    # Two that each mix may answer alike for another batch, once they are averaged.
    weighted = save(tmp_path / "half.stablehlo", lambda image: logits(image) + logits(image[:1]))
    with pytest.raises(ConfigError, match="at another place of the batch"):
        said(tmp_path / "b", (mixing, weighted))


class Mixing(nn.Module):
    """A network whose BatchNorm was left in training mode."""

    num_classes: int

    @nn.compact
    def __call__(self, x, mode):
        values = Linear(self.num_classes, name="fc")(x.mean((1, 2)))
        mean, deviation = (f(values, axis=0, keepdims=True) for f in (jnp.mean, jnp.std))
        return Outputs((values - mean) / (deviation + 1e-3), {})


@pytest.mark.slow
def test_networks_that_were_registered_are_tried_too(counted, tmp_path, monkeypatch):
    monkeypatch.setitem(models._REGISTERED, "mixing", lambda num_classes, **_: Mixing(num_classes))
    run = tmp_path / "run"
    trained = tiny_config(
        data=dict(source="counted", batch_size=16), views={"x": ""}, train=dict(epochs=0.2),
        networks={"student": configs.network("mixing", trainable=True)},
    )
    loop.train(trained, run, stream=io.StringIO())
    with pytest.raises(ConfigError, match="as BatchNorm in training mode does; export it in infer"):
        said(tmp_path / "w", str(run), weak=True)


def test_answers_drawn_at_random():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(16, 3))
    with pytest.raises(ConfigError, match="answers the same images differently each time"):
        probing.probe("t", lambda x: x + generator.normal(size=x.shape), images)
    probing.probe("t", lambda x: x, images)
    # One unit in the last place of bfloat16, by which answers of other batch sizes may differ.
    probing.probe("t", lambda x: x * (1 + 2.0**-8 * (len(x) == 5)), images)


@pytest.mark.parametrize(
    "constraints", [("b<=6",), ("b>=20",), ("mod(b,8)==0", "b<=24")]
)
def test_constraints_on_the_batch_are_met(tmp_path, constraints):
    path = tmp_path / "f.stablehlo"
    save(path, constraints=constraints)
    function = functions.read(path)
    image = dataset(COUNTED).splits["train"].image
    for count in (1, 7, 50):
        rows = functions.in_batches(function, jnp.asarray(image[:count]))
        np.testing.assert_allclose(rows, logits(jnp.asarray(image[:count])), rtol=1e-5, atol=1e-5)


def test_a_batch_that_cannot_be_met(tmp_path):
    path = tmp_path / "f.stablehlo"
    save(path, constraints=("b>=5000",))
    with pytest.raises(CheckpointError, match="takes no batch of any size"):
        functions.read(path)


def test_pixels_of_another_range_show_in_the_likelihood(counted, tmp_path):
    path = save(tmp_path / "f.stablehlo", lambda image: logits(image) / 4096.0)
    printed = said(tmp_path, path)
    assert re.search(r"teacher: validation accuracy \d+\.00 %, NLL 2\.\d+ \(chance", printed)
    assert "(chance 8.33 %, 2.4849)" in printed


# ---- files


def test_a_function_with_a_card_is_read_only_as_it_was_written(counted, tmp_path):
    from kdaug_jax.runtime.model_card import ModelCard

    plain = tmp_path / "plain.stablehlo"
    save(plain)
    card = ModelCard("", CLASSES, (8, 8), (0.0,) * 3, (1.0,) * 3, class_names=COUNTED)
    content = functions.with_card(plain.read_bytes(), card)
    path = tmp_path / "f.stablehlo"
    path.write_bytes(content)
    assert functions.read_with_card(path)[1].class_names == COUNTED
    assert "in another order: class 2" in refused(tmp_path, str(path), "as_text")
    export.deserialize(bytearray(content))  # whoever knows nothing of cards
    generator, refusals = np.random.default_rng(0), 0
    for number in range(12):
        damaged = bytearray(content)
        damaged[generator.integers(len(content))] ^= 1 << generator.integers(8)
        path = tmp_path / f"{number}.stablehlo"
        path.write_bytes(damaged)
        try:
            functions.read_with_card(path)
        except UserError as error:
            refusals += "\n" not in str(error)
    assert refusals == 12


def test_tables_that_are_damaged_or_stored_elsewhere(counted, tmp_path):
    path = table(tmp_path / "big.npz", change=lambda values: values.astype(">f4"))
    plan_run(config(path), tmp_path / "w", print)

    def broken(values):
        values = values.copy()
        values[3, 2] = 1e30
        return values

    assert "logits of index 3 reach 1e+30, beyond any network's" in refused(
        tmp_path, table(tmp_path / "flipped.npz", change=broken)
    )
    arrays = dict(np.load(tmp_path / "big.npz"))
    stored = tmp_path / "t.safetensors"
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    safetensors_file.write(stored, native, {"class_names": json.dumps(COUNTED)})
    assert "in another order: class 2" in refused(tmp_path, str(stored), "as_text")
    wrong = refused(tmp_path, str(stored), sha256="0" * 64)
    assert "not the stated 0000" in wrong and "copy the file again" in wrong
    assert "networks.teacher.sha256: is 'abc'; 64 hexadecimal digits" in refused(
        tmp_path, str(stored), sha256="abc"
    )
    for names, message in (
        (np.array(COUNTED[:-1]), "has class_names <U2[11] for 12 classes"),
        (np.array(["0"] * CLASSES), "not one distinct text each"),
        (np.arange(CLASSES), "has class_names int64[12]"),
    ):
        path = table(tmp_path / "n.npz", class_names=names)
        assert message in refused(tmp_path, path)
        (tmp_path / "n.npz").unlink()


def test_a_folder_with_a_comma_is_compared_too(counted, tmp_path):
    (tmp_path / "a,b").mkdir()
    named = table(tmp_path / "a,b" / "t.npz", class_names=np.array(COUNTED))
    assert "in another order: class 2" in refused(tmp_path, named, "as_text")
    assert "averages a table of logits" in refused(tmp_path, (named, named))
