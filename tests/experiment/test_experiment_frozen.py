"""Frozen networks from every kind of checkpoint teach alike, and what does not fit is refused."""

import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from kdaug_jax.deploy import artifact
from kdaug_jax.errors import CheckpointError, ConfigError, UserError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen import compatibility, functions, stored, tables
from kdaug_jax.experiment.frozen.standalone import load_one
from kdaug_jax.models import export_weights, import_weights
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.runtime import model_card
from kdaug_jax.training import loop
from kdaug_jax.training.plan import plan_run
from tests.conftest import tiny_config

SOURCE = "synthetic:8x8,4,40"
NAMES = ["ant", "bee", "cat", "dog"]


def config(checkpoint, views="", teacher=None, **sections):
    return tiny_config(**{
        "views": {"x": views},
        "networks": {
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network(**{"name": "", "checkpoint": checkpoint, **(teacher or {})}),
        },
        "terms": {
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("kl", ("x",), teacher="teacher", gradient_group="distill"),
        },
        "train": dict(allow_weak_teacher=True, epochs=1.0),
        **sections,
    })


def train(directory, checkpoint, **settings):
    """Trains a student; returns the last row of its terms and what was printed."""
    stream = io.StringIO()
    loop.train(config(checkpoint, **settings), directory, stream=stream)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "train/kd" in row][-1]
    return {name: last[name] for name in ("train/kd", "train/ce")}, stream.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One trained network in all forms; paths by kind."""
    root = tmp_path_factory.mktemp("frozen")
    plain = tiny_config(train=dict(epochs=2.0), views={"x": ""})
    loop.train(plain, root / "run", stream=io.StringIO())
    weights = root / "weights.safetensors"
    assert export_weights.main([f"--from={root / 'run'}", f"--to={weights}"]) == 0
    card, variables = import_weights.import_file(weights, "tiny")
    model_card.write(root / "card", card, variables)
    loaded = load_one(root / "run", say=print)
    artifact.write(root / "function", loaded, "", loaded.card.mean)
    from kdaug_jax import data

    split = data.load(SOURCE, {"train": "train"}).splits["train"]
    answer = jax.jit(lambda image: loaded.model.apply(loaded.variables, image, train=False)[0])
    logits = np.asarray(answer(split.image).logits)
    order = np.random.default_rng(0).permutation(len(split))  # in any order
    arrays = {"index": split.index[order], "logits": logits[order]}
    np.savez(root / "table.npz", **arrays)
    safetensors_file.write(root / "table.safetensors", arrays, {})
    return root


def test_all_kinds_teach_alike(made, tmp_path):
    expected, message = train(tmp_path / "run", str(made / "run"))
    assert "teacher (tiny)" in message
    losses, message = train(tmp_path / "card", str(made / "card"))
    assert losses == expected  # the same weights through a file of another framework, bit for bit
    assert "made for images of 8×8, normalises with mean" in message
    for kind in ("function", "function/model.stablehlo", "table.npz", "table.safetensors"):
        losses, message = train(tmp_path / kind.replace("/", "_"), str(made / kind))
        assert losses == pytest.approx(expected, rel=1e-4), kind
    assert "teacher: accuracy on the training split" in message
    # The mean of a network with itself is that network; a tuple and a text mean the same.
    for number, both in enumerate((
        (str(made / "run"), str(made / "card")), f"{made / 'card'}, {made / 'function'}",
    )):
        losses, _ = train(tmp_path / str(number), both)
        assert losses == pytest.approx(expected, rel=1e-4)


def test_a_table_is_looked_up_by_example_in_micro_batches(made, tmp_path):
    section = dict(allow_weak_teacher=True, epochs=1.0, accumulate=2)
    settings = dict(train=section, views="flip(0.0)")
    expected, _ = train(tmp_path / "run", str(made / "run"), **settings)
    losses, _ = train(tmp_path / "table", str(made / "table.npz"), **settings)
    assert losses == pytest.approx(expected, rel=1e-4)


def test_several_average_probabilities():
    models = [functions.model("networks.t", _function(weight)) for weight in (0.01, -0.02)]
    both = functions.average(models)
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    variables = both.init(jax.random.key(0), (4, 4))
    logits = both.apply(variables, image, train=False)[0].logits
    each = [jax.nn.softmax(model.apply({}, image, train=False)[0].logits) for model in models]
    np.testing.assert_allclose(jax.nn.softmax(logits), sum(each) / 2, rtol=1e-5)


def _logits(image, weight):
    means = image.astype(jnp.float32).mean((1, 2))
    return weight * jnp.concatenate([means, -means[:, :1]], axis=1)


def _exported(weight=0.01, shape="b, 4, 4, 3", dtype=jnp.uint8, function=_logits, **settings):
    aval = jax.ShapeDtypeStruct(export.symbolic_shape(shape), dtype)
    return export.export(jax.jit(lambda image: function(image, weight)), **settings)(aval)


def _function(weight):
    return export.deserialize(bytearray(_exported(weight).serialize()))


@pytest.mark.parametrize(("settings", "message"), [
    (dict(shape="8, 4, 4, 3"), "takes batches of 8 only; export f(image"),
    (dict(shape="b, 4, 4, 1"), "takes uint8[b, 4, 4, 1]"),
    (dict(shape="b, 4, 12"), "takes uint8[b, 4, 12]"),
    (dict(dtype=jnp.int32), "takes int32[b, 4, 4, 3]"),
    (dict(function=lambda image, _: image), "returns uint8[b, 4, 4, 3]"),
    (dict(function=lambda image, _: (image, image)), "has 1 inputs and 2 outputs"),
    (dict(function=lambda image, _: {"logits": image}), "takes or returns arrays by name or in a"),
    (dict(shape="b, b, 4, 3"), "takes images of the shape [b, b, 4, 3]"),
    (dict(shape="2*b, 4, 4, 3"), "takes images of the shape [2*b, 4, 4, 3]"),
    (dict(function=lambda image, _: jnp.zeros((7, 4))), "returns 7 rows for b images"),
    (dict(platforms=("tpu",)), "was exported for tpu, not for cpu; export it with platforms="),
])  # fmt: skip
def test_functions_of_another_form(tmp_path, settings, message):
    if "12" in settings.get("shape", ""):
        settings["function"] = lambda image, _: image.astype(jnp.float32).sum(2)
    elif settings.get("shape", "").endswith("1"):
        settings["function"] = lambda image, _: image.astype(jnp.float32).sum((2, 3))
    path = tmp_path / "f.stablehlo"
    path.write_bytes(_exported(**settings).serialize())
    with pytest.raises(CheckpointError) as caught:
        functions.read(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_functions(tmp_path):
    content, generator = _exported().serialize(), np.random.default_rng(0)
    path = tmp_path / "f.stablehlo"
    for cut in (0, 1, 7, 100, len(content) // 2):
        path.write_bytes(content[:cut] if cut else generator.bytes(300))
        with pytest.raises(CheckpointError, match="is not a serialised function"):
            functions.read(path)
    with pytest.raises(CheckpointError, match="cannot be read .No such file"):
        functions.read(tmp_path / "absent")


@pytest.mark.parametrize("shape", ["b, 4, 4, 3", "b, h, w, 3"])
def test_flipped_bits_of_functions_end_in_one_line(tmp_path, shape):
    content, generator = _exported(shape=shape).serialize(), np.random.default_rng(0)
    refused = 0
    for number in range(8):
        damaged = bytearray(content)
        for place in generator.integers(len(content), size=3):
            damaged[place] ^= 255
        path = tmp_path / f"{number}.stablehlo"
        path.write_bytes(damaged)
        try:
            functions.read(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 1


def test_a_function_says_which_images_it_takes():
    model = functions.model("networks.t", _function(0.01))
    with pytest.raises(ConfigError, match="networks.t: takes images of 4×4 pixels, not 8×8"):
        model.apply({}, jnp.zeros((2, 8, 8, 3), jnp.uint8), train=False)
    with pytest.raises(ConfigError, match="takes uint8 pixels, but mixed views are float32"):
        model.apply({}, jnp.zeros((2, 4, 4, 3), jnp.float32), train=False)
    with pytest.raises(ConfigError, match="cannot be trained"):
        model.apply({}, jnp.zeros((2, 4, 4, 3), jnp.uint8), train=True)
    wide = _exported(shape="b, h, w, 3", dtype=jnp.float32)
    model = functions.model("networks.t", wide)
    image = jnp.full((2, 6, 5, 3), 7, jnp.uint8)  # any size, and uint8 where float32 is taken
    assert model.apply({}, image, train=False)[0].logits.shape == (2, 4)


# ---- tables


@pytest.mark.parametrize(("changes", "message"), [
    (dict(index=None), "has no 'index' (it has logits); save index i32[N]"),
    (dict(index=np.arange(40.0)), "index is float64[40]"),
    (dict(index=np.arange(39)), "has 39 indices and 40 rows of logits"),
    (dict(index=np.arange(40) - 1), "index reaches from -1 to 38"),
    (dict(index=np.arange(40) // 2), "index 0 is there twice"),
    (dict(logits=np.zeros((40, 4), np.int32)), "logits are int32[40, 4]"),
    (dict(logits=np.zeros(40)), "logits are float64[40]"),
    (dict(logits=np.full((40, 4), np.inf)), "logits of index 0 are not finite"),
    (dict(index=np.array([{}] * 40)), "cannot be read as .npz (Object arrays cannot be loaded"),
])  # fmt: skip
def test_tables_of_another_form(tmp_path, changes, message):
    arrays = {"index": np.arange(40), "logits": np.zeros((40, 4), np.float32), **changes}
    path = tmp_path / "t.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(CheckpointError) as caught:
        tables.read(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_tables(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, index=np.arange(40), logits=np.zeros((40, 4), np.float32))
    content = path.read_bytes()
    for cut in (0, 10, 100, len(content) - 30):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="cannot be read as .npz" if cut else "is empty"):
            tables.read(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros((40, 4)))
    with pytest.raises(CheckpointError, match="is one array without a name"):
        tables.read(path)


def test_flipped_bits_of_tables_end_in_one_line(tmp_path):
    path, generator = tmp_path / "t.npz", np.random.default_rng(0)
    logits = generator.normal(size=(40, 4)).astype(np.float32)
    refused = 0
    for save in (np.savez, np.savez_compressed):
        save(path, index=np.arange(40), logits=logits)
        whole = path.read_bytes()
        for number in range(60):
            content = bytearray(whole)
            content[generator.integers(len(content))] ^= 1 << generator.integers(8)
            damaged = tmp_path / f"{save.__name__}{number}.npz"
            damaged.write_bytes(content)
            try:
                tables.read(damaged)
            except CheckpointError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 60


def test_wide_logits_become_float32(tmp_path):
    for dtype in (np.float64, np.longdouble):
        path = tmp_path / f"{np.dtype(dtype)}.npz"
        np.savez(path, index=np.arange(3), logits=np.ones((3, 2), dtype))
        assert tables.read(path)["logits"].dtype == np.float32
    np.savez(path, index=np.arange(3), logits=np.full((3, 2), 1e300))
    with pytest.raises(CheckpointError, match="logits of index 0 are not finite"):
        tables.read(path)


def refusal(made, tmp_path, checkpoint, **settings):
    """Plans an experiment that must be refused; returns the message."""
    with pytest.raises(UserError) as caught:
        plan_run(config(checkpoint, **settings), tmp_path / "w", print)
    assert "\n" not in str(caught.value) and not (tmp_path / "w").exists()
    return str(caught.value)


def test_what_does_not_suit(made, tmp_path):
    def error(checkpoint, **settings):
        return refusal(made, tmp_path, str(checkpoint), **settings)

    assert "'no' is not a working directory of a run; train or import that network" in error("no")
    assert "could run code; import it: python -m kdaug_jax.models.import_weights" in error(
        _file(tmp_path / "a.pth", b"\x80\x02}q\x00.")
    )
    assert "holds weights, but not the name of their architecture; import them: python" in error(
        made / "weights.safetensors"
    )
    assert "is not a serialised function" in error(_file(tmp_path / "a.bin", b"nothing of ours"))
    assert "averages a table of logits; give it a network" in error(
        f"{made / 'card'},{made / 'table.npz'}"
    )
    assert "networks.teacher.checkpoint: is" in error(f"{made / 'card'},,")
    assert "networks.teacher: is a table of logits, but view 'x' mixes images" in error(
        made / "table.npz", views="flip|mixup(1.0)"
    )
    # Another split: the validation examples are not in the table.
    line = error(made / "table.npz", data=dict(train="train[8:]", source="synthetic:8x8,4,48"))
    assert "table.npz has no logits of 8 of the 40 training examples, such as index 40" in line
    for kind in ("card", "function", "table.npz"):
        line = error(made / kind, data=dict(source="synthetic:8x8,5,40"))
        assert "networks.teacher.checkpoint: has 4 classes, the data set 5" in line
    for kind in ("card", "function"):
        line = error(made / kind, data=dict(source="synthetic:10x10,4,40"))
        assert "was made for images of 8×8 pixels, x has 10×10; resize the view" in line or (
            "was made for images of 8×8 pixels, eval.view has 10×10; resize the view" in line
        )
    assert "networks.teacher.name: is 'tiny_wide' but" in error(
        made / "card", teacher=dict(name="tiny_wide")
    )
    assert "but the card of" in error(made / "card", teacher=dict(mean=(1.0,) * 3, std=(1.0,) * 3))


def _file(path, content):
    path.write_bytes(content)
    return path


def changed(made, tmp_path, name, **fields):
    """Copies the card's directory with other fields in its card."""
    shutil.copytree(made / "card", tmp_path / name)
    path = tmp_path / name / "card.json"
    card = json.loads(path.read_text())
    del card["seal"]  # a change on purpose
    path.write_text(json.dumps({**card, **fields}))
    return str(tmp_path / name)


