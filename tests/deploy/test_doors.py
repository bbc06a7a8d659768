"""What leaves a run is the state that its table recommends, or what is named; damage is seen."""

import dataclasses
import json

import numpy as np
import pytest

from kdaug_jax.deploy import artifact, predict
from kdaug_jax.errors import CheckpointError, ConfigError, UserError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen.standalone import load_one
from kdaug_jax.models import export_weights, import_weights
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.models.variables import flatten
from kdaug_jax.runtime import checkpoint, manifest
from kdaug_jax.training.plan import plan_run
from kdaug_jax.training.setup import check_teachers, prepare
from tests.conftest import tiny_config
from tests.deploy.conftest import NAMES, VIEW, train


@pytest.fixture(scope="module")
def sweep(named, tmp_path_factory):
    """Two members, of which the second learns nothing, in bfloat16, seen through a view."""
    return train(
        tmp_path_factory.mktemp("sweep") / "run", configs.network("tiny", trainable=True),
        population=(("optim.schedule", (0.5, 1e-9)),), precision="bfloat16",
        eval=dict(view=VIEW), checkpoint=dict(keep=2), train=dict(epochs=3.0),
    )[0]


@pytest.fixture(scope="module")
def low(quantised):
    return quantised[0]


def leaves(loaded):
    return flatten(loaded.variables)


def alike(first, second):
    return all(np.array_equal(first[path], second[path]) for path in first)


def error_of(capsys):
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


def teacher(checkpoint, **fields):
    return tiny_config(
        data=dict(source="named", batch_size=8), views={"x": ""},
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network("", checkpoint=checkpoint, **fields),
        },
        terms={"kd": configs.term("kl", ("x",), teacher="teacher")},
        train=dict(epochs=1.0, allow_weak_teacher=True),
    )


def test_a_sweep_is_asked_for_its_member(sweep, tmp_path, capsys):
    first, second = json.loads((sweep / "config.json").read_text())["members"]
    words = [f"--from={sweep}", f"--to={tmp_path / 'w'}"]
    assert export_weights.main(words) == 2
    line = error_of(capsys)
    assert f"holds 2 members of a sweep; name one: {sweep}@{first} or {sweep}@{second}" in line
    with pytest.raises(ConfigError, match="networks.teacher.checkpoint: .* holds 2 members"):
        plan_run(teacher(str(sweep)), tmp_path / "t", print)
    results = json.loads((sweep / "results.json").read_text())
    for number, name in enumerate((first, second)):
        by_name = load_one(f"{sweep}@{name}", say=print)
        accuracy = results[name]["eval/validation/accuracy"]
        assert by_name.card.accuracy == pytest.approx(accuracy) and by_name.card.member == name
        assert alike(leaves(by_name), leaves(load_one(sweep, say=print, member=number)))
        assert alike(leaves(by_name), leaves(load_one(f"{sweep}@member={number}", say=print)))
        assert f"member {name}, step 15 (the last" in by_name.state
    with pytest.raises(ConfigError, match="holds no member 'x'; name one"):
        load_one(f"{sweep}@x", say=print)
    lines = []
    setup = prepare(teacher(f"{sweep}@{second}"), tmp_path / "t", lines.append)
    check_teachers(setup, lines.append, lambda: None)
    setup.feed.close()
    printed = "\n".join(lines)
    assert f"member {second}, step 15" in printed and "bfloat16, validation accuracy" in printed


def test_steps_and_the_kept_best(sweep):
    steps = manifest.steps(sweep / "checkpoints")
    best = checkpoint.best_step(sweep / "checkpoints", "eval/validation/accuracy")
    assert best in steps
    first = json.loads((sweep / "config.json").read_text())["members"][0]
    for step in steps:
        loaded = load_one(f"{sweep}@{first}@{step}", say=print)
        assert loaded.card.step == step
    kept = load_one(f"{sweep}@{first}@best", say=print)
    assert "best by the mean of all members" in kept.state  # not that of this member alone
    assert kept.card.step == best and alike(leaves(kept), leaves(
        load_one(f"{sweep}@{first}@step={best}", say=print)
    ))
    with pytest.raises(ConfigError, match="keeps no checkpoint of step 99; name one of"):
        load_one(f"{sweep}@{first}@99", say=print)


def test_the_function_computes_as_the_run_did(sweep, named):
    results = json.loads((sweep / "results.json").read_text())
    for number, values in enumerate(results.values()):
        card, function = artifact.read(sweep / "export" / str(number))
        assert card.precision == "bfloat16" and card.view == VIEW
        logits = np.asarray(function(named.image), np.float64)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        nll = -logs[np.arange(40), named.label].mean()
        assert nll == pytest.approx(values["eval/validation/nll"], rel=1e-3)


