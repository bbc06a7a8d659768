"""Levels against the numbers that each source's functions give, written out."""

import numpy as np
import pytest

from kdaug_jax.augment import policies
from kdaug_jax.augment.policies import levels
from kdaug_jax.augment.policies.policy import Op
from kdaug_jax.augment.policies.timm import ops as timm_ops

SIZE = (32, 32)


def values(source, name, numbers, size=SIZE):
    return [source[name](number, size)[0].value for number in numbers]


def test_released_levels_are_those_of_the_code():
    found = {name: values(levels.released(), name, range(11)) for name in levels.released()}
    assert found["Rotate"] == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert found["TranslateX"] == found["TranslateY"] == list(range(11))
    np.testing.assert_allclose(found["ShearX"], np.arange(11) * 0.03, rtol=1e-15, atol=0)
    assert found["ShearX"] == found["ShearY"]
    for name in levels.ENHANCE:
        assert found[name][2] == 0.45999999999999996 and found[name][6] == 1.1800000000000002
        np.testing.assert_allclose(found[name], 0.1 + 0.18 * np.arange(11), rtol=1e-14)
    assert found["Posterize"] == [4, 4, 4, 3, 3, 2, 2, 2, 1, 1, 0]
    assert found["Solarize"] == [256, 231, 205, 180, 154, 128, 103, 77, 52, 26, 0]
    assert found["Cutout"] == list(range(0, 22, 2))
    assert found["Invert"] == [None] * 11


def test_scaled_levels_keep_their_share_of_the_image():
    scaled = levels.SOURCES["released_scaled"].levels
    assert values(scaled, "Cutout", range(11)) == list(range(0, 22, 2))
    assert values(scaled, "Cutout", [9], (64, 80)) == [36]
    assert values(scaled, "TranslateX", [9], (8, 8)) == [2]


TPU = {
    9: (27, 0.27, 90, 1.72, 3, 230, 99, 36),
    10: (30, 0.3, 100, 1.9, 4, 0, 110, 40),
    15: (45, 0.45, 150, 2.8, 6, 128, 165, 60),
    17: (51, 0.51, 170, 3.16, 6, 179, 187, 68),
    28: (84, 0.84, 280, 5.14, 1, 204, 308, 112),
    30: (90, 0.9, 300, 5.5, 1, 0, 330, 120),
    36: (108, 1.08, 360, 6.58, 1, 153, 396, 144),
}


@pytest.mark.parametrize("m", TPU)
def test_tpu_levels_are_those_of_the_code_with_what_wraps(m):
    names = ("Rotate", "ShearX", "TranslateY", "Color", "Posterize", "Solarize", "SolarizeAdd",
             "Cutout")
    found = [levels.tpu(False, 100, 40)[name](m, SIZE)[0].value for name in names]
    found[-1] /= 2
    np.testing.assert_allclose(found, TPU[m], rtol=1e-14)
    clean = levels.tpu(True, 100, 40)
    assert clean["Posterize"](m, SIZE)[0].value == min(max(int(m / 10 * 4), 1), 8)
    assert clean["Solarize"](m, SIZE)[0].value == min(int(m / 10 * 256), 256)