def test_cards_are_checked(made, tmp_path):
    for number, (fields, message) in enumerate((
        (dict(std=[1.0]), "the card has 3 means, 1 deviations"),
        (dict(std=[0.0] * 3), "the card's std is [0.0, 0.0, 0.0]"),
        (dict(num_classes="4"), "the card's num_classes is '4'; import the weights again"),
        (dict(size=[8]), "the card's size is [8]"),
        (dict(other=1), "is no card of this package"),
        (dict(arch="tiny_wid"), "networks.teacher.name: unknown network 'tiny_wid'"),
        (dict(class_names=["a"]), "1 class names"),
    )):
        assert message in refusal(made, tmp_path, changed(made, tmp_path, str(number), **fields))


def test_other_statistics_and_sizes_need_trust(made, tmp_path):
    black = changed(made, tmp_path, "black", mean=[8.0] * 3, std=[4.0] * 3)
    line = refusal(made, tmp_path, black)
    assert "normalises with mean (8.0, 8.0, 8.0) and std (4.0, 4.0, 4.0), the data" in line
    assert line.endswith("or set networks.teacher.trust")
    plan_run(config(black, teacher=dict(trust=True)), tmp_path / "w", print)
    small = changed(made, tmp_path, "small", size=[6, 6])
    assert "was made for images of 6×6 pixels" in refusal(made, tmp_path, small)
    lines = []
    plan_run(config(small, teacher=dict(trust=True)), tmp_path / "w", lines.append)
    told = f"networks.teacher: {small} was made for images of 6×6 pixels, and is run on 8×8 in x"
    assert told in lines
    # A run may be taken at any size; what it was evaluated at is its size.
    lines.clear()
    plan_run(config(str(made / "run"), "resize(6, 6)"), tmp_path / "w", lines.append)
    told = f"networks.teacher: {made / 'run'} was made for images of 8×8 pixels, and is run on 6×6"
    assert f"{told} in x" in lines and "trained on images of 6×6 pixels, evaluated on 8×8" in lines
    lines.clear()
    plan_run(config(str(made / "run")), tmp_path / "w", lines.append)
    assert not [line for line in lines if "made for images" in line]


