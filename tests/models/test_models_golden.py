"""Networks against stored outputs of their originals; `make slow` adds the others."""

import shutil

import numpy as np
import pytest

from tests import check_golden
from tests import golden_models as golden

# One of each kind of block; their compilation takes the time.
FAST = (
    "lenet_vrm",
    "resnet8x4",
    "wrn_16_2",
    "vgg8",
    "MobileNetV2",
    "ShuffleV1",
    "shake26_2x32d",
    "pyramidnet29_a48_shakedrop_tiny",
    "rolekd_resnet18",
    "tv_resnet34",
    "efficientnet_b0_odd",
)


@pytest.mark.parametrize("name", FAST)
def test_forward_is_golden(name):
    assert list(golden.differences(golden.STORED / f"{name}.npz")) == []


@pytest.fixture
def folder(tmp_path):
    """A folder with one good file, and a way to add changed copies of it."""
    good = golden.STORED / "lenet_vrm.npz"
    shutil.copy(good, tmp_path)

    def add(stem, **changes):
        with np.load(good) as stored:
            np.savez(tmp_path / f"{stem}.npz", **(dict(stored) | changes))

    return tmp_path, add


def test_check_passes_and_fails(folder, capsys):
    path, add = folder
    with np.load(path / "lenet_vrm.npz") as stored:
        logits, values = stored["logits"], stored["tap/conv2/values"]
        stats, sums = stored["tap/conv1/stats"], stored["param_sums"]
    assert golden.check(path) == (1, 0)
    add("lenet_vrm_again")
    add("lenet_vrm_logits", logits=logits + 2e-4 * logits.std())
    add("lenet_vrm_feature", **{"tap/conv2/values": values + 2e-4 * values.std()})
    add("lenet_vrm_stats", **{"tap/conv1/stats": stats * (1, 1, 1.001)})
    add("lenet_vrm_sums", param_sums=sums + 1e-3)
    add("lenet_vrm_more", **{"tap/conv9/shape": np.array([2, 1])})
    add("resnet8_of_lenet")
    add("unheard_of")
    (path / "vgg8.npz").write_bytes(b"no arrays")
    capsys.readouterr()
    assert check_golden.main(["models", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 passed, 8 failed"
    verdicts = dict(line.split(": ", 1) for line in lines[:-1])
    assert verdicts["lenet_vrm"] == verdicts["lenet_vrm_again"] == "agrees"
    assert "logits differ by 2.0e-04" in verdicts["lenet_vrm_logits"]
    assert "feature conv2 differs by" in verdicts["lenet_vrm_feature"]
    assert "norm of feature conv1 differs by 1.0e-03" in verdicts["lenet_vrm_stats"]
    assert "other sums" in verdicts["lenet_vrm_sums"]
    assert "feature conv9 is missing" in verdicts["lenet_vrm_more"]
    assert "params/bn1/scale is missing" in verdicts["resnet8_of_lenet"]
    assert "no network's name begins 'unheard_of'" in verdicts["unheard_of"]
    assert verdicts["vgg8"]


def test_an_empty_folder_is_no_success(tmp_path, capsys):
    assert check_golden.main(["models", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed\n"
    for what in check_golden.CHECKS:
        assert check_golden.main([what, str(tmp_path)]) == 1
        with pytest.raises(SystemExit, match="2"):
            check_golden.main([what, str(tmp_path / "absent")])


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("MobileNetV2", "mobilenetv2"),
        ("efficientnet_b0_odd", "efficientnet_b0"),
        ("preresnet56_bottleneck", "preresnet56_bottleneck"),
        ("ResNet18_cifar_rd", "resnet18_cifar_rd"),
        ("wrn_40_2_aa", "wrn_40_2_aa"),
        ("pyramidnet272_a200_shakedrop", "pyramidnet272_a200_shakedrop"),
    ],
)
def test_the_longest_name_counts(stem, name):
    assert golden.network_of(stem) == name
