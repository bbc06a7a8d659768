"""Policy and schedule files, config strings, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.augment import policies
from kdaug_jax.augment.policies.timm import parse
from tests.augment.drawn import draw_many

SIZE = (32, 32)
FIRST, SECOND = [0] * 60, [0] * 59 + [3]
SECOND[58] = 10  # the second Contrast, always, at magnitude 3


def written(tmp_path, content, name="policy.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_file_of_fast_autoaugment(tmp_path):
    published = [
        [["Contrast", 0.83, 0.49], ["TranslateX", 0.41, 0.39]],
        [["Cutout", 1.0, 0.5], ["AutoContrast", 0.0, 0.2], ["Rotate", 1.0, 1.0]],
    ]
    path = written(tmp_path, {"levels": "fast", "sub_policies": published, "source": "a test"})
    policy = policies.autoaugment(path, size=SIZE)
    assert policy.stages == 3 and policy.fill == "black" and policy.channels == 3
    assert policy.cutout_fill == (125, 123, 114)
    values = {op.name: abs(op.value) for op in policy.ops if op.value is not None}
    assert values == pytest.approx({
        "contrast": 0.1 + 1.8 * 0.49, "translate_x": 32 * (0.45 - 0.9 * 0.39),
        "cutout_fast": 0.1 * 32, "rotate": 30,
    })
    rows = draw_many(policy, 4000)
    names = np.array([op.name for op in policy.ops])[rows]
    assert "auto_contrast" not in names  # it has probability 0
    second = names[:, 0] == "cutout_fast"
    assert 0.45 < second.mean() < 0.55 and (names[second, 2] == "rotate").all()
    assert (names[~second, 2] == "identity").all()
    bare = policies.autoaugment(written(tmp_path, published), size=SIZE, levels="fast")
    assert bare.ops == policy.ops


def entry(*ops, levels="released"):
    return {"levels": levels, "sub_policies": [[["Invert", 0.5, None]], list(ops)]}


@pytest.mark.parametrize(
    "content, what, remedy",
    [
        (entry(["ShaerX", 0.5, 1]), "sub-policy 2, op 1: unknown op 'ShaerX'", "mean ShearX"),
        (entry(["ShearX", 1.5, 1]), "op 1 (ShearX): probability 1.5", "must be 0..1"),
        (entry(["ShearX", True, 1]), "op 1 (ShearX): probability True", "must be 0..1"),
        (entry(["Invert", 1, 0], ["ShearX", 1, 11]), "op 2 (ShearX): level 11", "number, 0..10"),
        (entry(["ShearX", 1, None]), "level None", "0..10"),
        (entry(["Rotate", 1, 2.5]), "level 2.5", "a whole number, 0..10"),
        (entry(["Rotate", 1, 1.5], levels="fast"), "level 1.5", "must be 0..1"),
        (entry(["Rotate", 1, float("nan")], levels="fast"), "level nan", "must be 0..1"),
        (entry(["Rotate", 1]), "op 1 is ['Rotate', 1]", "[op, probability, level]"),
        (entry(), "sub-policy 2 is []", "list of ops"),
        (entry(["Cutout", 1, 9], levels="paper"), None, None),
        (entry(["Cutout", 1, 9], levels="tpu"), "square of 180 pixels", "lower level"),
        (entry(["Invert", 1, 1], levels="realeased"), "levels 'realeased'", "mean released"),
        ({"levels": "fast", "sub_policies": []}, "is empty", "at least one"),
        ({"levels": "fast", "sub_policies": {}}, "no list", "must be a list"),
        ({"sub_policies": []}, "has no 'levels'", "levels and sub_policies"),
        ({"levels": "fast", "policies": []}, "unknown key 'policies'", "mean sub_policies"),
        ([[["Invert", 1, 1]]], "has no 'levels'", "levels and sub_policies"),
        ("7", "holds no object", "levels, sub_policies"),
        ('{"levels":\n "fast",\n ]', "line 3", "must be JSON"),
    ],
)
def test_policy_files_are_checked(tmp_path, content, what, remedy):
    path = written(tmp_path, content)
    if what is None:
        assert policies.autoaugment(path, size=SIZE)
        return
    with pytest.raises(ValueError) as error:
        policies.autoaugment(path, size=SIZE)
    assert what in error.value.args[0] and error.value.args[0].startswith(path)
    assert remedy in error.value.args[1]


def test_absent_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        policies.autoaugment(str(tmp_path / "x.json"), size=SIZE)
    with pytest.raises(ValueError, match="cannot read"):
        (tmp_path / "y.json").mkdir()
        policies.read_schedule(str(tmp_path / "y.json"), 3)
    (tmp_path / "z.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="is not text"):
        policies.read_schedule(str(tmp_path / "z.json"), 3)
    strange = {
        "twice": ('{"levels": "fast", "levels": "tpu", "sub_policies": []}', "is given twice"),
        "long": ("9" * 5000, "cannot read"), "deep": ("[" * 100_000, "cannot read"),
    }
    for name, (text, message) in strange.items():
        (tmp_path / f"{name}.json").write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            policies.autoaugment(str(tmp_path / f"{name}.json"), size=SIZE)
        assert len(error.value.args) == 2
    with pytest.raises(ValueError, match="unknown policy 'cifar'") as error:
        policies.autoaugment("cifar", size=SIZE)
    assert "cifar10" in error.value.args[1]


def test_schedules_stretch_to_the_run(tmp_path):
    segments = [[57, FIRST], [3, SECOND], [0, FIRST], [40, [1] * 60]]
    path = written(tmp_path, {"segments": segments})
    table = policies.read_schedule(path, 100)
    assert table.shape == (100, 60) and table.dtype == np.int32
    lengths = [(table == policy).all(1).sum() for policy in (FIRST, SECOND, [1] * 60)]
    assert lengths == [57, 3, 40]
    long = policies.read_schedule(path, 900)
    assert [(long == policy).all(1).sum() for policy in (FIRST, SECOND)] == [513, 27]
    # 57, 3 and 40 thirds of an epoch: 19, 1, 13 whole ones, and one more of the last.
    short = policies.read_schedule(path, 34)
    lengths = [(short == policy).all(1).sum() for policy in (FIRST, SECOND, [1] * 60)]
    assert lengths == [19, 1, 14]


def test_a_schedule_applies_the_policy_of_the_epoch(tmp_path):
    path = written(tmp_path, {"segments": [[2, FIRST], [2, SECOND]]})
    policy = policies.schedule(path, 4, size=SIZE)
    draw = jax.jit(jax.vmap(policy.draw, (0, None)))
    keys = jax.random.split(jax.random.key(0), 400)
    epochs = [np.asarray(draw(keys, {"epoch": jnp.int32(epoch)})) for epoch in (0, 1, 2, 3, 7)]
    assert draw._cache_size() == 1
    assert not epochs[0].any() and not epochs[1].any()
    np.testing.assert_array_equal(epochs[2], epochs[3])
    np.testing.assert_array_equal(epochs[2], epochs[4])
    assert {policy.ops[row] for row in np.unique(epochs[2])} == {
        policies.IDENTITY, policies.Op("contrast", 3 * 1.8 / 10 + 0.1)
    }
    assert 0.7 < (epochs[2][:, 0] > 0).mean() < 0.9
    flat = policies.schedule(path, 4, size=SIZE, flatten=True)
    assert 0.3 < (draw_many(flat, 2000)[:, 0] > 0).mean() < 0.5


WRONG = [*FIRST]
WRONG[46] = 11


@pytest.mark.parametrize(
    "content, what, remedy",
    [
        ({"segments": [[3, FIRST], [2, WRONG]]},
         "segment 2: probability of ShearX (copy 2, number 47) is 11", "0..10"),
        ({"segments": [[3, [10] * 60]]},
         "segment 1: magnitude of Rotate (copy 1, number 2) is 10", "0..9"),
        ({"segments": [[3, [1.0] + [0] * 59]]}, "is 1.0", "whole number"),
        ({"segments": [[3, [0] * 30]]}, "the policy is 30", "must be 60"),
        ({"segments": [[-1, FIRST]]}, "segment 1: epochs is -1", "whole number"),
        ({"segments": [[0, FIRST]]}, "last 0 epochs", "at least 1"),
        ({"segments": [[3, FIRST, 1]]}, "segment 1 is no pair", "[epochs, "),
        ({"segments": []}, "no segments", "at least one"),
        ({"segment": []}, "unknown key 'segment'", "mean segments"),
        ("[[3, [0,]]]", "line 1", "must be JSON"),
    ],
)
def test_schedules_are_checked(tmp_path, content, what, remedy):
    with pytest.raises(ValueError) as error:
        policies.schedule(written(tmp_path, content), 10, size=SIZE)
    assert what in error.value.args[0] and remedy in error.value.args[1]


def test_config_strings():
    assert parse("rand-m9-mstd0.5-inc1") == (9, 2, 0.5, 0.5, 10, 1)
    assert parse("rand-n3-p.7-mmax20-m15-mstd101") == (15, 3, 0.7, 101, 20, 0)
    assert parse("rand") == (10, 2, 0.5, 0, 10, 0)


@pytest.mark.parametrize(
    "build, what, remedy",
    [
        (lambda: policies.timm("rand-m9-msdt0.5", size=SIZE), "part 'msdt0.5'", "mean mstd"),
        (lambda: policies.timm("rand-w0", size=SIZE), "unknown part 'w0'", "known: inc"),
        (lambda: policies.timm("rand-m9.5", size=SIZE), "cannot read 'm9.5'", "a whole number"),
        (lambda: policies.timm("rand-m", size=SIZE), "cannot read 'm'", "a whole number"),
        (lambda: policies.timm("rand-m9-m9", size=SIZE), "given twice", "once"),
        (lambda: policies.timm("rand-p1.5", size=SIZE), "'p1.5'", "0.0..1.0"),
        (lambda: policies.timm("augmix-m9", size=SIZE), "starts with 'augmix'", "rand-m9"),
        (lambda: policies.timm("rand-m9--n2", size=SIZE), "unknown part ''", "known"),
        (lambda: policies.timm("rand", size=SIZE, resample=("cubic",)), "'cubic'", "bicubic"),
        (lambda: policies.timm("rand", size=SIZE, resample=()), "empty", "name"),
        (lambda: policies.randaugment(2, 31, size=SIZE), "m is 31", "0..30"),
        (lambda: policies.randaugment(2, 3.0, size=SIZE), "m is 3.0", "whole"),
        (lambda: policies.randaugment(-1, 3, size=SIZE), "n is -1", "0.."),
        (lambda: policies.randaugment(2, 9, "tpu", size=SIZE), "from m=8 on", "m up to 7"),
        (lambda: policies.randaugment(2, 61, "tpu", size=(600, 600)), "m is 61", "0..60"),
        (lambda: policies.randaugment(2, 9, "tpuclean", size=SIZE), "'tpuclean'", "tpu_clean"),
        (lambda: policies.randaugment(2, 9, size=SIZE, ops=("Rotat",)), "'Rotat'", "Rotate"),
        (lambda: policies.randaugment(2, 9, size=SIZE, ops=()), "empty", "at least one"),
        (lambda: policies.randaugment(2, 9, size=SIZE, ops="Rotate"), "the text", "['Rotate']"),
        (lambda: policies.randaugment(2, 9, size=SIZE, cutout_const=3), "cutout_const", "tpu"),
        (lambda: policies.wei2020(2, 11, size=SIZE), "m is 11", "0..10"),
        (lambda: policies.wei2020(2, 1, size=SIZE, shear="angel"), "'angel'", "angle"),
        (lambda: policies.pba(size=(16, 16)), "square of 18", "released_scaled"),
        (lambda: policies.pba(size=SIZE, levels="fast"), "'fast'", "released"),
        (lambda: policies.pba([0] * 59, size=SIZE), "the policy is 59", "60"),
        (lambda: policies.schedule("x.json", 0, size=SIZE), "epochs is 0", "1.."),
    ],
)
def test_wrong_arguments_are_refused(build, what, remedy):
    with pytest.raises(ValueError) as error:
        build()
    assert len(error.value.args) == 2
    assert what in error.value.args[0] and remedy in error.value.args[1]


def test_small_images_take_scaled_or_smaller_strengths():
    assert policies.pba(size=(8, 8), levels="released_scaled").ops[1:]
    tpu = policies.randaugment(
        2, 9, "tpu_clean", size=SIZE, translate_const=14, cutout_const=6, ops=policies.WEI2020
    )
    names = {op.name for op in tpu.ops}
    assert len(names) == 15 and not names & {"cutout", "solarize_add"}
    assert tpu.hparams["m"].range.high == 60  # no squares
    assert policies.randaugment(2, 36, "tpu", size=(224, 224)).hparams["m"].default == 36


def test_the_line_of_what_is_wrong_is_told(tmp_path):
    """Found in the text: however it is broken into lines, and past keys and texts with brackets."""
    path = written(
        tmp_path,
        '{"source": "a [\\"text\\"]", "levels": "released",\n "sub_policies": [\n'
        '  [["Invert", 0.5, null],\n   ["ShearX", 1, 3]],\n\n  [["Rotate", 0.5, 2],\n'
        '   ["ShaerX", 0.5, 1]],\n  []]}\n',
    )
    with pytest.raises(ValueError, match="line 7, sub-policy 2, op 2: unknown op 'ShaerX'"):
        policies.autoaugment(path, size=SIZE)
    bare = written(tmp_path, '[\n[["Rotate", 0.5, 2]],\n[]\n]', "bare.json")
    with pytest.raises(ValueError, match=r"bare.json, line 3, sub-policy 2 is \[\]"):
        policies.autoaugment(bare, size=SIZE, levels="released")
    rows = ",\n".join(", ".join(["0"] * 6) for _ in range(10)).replace("0", "77", 1)
    text = '{"segments":\n[[1, [\n' + ", ".join(["0"] * 60) + "]],\n[2, [\n" + rows + "]]]}"
    plan = written(tmp_path, text, "schedule.json")
    with pytest.raises(ValueError, match="line 5, segment 2: probability of Rotate") as caught:
        policies.schedule(plan, size=SIZE)
    assert "number 1" in caught.value.args[0]