def test_class_names_and_their_order(made):
    network = stored.Network(None, False, str(made / "card"), {"kind": "card"})
    named = ("Apple", "red_bee", "cat", "dog")

    def check(theirs, ours, monkeypatch=pytest.MonkeyPatch):
        with monkeypatch.context() as patch:
            patch.setattr(compatibility, "class_names", lambda network: theirs)
            compatibility.check_class_names("networks.t", network, ours)

    check((), named)
    check(("apple", "Red bee", "cat", "dog"), named)
    check(("0", "1", "2", "3"), named)
    check(named, ("0", "1", "2", "3"))
    with pytest.raises(ConfigError, match="another order: class 1 is 'cat' there and 'red_bee' in"):
        check(("Apple", "cat", "red_bee", "dog"), named)
    with pytest.raises(ConfigError, match="classes are others: class 3 is 'cow' there and 'dog'"):
        check(("Apple", "red_bee", "cat", "cow"), named)


def test_classes_are_compared_before_anything_is_trained(made, tmp_path, monkeypatch):
    from kdaug_jax import data

    split = data.load(SOURCE, {"train": "train"}).splits["train"]
    pair = split.image, split.label
    named = data.from_arrays(dict.fromkeys(("train", "validation", "test"), pair), NAMES)
    monkeypatch.setitem(data.SOURCES, "named", lambda argument, options: named)
    source = dict(data=dict(source="named"))
    right = changed(made, tmp_path, "right", class_names=NAMES)
    plan_run(config(right, **source), tmp_path / "w", print)
    wrong = changed(made, tmp_path, "wrong", class_names=[*NAMES[1:], NAMES[0]])
    for checkpoint in (wrong, f"{right},{wrong}"):
        line = refusal(made, tmp_path, checkpoint, **source)
        assert "its classes are in another order: class 0 is 'bee' there and 'ant' in the" in line
    plan_run(config(wrong, teacher=dict(trust=True), **source), tmp_path / "w", print)


