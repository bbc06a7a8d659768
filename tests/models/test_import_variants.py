"""Networks of equal names and shapes but other arithmetic, against PyTorch written out here."""

import json

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError, ConfigError, UserError
from kdaug_jax.models import import_weights
from kdaug_jax.models.foreign import safetensors_file
from kdaug_jax.models.foreign.layouts import spelled_variant
from kdaug_jax.models.weights import to_torch

SIZE = 33  # odd, so that all paddings differ
SMALL = {"width": 0.25, "depth": 0.3}


def weights(path, name, options, seed=0):
    """Writes random weights with running statistics that matter; returns them in PyTorch's form."""
    model = models.create(name, 5, normalize="imagenet", **options)
    shapes = jax.eval_shape(lambda key: model.init(key, (64, 64)), jax.random.key(0))
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return generator.normal(0, 1.5 / fan_in**0.5, leaf.shape).astype(np.float32)
        if kind in ("scale", "var"):
            low = 1e-3 if kind == "var" else 0.5
            return generator.uniform(low, 1.0, leaf.shape).astype(np.float32)
        return generator.normal(0, 0.1, leaf.shape).astype(np.float32)

    state = to_torch(jax.tree_util.tree_map_with_path(draw, shapes))
    safetensors_file.write(path, state, {})
    return state


def images(count=3, size=SIZE):
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def answer(imported, image):
    card = imported.card
    model = models.create(
        card.arch, card.num_classes, normalize=(card.mean, card.std), **card.options
    )
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False)[0].logits)
    return np.asarray(apply(imported.variables, image))