def test_plain_weights_do_not_leave_a_network_of_few_bits(low, tmp_path, capsys):
    words = [f"--from={low}", f"--to={tmp_path / 'w.safetensors'}"]
    assert export_weights.main(words) == 2
    line = error_of(capsys)
    assert "is a network with bits=(4, 4), which plain weights do not say" in line
    assert "--latent writes them all the same, --rounded the rounded kernels" in line
    assert export_weights.main([*words, "--latent"]) == 0
    assert "PyTorch's network of that name has not bits=(4, 4)" in capsys.readouterr().out
    rounded = tmp_path / "r.safetensors"
    assert export_weights.main([words[0], f"--to={rounded}", "--rounded"]) == 0
    assert "activations of 4 bits need a module that rounds them too" in capsys.readouterr().out
    arrays, _ = safetensors_file.read(rounded)
    assert len(np.unique(arrays["layer2.0.conv1.weight"])) <= 16
    # What comes back answers as what left.
    for path in (tmp_path / "w.safetensors", rounded):
        imported = import_weights.import_file(path, "resnet8")
        assert imported.card.options["bits"][1] == 4 and imported.card.view == VIEW
    with pytest.raises(ConfigError, match="--options: says bits=.32, 32., the card in the file"):
        import_weights.import_file(path, "resnet8", options={"bits": (32, 32)})
    with pytest.raises(ConfigError, match=r"networks.teacher.options: has bits=\(32, 32\), but"):
        plan_run(teacher(str(low), options={"bits": (32, 32)}), tmp_path / "t", print)
    assert export_weights.main([f"--from={low}@best", f"--to={tmp_path / 'x'}", "--latent"]) == 0


def test_packed_weights_need_no_side_file(low, named):
    directory = low / "export"
    expected = np.asarray(artifact.read(directory, packed=True)[1](named.image))
    side = {name: (directory / name).read_bytes() for name in ("sizes.json", "model.json")}
    for name in side:
        (directory / name).unlink()
    for path in (directory, directory / "packed.safetensors"):
        card, function = artifact.read(path, packed=True)
        assert card.view == VIEW and card.class_names == NAMES
        np.testing.assert_array_equal(function(named.image), expected)
    card, function = artifact.read(directory / "model.stablehlo")
    np.testing.assert_allclose(function(named.image), expected, rtol=1e-4, atol=1e-4)
    for name, content in side.items():
        (directory / name).write_bytes(content)


def test_flipped_bits_of_exports_are_seen(low, sweep, tmp_path):
    plain = tmp_path / "w.safetensors"
    assert export_weights.main([f"--from={sweep}", "--member=0", f"--to={plain}"]) == 0
    generator = np.random.default_rng(0)
    for path, read in (
        (low / "export" / "packed.safetensors", artifact.read),
        (low / "export" / "model.stablehlo", artifact.read),
        (plain, lambda path: import_weights.import_file(path, "tiny")),
    ):
        whole = path.read_bytes()
        read(path)
        for number in range(8):
            content = bytearray(whole)
            content[generator.integers(len(whole))] ^= 1 << generator.integers(8)
            damaged = tmp_path / f"{number}{path.suffix}"
            damaged.write_bytes(content)
            with pytest.raises(UserError) as caught:
                read(damaged)
            assert "\n" not in str(caught.value)
    arrays, metadata = safetensors_file.read(plain)
    renamed = {"form`t" if name == "format" else name: text for name, text in metadata.items()}
    safetensors_file.write(plain, arrays, renamed)
    with pytest.raises(CheckpointError, match="does not hold what its card was written for"):
        import_weights.import_file(plain, "tiny")


def test_a_card_that_says_too_little(low, tmp_path):
    path = low / "export" / "packed.safetensors"
    arrays, metadata = safetensors_file.read(path)
    card = json.loads(metadata["kdaug_jax"])
    for name in ("view", "channels"):
        fields = {key: value for key, value in card.items() if key not in (name, "seal")}
        copy = tmp_path / f"{name}.safetensors"
        safetensors_file.write(copy, arrays, {**metadata, "kdaug_jax": json.dumps(fields)})
        with pytest.raises(ConfigError, match=f"does not say '{name}', so what the network was"):
            artifact.read(copy)


def test_predict_says_what_answers_and_goes_on(low, named, tmp_path, capsys):
    from PIL import Image

    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, named.image, strict=False):
        Image.fromarray(image).save(path)
    paths[1].write_bytes(b"nothing")
    model = f"--model={low / 'export'}"
    assert predict.main([model, "--top=1", *map(str, paths)]) == 3
    printed = capsys.readouterr()
    assert [line for line in printed.out.splitlines() if not line.startswith(" ")] == [
        str(paths[0]), str(paths[2])
    ]
    assert "1.png: image 1 is not a PNG" in printed.err
    assert 'model: resnet8, step 5, BatchNorm branch 0, options {"bits": [4, 4]}' in printed.err


def test_two_checkouts_give_one_function(named, sweep):
    content = (sweep / "export" / "0" / "model.stablehlo").read_bytes()
    assert b".py" not in content and b"/kdaug_jax/" not in content
    card = artifact.read(sweep / "export" / "0")[0]
    assert dataclasses.replace(card, member="").describe().startswith("tiny, step 15")