def test_near_chance_is_refused(made, tmp_path):
    table = np.load(made / "table.npz")
    np.savez(tmp_path / "wrong.npz", index=table["index"], logits=-table["logits"])
    strict = dict(train=dict(allow_weak_teacher=False, epochs=1.0))
    with pytest.raises(ConfigError, match="its accuracy on the training split .* is near chance"):
        train(tmp_path / "a", str(tmp_path / "wrong.npz"), **strict)
    rolled = changed(made, tmp_path, "rolled")
    variables = load_one(made / "run", say=print).variables
    shutil.rmtree(rolled)
    variables["params"]["fc"] = jax.tree.map(lambda a: -a, variables["params"]["fc"])
    model_card.write(tmp_path / "rolled", model_card.read(made / "card" / "card.json"), variables)
    with pytest.raises(ConfigError, match="its validation accuracy .* is near chance"):
        train(tmp_path / "b", rolled, **strict)


def test_stored_arrays_are_compared_by_path_and_type(made, tmp_path):
    variables = load_one(made / "run", say=print).variables
    card = model_card.read(made / "card" / "card.json")

    def error(name, change):
        model_card.write(tmp_path / name, card, change(variables))
        with pytest.raises(CheckpointError) as caught:
            load_one(tmp_path / name, say=print)
        return str(caught.value)

    def half(variables):
        return {**variables, "batch_stats": jax.tree.map(
            lambda leaf: leaf.astype(np.float16), variables["batch_stats"]
        )}

    def without(variables):
        params = {name: leaf for name, leaf in variables["params"].items() if name != "fc"}
        return {**variables, "params": params}

    assert "batch_stats/bn/mean is float16, not float32" in error("half", half)
    assert "params/fc/bias is missing, params/fc/kernel is missing" in error("without", without)
