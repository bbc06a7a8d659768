"""Weights from PyTorch and back: the same logits in every layout, in every wrapper."""

import re
import shlex

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError
from kdaug_jax.models import import_weights
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.models.foreign.layouts import layout_of
from kdaug_jax.models.weights import to_torch

CLASSES = 7
STATISTICS = ["--mean=0.5,0.45,0.4", "--std=0.2,0.25,0.3"]
LAYOUTS = {
    "tv_resnet18": "torchvision", "efficientnet_b0": "timm", "resnet8": "RepDistiller",
    "wrn_16_1": "RepDistiller", "vgg8": "RepDistiller", "wrn_16_2_faa": "Fast AutoAugment",
    "resnet18_cifar": "pytorch-cifar", "preresnet20": "pytorch-classification",
    "lenet_vrm": "kdaug_jax",
}  # fmt: skip


@pytest.fixture(scope="module")
def layouts(torch):
    from tests.models import torch_layouts

    return torch_layouts


def ours(name, imported, image):
    card = imported.card
    model = models.create(
        name, card.num_classes, normalize=(card.mean, card.std), **card.options
    )
    run = jax.jit(
        lambda variables, image: model.apply(variables, image, train=False)[0].logits,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return np.asarray(run(imported.variables, image))


def torch_logits(torch, network, card, image):
    mean, std = (np.float32(values) for values in (card.mean, card.std))
    pixels = ((image.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        return network(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()


@pytest.mark.parametrize("name", LAYOUTS)
def test_import_and_export_say_the_same(torch, layouts, tmp_path, name):
    from safetensors.torch import load_file, save_file

    make, side = layouts.NETWORKS[name]
    network = layouts.randomise(make(CLASSES), 1)
    path = tmp_path / "theirs.safetensors"
    save_file(network.state_dict(), path)
    imported = import_weights.import_file(
        path, name, size=(side, side) if name != "lenet_vrm" else None,
        mean=(0.5, 0.45, 0.4), std=(0.2, 0.25, 0.3),
        variant="tf" if name.startswith("efficientnet") else "",
    )
    assert imported.card.layout == layout_of(name).name == LAYOUTS[name]
    assert imported.card.num_classes == CLASSES
    image = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    expected = torch_logits(torch, network, imported.card, image)
    logits = ours(name, imported, image)
    assert np.std(expected, axis=0).max() > 1e-2  # the images are told apart
    np.testing.assert_allclose(logits, expected, atol=2e-4 * np.abs(expected).max())

    back = tmp_path / "ours.safetensors"
    safetensors_file.write(back, to_torch(imported.variables), {"format": "pt"})
    again = make(CLASSES)
    again.load_state_dict(load_file(back), strict=True)
    # What came from there goes back unchanged, so not only to a tolerance.
    np.testing.assert_array_equal(torch_logits(torch, again.eval(), imported.card, image), expected)


@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_wrappers_of_training_scripts(torch, layouts, tmp_path, wrap, prefix):
    state = layouts.randomise(layouts.NETWORKS["resnet8"][0](100), 2).state_dict()
    state = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / "checkpoint.pth"
    extra = {"epoch": 3, "best_acc": torch.tensor(71.0), "optimizer": {"lr": 0.1, "state": {}}}
    torch.save({wrap: state, **extra} if wrap else state, path)
    card, variables = import_weights.import_file(path, "resnet8")
    kernel = state[prefix + "layer2.0.conv1.weight"].numpy()
    np.testing.assert_array_equal(
        variables["params"]["layer2_0"]["conv1"]["kernel"], kernel.transpose(2, 3, 1, 0)
    )
    # The code that publishes such weights normalises with the statistics of CIFAR-100.
    assert card.mean == pytest.approx([255 * value for value in (0.5071, 0.4867, 0.4408)], abs=1e-3)


def test_an_entry_may_be_named(torch, layouts, tmp_path):
    first, second = (
        layouts.randomise(layouts.NETWORKS["resnet8"][0](100), seed).state_dict()
        for seed in (1, 2)
    )
    path = tmp_path / "both.pth"
    torch.save({"model": first, "ema": second}, path)
    kernel = {
        key: import_weights.import_file(path, "resnet8", key=key).variables["params"]["fc"]
        for key in ("", "ema")
    }
    np.testing.assert_array_equal(kernel[""]["bias"], first["fc.bias"])
    np.testing.assert_array_equal(kernel["ema"]["bias"], second["fc.bias"])
    with pytest.raises(CheckpointError, match="no weights under 'swa' .it holds model, ema."):
        import_weights.import_file(path, "resnet8", key="swa")


def test_a_network_beside_other_weights_is_named(torch, layouts, tmp_path):
    state = layouts.randomise(layouts.NETWORKS["resnet8"][0](100), 1).state_dict()
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": {**named, "criterion.weight": torch.ones(3)}}, path)
    with pytest.raises(CheckpointError, match="--entry=model, below which all of resnet8 lies"):
        import_weights.import_file(path, "resnet8")
    variables = import_weights.import_file(path, "resnet8", key="model").variables
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], state["fc.bias"])


def test_the_other_spelling_of_efficientnet(torch, layouts, tmp_path):
    """Blocks that are counted through, as Fast AutoAugment's checkpoints have them."""
    from safetensors.torch import save_file

    state = layouts.randomise(layouts.EfficientNet(CLASSES), 3).state_dict()
    names, first, number, spelled = list(state), {}, -1, {}
    for name in names:
        match = re.match(r"blocks\.(\d)\.(\d)\.(.+)\.(\w+)$", name)
        if match and match[1] + match[2] not in first:
            number += 1
            first[match[1] + match[2]] = number
        if match:
            stem = match[1] == "0"
            layer = {
                "conv_pw": "_project_conv" if stem else "_expand_conv",
                "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv",
                "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand",
                "bn1": "_bn1" if stem else "_bn0",
                "bn2": "_bn2" if stem else "_bn1", "bn3": "_bn2",
            }[match[3]]
            new = f"_blocks.{first[match[1] + match[2]]}.{layer}.{match[4]}"
        else:
            module, leaf = name.split(".")
            new = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head",
                   "bn2": "_bn1", "classifier": "_fc"}[module] + f".{leaf}"
        spelled["module." + new] = state[name]
    assert number == 15 and len(spelled) == len(state)
    for file, arrays in (("plain", state), ("spelled", spelled)):
        save_file(arrays, tmp_path / f"{file}.safetensors")
    plain, wrapped = (
        import_weights.import_file(tmp_path / f"{file}.safetensors", arch, size=(32, 32)).variables
        for file, arch in (("plain", "tf_efficientnet_b0"), ("spelled", "efficientnet_b0"))
    )
    jax.tree.map(np.testing.assert_array_equal, plain, wrapped)


def test_pickles_that_hold_more_are_refused(torch, tmp_path, capsys):
    class Opener:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    path = tmp_path / "hostile.pth"
    torch.save({"model": {"w": torch.zeros(1)}, "extra": Opener()}, path)
    words = ["--arch=resnet8", f"--from={path}", f"--to={tmp_path / 'to'}"]
    assert import_weights.main(words) == 4
    line = capsys.readouterr().err
    assert line.startswith(f"error: {path}: holds more than weights") and line.count("\n") == 1
    assert "convert it" in line and "save_file" in line
    assert not (tmp_path / "run").exists() and not (tmp_path / "to").exists()


class Recipe:
    """What scripts of training keep beside the weights."""


@pytest.mark.parametrize("kind", ["plain", "timm", "Lightning", "module", "parallel", "entry"])
def test_the_command_that_converts_is_right(
    torch, layouts, tmp_path, capsys, monkeypatch, kind
):
    network = layouts.randomise(layouts.NETWORKS["resnet8"][0](CLASSES), 3)
    state, extra = network.state_dict(), Recipe()
    path, key = tmp_path / "it's a checkpoint.pth", ""
    if kind == "plain":
        saved = dict(state, recipe=extra)
    elif kind == "timm":
        saved = {"epoch": 3, "arch": "resnet", "state_dict": state, "args": extra}
    elif kind == "Lightning":
        named = {f"model.{name}": tensor for name, tensor in state.items()}
        saved = {"epoch": 3, "state_dict": named, "hyper_parameters": extra, "callbacks": {}}
    elif kind == "module":
        saved = network
    elif kind == "parallel":
        saved = {"model": torch.nn.DataParallel(network), "recipe": extra}
    else:
        saved, key = {"model": {"w": torch.zeros(1)}, "ema": state, "recipe": extra}, "ema"
    torch.save(saved, path)
    words = ["--arch=resnet8", f"--from={path}", f"--to={tmp_path / 'to'}", *STATISTICS]
    assert import_weights.main([*words, *[f"--key={key}"] * bool(key)]) == 4
    line = capsys.readouterr().err
    command = shlex.split(line.partition("convert it where PyTorch is: ")[2])
    assert command[:2] == ["python", "-c"] and command[3:] == [str(path)]
    monkeypatch.setattr("sys.argv", ["-c", *command[3:]])
    exec(compile(command[2], "command", "exec"), {})
    converted = import_weights.import_file(
        f"{path}.safetensors", "resnet8", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    np.testing.assert_array_equal(
        converted.variables["params"]["fc"]["bias"], state["fc.bias"].numpy()
    )


@pytest.mark.parametrize("cut", [0, 3, 60, 2000, -40])
def test_pickles_that_were_cut_off(torch, tmp_path, capsys, cut):
    path = tmp_path / "cut.pth"
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    words = ["--arch=resnet8", f"--from={path}", f"--to={tmp_path / 'to'}"]
    assert import_weights.main(words) == 4
    line = capsys.readouterr().err
    assert line.startswith(f"error: {path}: ") and line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pth"]


def test_a_pickle_that_is_called_safetensors(torch, tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    torch.save({"w": torch.zeros(10)}, path)
    words = ["--arch=resnet8", f"--from={path}", f"--to={tmp_path / 'to'}"]
    assert import_weights.main(words) == 4
    assert "is a pickle of PyTorch, not a safetensors file; rename it" in capsys.readouterr().err


def test_bfloat16_is_cast_where_asked(torch, layouts, tmp_path):
    state = layouts.randomise(layouts.NETWORKS["resnet8"][0](100), 2).state_dict()
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    path = tmp_path / "half.pth"
    torch.save(half, path)
    with pytest.raises(CheckpointError, match="is bfloat16, not float32; --cast"):
        import_weights.import_file(path, "resnet8")
    variables = import_weights.import_file(path, "resnet8", cast=True).variables
    np.testing.assert_array_equal(
        variables["params"]["fc"]["bias"], half["fc.bias"].float().numpy()
    )
