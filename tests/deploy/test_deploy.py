"""Deployed networks: the same answers as the live student's, and clear refusals."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax.deploy import artifact, export, predict
from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.experiment.frozen.standalone import load_one
from kdaug_jax.models import export_weights
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.training import loop
from tests.conftest import tiny_config
from tests.data.photographs import photographs
from tests.deploy.conftest import NAMES, train


@pytest.fixture(scope="module")
def plain(named, tmp_path_factory):
    network = configs.network("tiny", trainable=True)
    return train(tmp_path_factory.mktemp("plain"), network, eval=dict(view="center_crop(8)"))


def live(directory, image):
    loaded = load_one(directory, say=print)
    apply = jax.jit(lambda v, image: loaded.model.apply(v, image, train=False)[0].logits)
    return np.asarray(apply(loaded.variables, image))


def cropped(image):
    keys = jax.random.split(jax.random.key(0), len(image))
    return np.asarray(views.build_augment("center_crop(8)")(keys, image))


def test_the_function_says_what_the_student_says(named, plain):
    directory, console = plain
    card, function = artifact.read(directory / "export")
    assert card.class_names == NAMES and card.size == (12, 12) and card.arch == "tiny"
    # The view of evaluation is inside; any number of images will do.
    for count in (1, 3, 40):
        image = named.image[:count]
        np.testing.assert_allclose(
            function(image), live(directory, cropped(image)), rtol=1e-4, atol=1e-5
        )
    # So it has the likelihood that the run found when it evaluated itself.
    results = json.loads((directory / "results.json").read_text())[""]
    logs = np.asarray(jax.nn.log_softmax(function(named.image)))
    nll = -logs[np.arange(40), named.label].mean()
    assert nll == pytest.approx(results["eval/test/nll"], rel=1e-5)
    assert set(jax.export.deserialize(
        bytearray((directory / "export" / "model.stablehlo").read_bytes())
    ).platforms) == {"cpu", "cuda", "tpu"}
    assert "model.stablehlo" in console and "packed" in console
    assert not (directory / "export" / "packed.safetensors").exists()


def test_packed_weights_say_the_same(named, quantised):
    directory, console = quantised
    expected = live(directory, named.image[:, :, ::-1])
    for packed in (False, True):
        _, function = artifact.read(directory / "export", packed)
        np.testing.assert_allclose(function(named.image), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).max() > 0.01
    assert "kernels of 4 bits" in console
    sizes = json.loads((directory / "export" / "sizes.json").read_text())
    files = {path.name: path.stat().st_size for path in (directory / "export").iterdir()}
    assert sizes["files"].items() <= files.items()
    whole, packed = (sum(row[column] for row in sizes["weights"]) for column in (2, 3))
    assert packed < 0.16 * whole
    # The file's header takes as much for a network that is small as for one that is large.
    assert sizes["files"]["packed.safetensors"] < 0.25 * whole
    assert "weights.safetensors" not in sizes["files"]  # a plain network would take them


def test_weights_beside_it_are_those_of_export_weights(plain, tmp_path):
    directory, _ = plain
    assert export_weights.main([f"--from={directory}", f"--to={tmp_path / 'w'}"]) == 0
    exported, written = (safetensors_file.read(path)[0] for path in
                (tmp_path / "w", directory / "export" / "weights.safetensors"))
    assert exported.keys() == written.keys()
    assert all(np.array_equal(exported[name], written[name]) for name in exported)


def test_predict(named, plain, tmp_path, capsys):
    directory, _ = plain
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, named.image, strict=False):
        Image.fromarray(image).save(path)
    words = [f"--model={directory / 'export'}", *map(str, paths)]
    assert predict.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(map(str, paths))
    chances = jax.nn.softmax(live(directory, cropped(named.image[:1])))[0]
    best = int(chances.argmax())
    assert lines[1] == f"  {100 * chances[best]:6.2f} %  {NAMES[best]}"
    assert len(lines) == 3 * (1 + 4)  # four classes are all there are
    assert predict.main([*words, "--top=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    # Another size only where it is asked for; a grey image is one of three equal channels.
    Image.fromarray(named.image[0]).convert("L").resize((40, 25)).save(tmp_path / "grey.png")
    grey = [f"--model={directory / 'export'}", str(tmp_path / "grey.png")]
    assert predict.main([*grey, "--resize"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert predict.main(grey) == 3
    assert "grey.png: has 40×25 pixels, the network takes 12×12; resize it" in error_of(capsys)


def error_of(capsys):
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize(("content", "message"), [
    (None, "cannot be read (No such file or directory); name a file"),
    (b"", "image 0 is an empty file"),
    (b"GIF89a", "image 0 is not a PNG, JPEG, WebP"),
    (b"\x89PNG\r\n\x1a\n" + bytes(40), "image 0 is "),
])  # fmt: skip
def test_images_of_the_wrong_kind(plain, tmp_path, capsys, content, message):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    assert predict.main([f"--model={plain[0] / 'export'}", str(path)]) == 3
    assert message in error_of(capsys)


def test_transparent_images_are_refused(plain, tmp_path, capsys):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (12, 12), (1, 2, 3, 4)).save(path)
    assert predict.main([f"--model={plain[0] / 'export'}", str(path)]) == 3
    assert "is partly transparent; give an opaque PNG or JPEG instead" in error_of(capsys)


def test_what_is_no_export(plain, tmp_path, capsys):
    image = str(tmp_path / "image.png")
    Image.new("RGB", (12, 12)).save(image)
    assert predict.main([f"--model={tmp_path}", image]) == 2
    assert "has no model.json; make one: python main.py --mode=export" in error_of(capsys)
    assert predict.main([f"--model={plain[0] / 'export'}", image, "--packed"]) == 2
    assert "holds no packed weights: the network is not quantised" in error_of(capsys)
    assert predict.main([f"--model={plain[0] / 'export'}", image, "--top=0"]) == 2
    assert "--top: is 0; at least 1" in error_of(capsys)
    with pytest.raises(ConfigError, match="holds no run; train it first"):
        export.export_run(tmp_path)


def test_a_damaged_function_is_not_run(named, tmp_path):
    directory, _ = train(tmp_path, configs.network("tiny", trainable=True))
    path = directory / "export" / "model.stablehlo"
    whole = path.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not the file that its card names; export it"):
        artifact.read(directory / "export")
    card = directory / "export" / "model.json"
    known = json.loads(card.read_text())
    path.write_bytes(whole)
    card.write_text(json.dumps({**known, "num_classes": 2}))
    with pytest.raises(CheckpointError, match="a card that is not as it was written; copy it"):
        artifact.read(directory / "export")
    del known["seal"]
    card.write_text(json.dumps({**known, "num_classes": 2, "class_names": ["ant", "bee"]}))
    with pytest.raises(CheckpointError, match="says 12×12 pixels and 2 classes, but the function"):
        artifact.read(directory / "export")
    # Exporting again replaces it, but nothing that is not an export.
    export.export_run(directory, stream=io.StringIO())
    artifact.read(directory / "export")
    (directory / "export" / "model.json").unlink()
    with pytest.raises(ConfigError, match="is there already"):
        export.export_run(directory, stream=io.StringIO())
    assert [path.name for path in directory.glob(".*")] == []


def test_members_of_a_population_are_exported_each(named, tmp_path):
    network = configs.network("tiny", trainable=True)
    directory, console = train(tmp_path, network, population=(("seed", (0, 1)),))
    first, second = (artifact.read(directory / "export" / name)[1] for name in "01")
    assert "seed=1: " in console
    assert np.abs(first(named.image[:2]) - second(named.image[:2])).max() > 1e-3


def test_the_selected_branch_goes_out(named, tmp_path, capsys):
    config = tiny_config(
        data=dict(source="named", batch_size=8),
        views={"x": "", "strong": {"ops": "flip", "branch": 1}},
        terms={"ce": configs.term("cross_entropy", ("x", "strong"))}, train=dict(epochs=1.0),
    )
    loop.train(config, tmp_path / "run", stream=io.StringIO())
    directory = tmp_path / "run"
    results = json.loads((directory / "results.json").read_text())[""]
    selected = int(results["eval/validation/chosen/number"])
    words = [f"--from={directory}", f"--to={tmp_path / 'w.safetensors'}"]
    assert export_weights.main(words) == 0
    accuracy = results[f"eval/validation/branch_{selected}/accuracy"]
    printed = capsys.readouterr().out
    assert f"step 5 (the last and the best), BatchNorm branch {selected} of 2" in printed
    assert f"float32, validation accuracy {100 * accuracy:.2f} %" in printed
    exported = safetensors_file.read(tmp_path / "w.safetensors")[0]
    for branch in (0, 1):
        assert export_weights.main(
            [*words[:1], f"--to={tmp_path / str(branch)}", f"--branch={branch}"]
        ) == 0
        named = safetensors_file.read(tmp_path / str(branch))[0]
        same = all(np.array_equal(exported[name], named[name]) for name in named)
        assert same == (branch == selected)
        loaded = load_one(f"{directory}@branch={branch}", say=print)
        mean = named["bn.running_mean"]
        np.testing.assert_array_equal(loaded.variables["batch_stats"]["bn"]["mean"][0], mean)
    capsys.readouterr()
    assert export_weights.main([*words[:1], f"--to={tmp_path / 'x'}", "--branch=2"]) == 2
    assert "has no BatchNorm branch 2; 0..1 exist" in error_of(capsys)
    stream = io.StringIO()
    export.export_run(directory, stream=stream)
    assert f"BatchNorm branch {selected} of 2" in stream.getvalue()
    assert artifact.read(directory / "export")[0].branch == selected
    for wrong, message in (
        (["--network=teacher"], "trained no 'teacher'"),
        (["--member=1"], "holds no member '1'; it is a single run, no sweep"),
    ):
        capsys.readouterr()
        assert export_weights.main([*words[:1], f"--to={tmp_path / 'x'}", *wrong]) == 2
        assert message in error_of(capsys)


def test_the_command_line(run, tmp_path, capsys):
    config = "--config=configs/digits_kd.py:smoke"
    assert run(config, f"--workdir={tmp_path}", "--mode=export") == 2
    assert "holds no run; train it first" in error_of(capsys)


def test_files_of_any_size_are_cropped_and_laid_on_the_runs_background(tmp_path, capsys):
    source = photographs(tmp_path / "set", {"train": 10, "validation": 2}, largest=60)
    config = tiny_config(
        data=dict(source=f"folder:{source}", batch_size=8, test="", alpha="white"),
        views={"x": "random_resized_crop(8)"}, train=dict(epochs=0.2),
        networks={"student": configs.network("tiny", trainable=True)},
        eval=dict(view="center_crop(8)|center_crop(8, 0)"),
    )
    loop.train(config, tmp_path / "run", stream=io.StringIO())
    export.export_run(tmp_path / "run", stream=io.StringIO())
    card, function = artifact.read(tmp_path / "run" / "export")
    assert (card.size, card.crop, card.alpha) == ((8, 8), "center_crop(8)", "white")
    drawn = Image.new("RGBA", (31, 20), (10, 200, 30, 0))
    drawn.save(tmp_path / "clear.png")
    Image.new("RGB", (31, 20), (255, 255, 255)).save(tmp_path / "white.png")
    images = [
        predict.read_image(tmp_path / f"{name}.png", 0, card, resize=False)
        for name in ("clear", "white")
    ]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (8, 8, 3) and function(images[0][None]).shape == (1, 4)
    model = f"--model={tmp_path / 'run' / 'export'}"
    assert predict.main([model, str(tmp_path / "clear.png")]) == 0
    assert "circle" in capsys.readouterr().out