def efficientnet(torch, state, image, same, epsilon):
    """EfficientNet as timm computes it, with TensorFlow's padding or with torch's."""
    functional = torch.nn.functional
    tensors = {name: torch.tensor(np.array(array)) for name, array in state.items()}

    def conv(x, name, stride=1, groups=1):
        kernel, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        side = kernel.shape[-1]
        if not same:
            return functional.conv2d(x, kernel, bias, stride, (side - 1) // 2, groups=groups)
        total = max((-(-x.shape[-1] // stride) - 1) * stride + side - x.shape[-1], 0)
        before, after = total // 2, total - total // 2
        x = functional.pad(x, (before, after, before, after))
        return functional.conv2d(x, kernel, bias, stride, groups=groups)

    def norm(x, name):
        parts = (tensors[f"{name}.{part}"] for part in
                 ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, eps=epsilon)

    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    x = torch.tensor(image).permute(0, 3, 1, 2) / 255
    x = functional.silu(norm(conv((x - mean) / std, "conv_stem", 2), "bn1"))
    for stage, stride in enumerate((1, 2, 2, 2, 1, 2, 1)):
        block = 0
        while f"blocks.{stage}.{block}.conv_dw.weight" in tensors:
            front, y = f"blocks.{stage}.{block}.", x
            names = ("bn1", "conv_pw", "bn2")
            if f"{front}conv_pwl.weight" in tensors:
                names = ("bn2", "conv_pwl", "bn3")
                y = functional.silu(norm(conv(y, f"{front}conv_pw"), f"{front}bn1"))
            y = conv(y, f"{front}conv_dw", stride if block == 0 else 1, y.shape[1])
            y = functional.silu(norm(y, front + names[0]))
            gate = y.mean((2, 3), keepdim=True)
            gate = functional.silu(conv(gate, f"{front}se.conv_reduce"))
            y = y * torch.sigmoid(conv(gate, f"{front}se.conv_expand"))
            y = norm(conv(y, front + names[1]), front + names[2])
            x = x + y if x.shape == y.shape else y
            block += 1
    x = functional.silu(norm(conv(x, "conv_head"), "bn2")).mean((2, 3))
    return (x @ tensors["classifier.weight"].T + tensors["classifier.bias"]).numpy()


@pytest.mark.slow
def test_both_variants_of_efficientnet(torch, tmp_path):
    path = tmp_path / "w.safetensors"
    state, image = weights(path, "efficientnet_b0", SMALL), images()
    logits = {
        "tf": efficientnet(torch, state, image, True, 1e-3),
        "timm": efficientnet(torch, state, image, False, 1e-5),
        "torchvision": efficientnet(torch, state, image, False, 1e-3),
    }
    assert np.abs(logits["tf"] - logits["timm"]).max() > 0.1
    checks = {}
    for variant, expected in logits.items():
        checks[variant] = tmp_path / f"{variant}.npz"
        np.savez(checks[variant], image=image, logits=expected)
    for variant, expected in logits.items():
        imported = import_weights.import_file(
            path, "efficientnet_b0", variant=variant, options=SMALL, check=checks[variant]
        )
        largest = np.abs(expected).max()
        np.testing.assert_allclose(answer(imported, image), expected, atol=1e-5 * largest)
        assert imported.card.options["variant"] == variant
        whose = "torchvision" if variant == "torchvision" else "timm"
        assert f"(variant {variant}: {whose}'s" in import_weights.describe(imported)
        assert "logits differ by at most" in imported.card.compared
    with pytest.raises(CheckpointError, match="computes otherwise: try another --variant"):
        import_weights.import_file(
            path, "tf_efficientnet_b0", options=SMALL, check=checks["timm"]
        )


def of_torchvision(name):
    """The name that torchvision gives an array of EfficientNet: its modules are counted."""
    module, _, leaf = name.rpartition(".")
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "features.8.0",
            "bn2": "features.8.1", "classifier": "classifier.1"}
    if module in ends:
        return f"{ends[module]}.{leaf}"
    _, stage, number, *rest = module.split(".")
    layer, first = ".".join(rest), stage == "0"
    # Without an expansion in the first stage, depthwise, gate and projection move up by one.
    place = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "3.0",
             "bn3": "3.1", "se.conv_reduce": "2.fc1", "se.conv_expand": "2.fc2"}
    if first:
        place = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "2.0", "bn2": "2.1",
                 "se.conv_reduce": "1.fc1", "se.conv_expand": "1.fc2"}
    return f"features.{int(stage) + 1}.{number}.block.{place[layer]}.{leaf}"


@pytest.mark.parametrize("prefix", ["", "module.student."])
def test_efficientnet_in_torchvisions_names(tmp_path, capsys, prefix):
    path = tmp_path / "plain.safetensors"
    state = weights(path, "efficientnet_b0", SMALL)
    spelled = {prefix + of_torchvision(name): array for name, array in state.items()}
    assert len(spelled) == len(state)
    safetensors_file.write(tmp_path / "theirs.safetensors", spelled, {})
    plain = import_weights.import_file(path, "efficientnet_b0", variant="timm", options=SMALL)
    theirs = import_weights.import_file(
        tmp_path / "theirs.safetensors", "efficientnet_b0", options=SMALL
    )
    assert theirs.card.options["variant"] == "timm"
    jax.tree.map(np.testing.assert_array_equal, plain.variables, theirs.variables)
    said = capsys.readouterr().out
    assert ("all names begin with 'module.student.', which is left out" in said) == bool(prefix)
    # B5 to B7 have another epsilon.
    assert spelled_variant("efficientnet_b4", spelled) == "timm"
    assert spelled_variant("efficientnet_b5", spelled) == "torchvision"
    with pytest.raises(ConfigError, match="torchvision.*contradict|contradicts itself"):
        import_weights.import_file(
            tmp_path / "theirs.safetensors", "efficientnet_b0", variant="tf", options=SMALL
        )


# Some of the arrays of networks of torchvision that are none here.
ELSEWHERE = {
    "mobilenet_v2": ("features.0.0.weight", "features.1.conv.0.0.weight", "features.18.0.weight",
                     "classifier.1.weight"),
    "mobilenet_v3": ("features.0.0.weight", "features.1.block.0.0.weight", "classifier.0.weight",
                     "classifier.3.weight"),
    "efficientnet_v2": ("features.0.0.weight", "features.1.0.block.0.0.weight",
                        "features.4.0.block.2.fc1.weight", "classifier.1.weight"),
    "mnasnet": ("layers.0.weight", "layers.8.0.layers.0.weight", "classifier.1.weight"),
}


@pytest.mark.parametrize("network", ELSEWHERE)
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("arch", ["mobilenetv2", "mobilenet_v2"])
def test_networks_of_torchvision_that_are_none_here(tmp_path, capsys, network, prefix, arch):
    path = tmp_path / "w.safetensors"
    array = np.zeros((2, 2), np.float32)
    safetensors_file.write(path, {prefix + name: array for name in ELSEWHERE[network]}, {})
    words = [f"--arch={arch}", f"--from={path}", f"--to={tmp_path / 'to'}"]
    assert import_weights.main(words) == 4
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and not (tmp_path / "to").exists()
    assert f"holds torchvision's {network}, and no network here computes as that does" in line


def test_an_unknown_variant_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    state = weights(path, "efficientnet_b0", SMALL)

    def refused(*args, **settings):
        with pytest.raises(UserError) as caught:
            import_weights.import_file(path, *args, options=SMALL, **settings)
        return str(caught.value)

    assert "--variant: is needed: networks with other arithmetic have the names and shapes" in (
        refused("efficientnet_b0")
    )
    assert "contradicts itself" in refused("tf_efficientnet_b0", variant="timm")
    assert "--variant: is 'tff'; did you mean tf?" in refused("efficientnet_b0", variant="tff")
    # The spelling of lukemelas' code, whose padding is TensorFlow's.
    renamed = {"_conv_stem.weight": state["conv_stem.weight"]}
    assert import_weights.spelled_variant("efficientnet_b0", renamed) == "tf"
    config = tmp_path / "config.json"
    for architecture, variant in (("efficientnet_b0", "timm"), ("tf_efficientnet_b0.in1k", "tf")):
        config.write_text(json.dumps({"architecture": architecture, "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 96, 64],
        }}))
        card = import_weights.import_file(path, "efficientnet_b0", options=SMALL).card
        assert card.options["variant"] == variant and card.size == (96, 64)
        assert card.mean == (127.5,) * 3
    assert "config.json: says variant tf, not timm" in refused("efficientnet_b0", variant="timm")
    assert "config.json: says mean (0.5, 0.5, 0.5), not (0.4, 0.4, 0.4)" in refused(
        "efficientnet_b0", mean=(0.4,) * 3, std=(0.5,) * 3
    )
    for content, message in (
        ({"architecture": "efficientnet_b1"}, "says that the weights are efficientnet_b1, not"),
        ({"architecture": "resnetblur50"}, "'resnetblur50', which is no network here"),
        ({"architecture": "efficientnet_b0", "model_args": {"output_stride": 8}},
         "efficientnet_b0 with output_stride=8, which answers otherwise"),
        ({"architecture": "efficientnet_b0", "global_pool": "max"}, "global_pool=max"),
    ):
        config.write_text(json.dumps(content))
        assert message in refused("efficientnet_b0")
    config.write_text("{")
    assert "config.json: cannot be read" in refused("efficientnet_b0")