def test_tpu_levels_of_autoaugment():
    source = levels.SOURCES["tpu"].levels
    assert values(source, "Posterize", range(11)) == [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    solarize = [0, 25, 51, 76, 102, 128, 153, 179, 204, 230, 0]
    assert values(source, "Solarize", range(11)) == solarize
    assert values(source, "TranslateX", [9]) == [225] and values(source, "Cutout", [9]) == [180]


def test_torchvision_levels(torch):
    for bins in (10, 31):
        source = levels.torchvision(bins)
        for size in ((32, 32), (240, 331)):
            for name, axis in (("TranslateX", 1), ("TranslateY", 0)):
                line = torch.linspace(0.0, 150.0 / 331.0 * size[axis], bins).tolist()
                assert values(source, name, range(bins), size) == [-int(by) for by in line]
        assert values(source, "ShearX", range(bins)) == torch.linspace(0.0, 0.3, bins).tolist()
        assert values(source, "Rotate", range(bins)) == torch.linspace(0.0, 30.0, bins).tolist()
        by = torch.linspace(0.0, 0.9, bins).tolist()
        pairs = [source["Color"](number, SIZE) for number in range(bins)]
        assert [(a.value, b.value) for a, b in pairs] == [(1.0 + x, 1.0 - x) for x in by]
        lost = (torch.arange(bins) / ((bins - 1) / 4)).round().int()
        assert values(source, "Posterize", range(bins)) == (8 - lost).tolist()
        thresholds = np.ceil(torch.linspace(255.0, 0.0, bins).numpy()).astype(int).tolist()
        assert values(source, "Solarize", range(bins)) == thresholds


def test_torchvision_levels_written_out():
    source = levels.torchvision(31)
    assert values(source, "TranslateX", [9, 30]) == [-4, -14]
    assert values(source, "Posterize", [0, 9, 30]) == [8, 7, 4]
    assert values(source, "Solarize", [0, 9, 30]) == [255, 179, 0]  # 255 - 8.5 * 9 = 178.5
    np.testing.assert_allclose(values(source, "Rotate", range(31)), range(31), rtol=1e-6)


def test_fast_levels_span_their_ranges():
    source = levels.fast()
    size = (40, 24)
    for name, low, high in (
        ("ShearX", -0.3, 0.3), ("ShearY", -0.3, 0.3), ("TranslateX", -10.8, 10.8),
        ("TranslateY", -18, 18), ("Rotate", -30, 30), ("Solarize", 0, 256), ("Posterize", 4, 8),
        ("Brightness", 0.1, 1.9), ("Contrast", 0.1, 1.9), ("Color", 0.1, 1.9),
        ("Sharpness", 0.1, 1.9), ("Cutout", 0, 4.8),
    ):
        np.testing.assert_allclose(values(source, name, [0, 1], size), [low, high], atol=1e-12)
    assert source["Cutout"](0.5, size)[0].name == "cutout_fast"
    assert values(source, "Posterize", [0.49]) == [5]
    plus, minus = source["Rotate"](0.25, size)
    assert plus.value == -minus.value == -15


def test_timm_increasing_levels():
    source = timm_ops(True)
    pairs = {name: source[name](9, (224, 100)) for name in source}
    assert len(source) == 15
    for name in levels.ENHANCE:
        np.testing.assert_allclose([op.value for op in pairs[name]], [1.81, 0.19], rtol=1e-12)
    assert source["Color"](10, SIZE)[1].value == 0.1
    np.testing.assert_allclose(pairs["TranslateXRel"][0].value, 0.405 * 100)
    np.testing.assert_allclose(pairs["TranslateYRel"][1].value, -0.405 * 224)
    single = {name: values(source, name, [0, 5, 9, 10, 20]) for name in source}
    assert single["Posterize"] == [4, 2, 1, 0, 0]
    assert single["Solarize"] == [256, 128, 26, 0, 0]
    assert single["SolarizeAdd"] == [0, 55, 99, 110, 128]
    assert single["Rotate"] == [0, 15, 27, 30, 60]


def test_timm_levels_without_increase():
    source = timm_ops(False)
    assert values(source, "Posterize", [0, 5, 9, 10]) == [0, 2, 3, 4]
    assert values(source, "Solarize", [0, 5, 9, 10, 20]) == [0, 128, 230, 256, 256]
    np.testing.assert_allclose(values(source, "Color", [0, 9]), [0.1, 1.72])
    assert source["Color"](9, SIZE)[0] == source["Color"](9, SIZE)[1]


def test_randaugment_of_the_paper_spans_autoaugments_ranges():
    source = policies.SPACES["paper"](SIZE, None, None).levels
    assert len(source) == 14 and "Invert" not in source
    for name, first, last in (
        ("Rotate", 0, 30), ("ShearX", 0, 0.3), ("TranslateY", 0, 32 * 150 / 331),
        ("Solarize", 256, 0), ("Posterize", 8, 4), ("Color", 0.1, 1.9),
    ):
        np.testing.assert_allclose(values(source, name, [0, 30]), [first, last], atol=1e-12)


def test_trivialaugment_reaches_wide():
    policy = policies.trivialaugment_wide(size=SIZE)
    by_name = {}
    for op in policy.ops:
        by_name.setdefault(op.name, []).append(op.value)
    assert len(by_name) == 14
    reach = {
        "shear_x": 0.99, "shear_y": 0.99, "translate_x": 32, "translate_y": 32, "rotate": 135
    }
    for name, far in reach.items():
        np.testing.assert_allclose([min(by_name[name]), max(by_name[name])], [-far, far], rtol=1e-6)
    reached = [[min(by_name[name]), max(by_name[name])] for name in levels.ENHANCE.values()]
    np.testing.assert_allclose(reached, [[0.01, 1.99]] * 4, rtol=1e-5)
    assert sorted(by_name["posterize"]) == [2, 3, 4, 5, 6, 7, 8]
    assert (min(by_name["solarize"]), max(by_name["solarize"])) == (0, 255)


def test_wei2020_options():
    def ops(m, **options):
        policy = policies.wei2020(1, m, size=SIZE, **options)
        return {op for op in policy.ops if op.name in ("shear_x", "cutout", "erase_square")}

    assert Op("erase_square", 16) in ops(5) and Op("erase_square", 23) in ops(5, cutout="area")
    assert Op("cutout", 32) in ops(5, cutout="clipped")
    assert Op("cutout", 64) in ops(5, cutout="clipped")  # magnitude 10 hides everything
    angles = sorted(op.value for op in ops(5, shear="angle") if op.name == "shear_x")
    assert len(angles) == 19 and np.isclose(angles[-1], np.tan(np.radians(81)))
    visible = sorted(op.value for op in ops(5) if op.name == "shear_x")
    np.testing.assert_allclose(visible[-3:], [5 / 3, 2.5, 5])
    moves = {op.value for op in policies.wei2020(1, 3, size=SIZE).ops if op.name == "translate_y"}
    assert {abs(by) for by in moves} == {0, 3, 6, 10, 13, 16, 19, 22, 26, 29, 32}
    assert moves == {-by for by in moves}