def test_the_order_of_channels(tmp_path):
    path = tmp_path / "w.safetensors"
    weights(path, "resnet8", {})
    image = images()
    settings = dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    plain = import_weights.import_file(path, "resnet8", **settings)
    assert "--check=FILE.npz" in import_weights.describe(plain)
    bgr = import_weights.import_file(path, "resnet8", channels="bgr", **settings)
    expected = answer(plain, image)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(answer(bgr, image[..., ::-1]), expected, atol=1e-4 * largest)
    assert np.abs(answer(bgr, image) - expected).max() > 0.01 * largest


@pytest.mark.slow
def test_the_stride_of_bottlenecks(tmp_path):
    path = tmp_path / "w.safetensors"
    options = {"width": 0.125}
    weights(path, "tv_resnet50", options)
    image, settings = images(), dict(options=options)
    expected = answer(import_weights.import_file(path, "tv_resnet50", **settings), image)
    early = import_weights.import_file(path, "tv_resnet50", variant="v1", **settings)
    assert np.abs(answer(early, image) - expected).max() > 0.01
    with pytest.raises(ConfigError, match="--variant: is 'v1'; tv_resnet18 has one variant"):
        weights(path, "tv_resnet18", options)
        import_weights.import_file(path, "tv_resnet18", variant="v1", **settings)


def test_files_to_compare_with(tmp_path):
    path, check = tmp_path / "w.safetensors", tmp_path / "c.npz"
    weights(path, "resnet8", {})
    settings = dict(mean=(0.5,) * 3, std=(0.5,) * 3, check=check)

    def refused():
        with pytest.raises(CheckpointError) as caught:
            import_weights.import_file(path, "resnet8", **settings)
        return str(caught.value)

    for arrays, message in (
        (dict(image=images()), "has no logits; save image"),
        (dict(image=images()[..., :1], logits=np.zeros((3, 5))), "has images uint8[3, 33, 33, 1]"),
        (dict(image=images(), logits=np.zeros((2, 5))), "has logits float64[2, 5]"),
        (dict(image=images(), logits=np.ones((3, 5))), "logits differ by at most"),
        (dict(image=images(), logits=np.full((3, 5), np.nan)), "logits differ by at most nan"),
    ):
        np.savez(check, **arrays)
        assert message in refused()


@pytest.mark.parametrize("architecture, arguments, words", [
    ("resnet50", {"output_stride": 8}, "resnet50 with output_stride=8, which answers otherwise"),
    ("resnet50.tv_in1k", {"act_layer": "silu"}, "resnet50 with act_layer=silu, which answers"),
    ("tv_resnet50", {"norm_layer": "batchnorm2d", "norm_eps": 1e-3}, "norm_eps=0.001, which"),
    ("resnet50", {"aa_layer": "avg"}, "resnet50 with aa_layer=avg, which answers otherwise"),
    ("resnet50", {"stem_type": "deep"}, "resnet50 with stem_type=deep, which answers otherwise"),
    ("resnet50", {"avg_down": True}, "resnet50 with avg_down=True, which answers otherwise"),
    ("resnet50d", {}, "'resnet50d', which is no network here"),
    ("gluon_resnet50_v1b", {}, "'gluon_resnet50_v1b', which is no network here"),
    ("seresnet50", {}, "'seresnet50', which is no network here"),
    ("tresnet_m", {}, "'tresnet_m', which is no network here"),
])
def test_resnets_of_other_arithmetic_that_timm_names(tmp_path, capsys, architecture, arguments,
                                                     words):
    path = tmp_path / "w.safetensors"
    safetensors_file.write(path, {"fc.bias": np.zeros(5, np.float32)}, {})
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": architecture, "model_args": arguments})
    )
    to = tmp_path / "to"
    status = import_weights.main(["--arch=tv_resnet50", f"--from={path}", f"--to={to}"])
    assert status and words in capsys.readouterr().err and not to.exists()


def test_what_nothing_states_is_told(tmp_path, capsys):
    """A file without a config, or beside one of another kind, may be of any arithmetic."""
    path = tmp_path / "w.safetensors"
    state = weights(path, "tv_resnet18", {"width": 0.125})
    words = ["--arch=tv_resnet18", f"--from={path}", '--options={"width": 0.125}']
    assert import_weights.main([*words, f"--to={tmp_path / 'a'}"]) == 0
    told = "not compared with the original's answers, though networks of equal names and shapes may"
    printed = capsys.readouterr().out
    assert told in printed and "config.json" not in printed and "averaged" not in printed
    (tmp_path / "config.json").write_text(json.dumps(
        {"model_type": "resnet", "hidden_act": "silu", "downsample_in_first_stage": True}
    ))
    safetensors_file.write(path, {**state, "n_averaged": np.array(3)}, {})
    assert import_weights.main([*words, f"--to={tmp_path / 'b'}"]) == 0
    printed = capsys.readouterr().out
    assert told in printed and "the weights are averaged ones" in printed
    assert f"{tmp_path / 'config.json'} names no architecture, as timm's do: it is not" in printed


def test_raw_and_averaged_weights_side_by_side(tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    settings = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
    raw = weights(path, "resnet8", {}, seed=0)
    averaged = weights(path, "resnet8", {}, seed=1)

    def write(first, second, front=""):
        arrays = {f"{front}{first}{name}": array for name, array in raw.items()}
        arrays |= {f"{front}{second}{name}": array for name, array in averaged.items()}
        safetensors_file.write(path, arrays, {})

    def biases(key=""):
        imported = import_weights.import_file(path, "resnet8", key=key, **settings)
        return np.asarray(imported.variables["params"]["fc"]["bias"])

    for first, second, front, entry in (
        ("", "ema.", "", "ema"), ("ema_model.module.", "model.", "", "model"),
        ("model.", "model_ema.module.", "state_dict.", "model_ema"),
    ):
        write(first, second, front)
        raw_first = first != "ema_model.module."
        taken, other = (raw, averaged) if raw_first else (averaged, raw)
        np.testing.assert_array_equal(biases(), taken["fc.bias"])
        *before, line = capsys.readouterr().out.splitlines()
        assert "holds the network 2 times; the weights " in line
        assert len(before) == bool(front) and all("'state_dict.', which is" in b for b in before)
        advised = line.strip().rpartition("--entry=")[2]  # works as it is printed
        assert advised == (entry if raw_first else "ema_model")
        np.testing.assert_array_equal(biases(advised), other["fc.bias"])
        assert capsys.readouterr().out == ""
    with pytest.raises(CheckpointError, match="no weights under 'swa' .its names begin with state"):
        biases("swa")


def test_raw_and_averaged_weights_in_one_table_of_pytorch(torch, tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    raw, averaged = (weights(path, "resnet8", {}, seed=seed) for seed in (0, 1))
    state = {f"model.{name}": array for name, array in raw.items()}
    state |= {f"ema.{name}": array for name, array in averaged.items()}
    file = tmp_path / "w.ckpt"
    torch.save({"state_dict": {n: torch.tensor(np.array(a)) for n, a in state.items()}}, file)
    settings = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
    for key, expected in (("", raw), ("ema", averaged)):
        imported = import_weights.import_file(file, "resnet8", key=key, **settings)
        np.testing.assert_array_equal(
            imported.variables["params"]["fc"]["bias"], expected["fc.bias"]
        )
    assert "of 'model' are taken, and not those of --entry=ema" in capsys.readouterr().out
