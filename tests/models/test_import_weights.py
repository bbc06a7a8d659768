"""The command that imports weights: what it writes, and what it says of files that do not fit."""

import json
import pickle
import re

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError, UserError
from kdaug_jax.models import export_weights, import_weights
from kdaug_jax.models.foreign import layouts, opened, safetensors_file
from kdaug_jax.models.variables import flatten
from kdaug_jax.models.weights import to_torch, torch_name
from kdaug_jax.runtime import checkpoint, model_card
from kdaug_jax.runtime.digest import sha256_file
from tests.tiny import RAW

STATISTICS = ["--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.25"]


@pytest.fixture
def weights(initialised, tmp_path):
    """A file of weights, and a way to write changed copies of it."""
    state = to_torch(initialised("tiny", 4, size=8)[1])

    def write(name="weights.safetensors", **changes):
        arrays = {**state, **changes}
        path = tmp_path / name
        kept = {key: array for key, array in arrays.items() if array is not None}
        safetensors_file.write(path, kept, {})
        return path

    return write


@pytest.fixture
def call(tmp_path, capsys):
    """Calls the command; returns its exit status and what it printed."""
    def run(path, *words, arch="tiny"):
        to = () if any(word.startswith("--to") for word in words) else (f"--to={tmp_path / 'to'}",)
        status = import_weights.main([f"--arch={arch}", f"--from={path}", *to, *words])
        printed = capsys.readouterr()
        if status:
            assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
            assert not (tmp_path / "to").exists() and not list(tmp_path.glob(".*"))
        return status, printed.err or printed.out

    return run


def test_a_teacher_directory(weights, call, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    names = f"--class_names={tmp_path / 'names.txt'}"
    status, printed = call(weights(), "--size=8", names, *STATISTICS)
    assert status == 0
    assert "tiny: 136 parameters, 4 classes" in printed and "class names: known" in printed
    card = model_card.read(tmp_path / "to" / "card.json")
    assert card.class_names == ("ant", "bee", "cat", "dog") and card.size == (8, 8)
    assert card.mean == (127.5,) * 3 and card.std == (63.75,) * 3
    assert card.sha256 == sha256_file(weights())
    params = checkpoint.load_subtree(tmp_path / "to" / "checkpoints", ("params",), print)
    state, _ = safetensors_file.read(weights())
    np.testing.assert_array_equal(params["fc"]["kernel"].T, state["fc.weight"])
    again = ["--arch=tiny", f"--from={weights()}", f"--to={tmp_path / 'to'}"]
    assert import_weights.main(again) == 2
    assert "is there already; name another folder" in capsys.readouterr().err


def bad(what):
    """Rows: changes of the file, words of the command line, exit status, printed words."""
    f32 = np.float32
    return {
        "missing": ({"bn.weight": None}, [], 4, "does not fit tiny: bn.weight is missing"),
        "extra": ({"bn9.weight": f32([1, 2])}, [], 4, "bn9.weight is extra"),
        "shape": ({"conv.weight": np.zeros((4, 3, 5, 5), f32)}, [], 4,
                  "conv.weight has shape (4, 3, 5, 5), not (4, 3, 3, 3)"),
        "rank": ({"fc.weight": np.zeros((4, 4, 1), f32)}, [], 4, "fc.weight has shape (4, 4, 1)"),
        "classes": ({}, ["--classes=5"], 4, "its classifier has 4 classes, not 5; --classes=4"),
        "half": ({"fc.bias": np.zeros(4, np.float16)}, [], 4,
                 "'fc.bias' is float16, not float32; --cast turns it into float32"),
        "integers": ({"fc.bias": np.zeros(4, np.int32)}, ["--cast"], 4, "'fc.bias' is int32"),
        "nan": ({"fc.bias": f32([0, np.nan, 0, 0])}, [], 4, "'fc.bias' holds values that are not"),
        "too large": ({"fc.bias": np.full(4, 1e300)}, ["--cast"], 4, "'fc.bias' holds values that"),
        "twice": ({"layer1.0.w.weight": f32([[1]]), "layer1_0.w.weight": f32([[1]])}, [], 4,
                  "has two arrays that mean 'layer1.0.w.weight'; keep one of them"),
        "a name of many lines": ({"a\nb\x1b[31m": f32([1])}, [], 4, r"a\nb\x1b[31m is extra"),
        "unit": ({}, ["--mean=123,117,104"], 2, "--mean: is '123,117,104'; 3 numbers for pixels 0"),
        "half of them": ({}, ["--mean=.5,.5,.5"], 2, "--mean and --std: are needed together"),
        "size": ({}, ["--size=2"], 2, "--size: tiny needs at least 4 pixels a side, not 2×2"),
        "options": ({}, ['--options={"bits": 3}'], 2, "--options: tiny has no 'bits'"),
        "json": ({}, ["--options={"], 2, "--options: is no JSON"),
        "list": ({}, ["--options=[1]"], 2, "--options: is [1]; a JSON object"),
        "an argument": ({}, ['--options={"num_classes": 4}'], 2, "--options: has 'num_classes'"),
        "deviation": ({}, ["--mean=0,0,0", "--std=1,0,1"], 2, "--std: is '1,0,1'; every value abo"),
        "variance": ({"bn.running_var": f32([1, -1, 1, 1])}, [], 4,
                     "'bn.running_var' holds variances below 0"),
        "no names": ({}, ["--class_names=absent"], 2, "--class_names: absent cannot be read"),
    }[what]  # fmt: skip


@pytest.mark.parametrize("what", [
    "missing", "extra", "shape", "rank", "classes", "half", "integers", "nan", "too large", "twice",
    "a name of many lines", "unit", "half of them", "size", "options", "json", "list",
    "an argument", "deviation", "variance", "no names",
])  # fmt: skip
def test_what_does_not_fit(weights, call, what):
    changes, arguments, status, words = bad(what)
    given = [] if "--mean" in " ".join(arguments) else STATISTICS
    exit_status, line = call(weights(**changes), *given, *arguments)
    assert exit_status == status and words in line


def test_what_is_no_file_of_weights(weights, call, tmp_path):
    assert "absent is not a file" in call(tmp_path / "absent")[1].replace(": is", " is")
    assert "unknown network 'tiny_wid'; did you mean" in call(weights(), arch="tiny_wid")[1]
    names = tmp_path / "names.json"
    names.write_text('["a", "b"]')
    line = call(weights(), *STATISTICS, f"--class_names={names}")[1]
    assert "--class_names: has 2 names for 4 classes" in line
    assert "are needed: kdaug_jax has no usual ones for 4 classes" in call(weights())[1]


def test_without_pytorch_a_pickle_says_how_to_convert(call, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    path = tmp_path / "resnet.pth"
    path.write_bytes(b"PK\x03\x04 and so on")
    status, line = call(path)
    assert status == 4 and "is a file of PyTorch, which is not installed; pip install torch" in line
    assert "save_file" in line


def test_a_full_disk_leaves_nothing(weights, call, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_card.workdir, "write_json", full)
    status, line = call(weights(), *STATISTICS)
    assert status == 4 and "cannot be written (No space left on device)" in line


def test_weights_go_out_and_come_back(weights, call, tmp_path, capsys):
    names = tmp_path / "names.json"
    names.write_text('["ant", "bee", "cat", "dog"]')
    assert call(weights(), "--size=8", f"--class_names={names}", *STATISTICS)[0] == 0
    out = tmp_path / "out.safetensors"
    words = [f"--from={tmp_path / 'to'}", f"--to={out}"]
    assert export_weights.main(words) == 0
    assert "arrays of tiny, names as in kdaug_jax" in capsys.readouterr().out
    before, after = (safetensors_file.read(path)[0] for path in (weights(), out))
    assert set(before) == set(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    # The card in such a file holds what other imports have to be given.
    again = import_weights.import_file(out, "tiny").card
    assert again.class_names == ("ant", "bee", "cat", "dog") and again.size == (8, 8)
    assert again.mean == (127.5,) * 3
    assert export_weights.main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert export_weights.main([words[0], f"--to={tmp_path / 'x' / 'y.safetensors'}"]) == 2
    assert "lies in no folder" in capsys.readouterr().err
    assert export_weights.main([*words[:1], f"--to={out}2", "--branch=1"]) == 2
    assert "--branch: is 1, but" in capsys.readouterr().err


@pytest.mark.parametrize("metadata", [
    "{", "[]", '{"arch": 3}', '{"arch": "tiny"}', "[" * 9999,
    '{"arch": "tiny", "num_classes": 4, "size": [8, 8], "mean": [1], "std": [1], '
    '"options": {"num_classes": 4}}',
])
def test_a_card_inside_a_file_that_is_none(weights, tmp_path, metadata):
    arrays, _ = safetensors_file.read(weights())
    path = tmp_path / "card.safetensors"
    safetensors_file.write(path, arrays, {"kdaug_jax": metadata})
    with pytest.raises(UserError, match="card"):
        import_weights.import_file(path, "tiny")


@pytest.mark.parametrize("changes", [
    dict(arch="tiny_wide"), dict(num_classes=5), dict(mean=[1] * 4, std=[1] * 4),
])
def test_a_card_inside_a_file_of_another_network(weights, tmp_path, changes):
    arrays, _ = safetensors_file.read(weights())
    card = dict(arch="tiny", num_classes=4, size=[8, 8], mean=[1] * 3, std=[1] * 3) | changes
    path = tmp_path / "card.safetensors"
    safetensors_file.write(path, arrays, {"kdaug_jax": json.dumps(card)})
    with pytest.raises(CheckpointError, match="but holds tiny of 4 and 3; export it again"):
        import_weights.import_file(path, "tiny")


# ---- names


def test_every_network_has_names_that_lead_back():
    expected = {
        "tv_resnet34": "torchvision", "resnet200": "torchvision", "resnet56": "RepDistiller",
        "resnet32x4": "RepDistiller", "wrn_40_2": "RepDistiller", "vgg13": "RepDistiller",
        "resnet50_cifar": "RepDistiller", "wrn_28_10_faa": "Fast AutoAugment",
        "pyramidnet272_a200_shakedrop": "Fast AutoAugment", "mobilenetv2": "RepDistiller",
        "mobilenetv1": "overhaul-distillation",
        "shake26_2x96d": "Fast AutoAugment", "shake26_2x96d_aa": "kdaug_jax",
        "preact_resnet18_cifar": "pytorch-cifar", "efficientnet_b7": "timm",
        "preresnet164": "pytorch-classification", "rolekd_resnet18": "kdaug_jax",
    }
    assert {name: layouts.layout_of(name).name for name in expected} == expected
    assert layouts.network_name("tf_efficientnet_b3") == "efficientnet_b3"
    assert layouts.network_name("resnet8") == "resnet8"
    assert torch_name("params/layer1_0/downsample_0/kernel") == "layer1.0.downsample.0.weight"
    assert torch_name("params/unit_1_0/conv1/kernel") == "unit_1_0.conv1.weight"
    assert torch_name("batch_stats/blocks_2_1/bn3/var") == "blocks.2.1.bn3.running_var"


def test_prefixes_are_those_of_all_names():
    zero = np.zeros(1, np.float32)
    state = {"module.a.weight": zero, "module.b.num_batches_tracked": zero, "module.c.bias": zero}
    assert set(layouts.plain_names(state)) == {"a.weight", "c.bias"}
    state["d"] = zero
    assert set(layouts.plain_names(state)) == {"module.a.weight", "module.c.bias", "d"}


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "module.student.", "model.net."])
def test_a_prefix_of_all_names_is_left_out_with_a_line(weights, call, tmp_path, capsys, prefix):
    plain = safetensors_file.read(weights())[0]
    path = tmp_path / "wrapped.safetensors"
    safetensors_file.write(path, {prefix + name: array for name, array in plain.items()}, {})
    imported = import_weights.import_file(path, "tiny", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert set(imported.variables["params"]) == {"conv", "bn", "fc"}
    said = capsys.readouterr().out
    assert f"wrapped.safetensors: all names begin with '{prefix}', which is left out" in said
    import_weights.import_file(weights(), "tiny", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert "left out" not in capsys.readouterr().out


def test_names_that_do_not_fit_are_shown_beside_the_wanted(weights, call, tmp_path):
    plain = safetensors_file.read(weights())[0]
    path = tmp_path / "two.safetensors"
    safetensors_file.write(path, {
        f"{part}.{name}": array for part in ("student", "teacher") for name, array in plain.items()
    }, {})
    line = call(path, *STATISTICS)[1]
    assert "holds the network 2 times, under 'student' and 'teacher'; say which one: " in line
    assert line.strip().endswith("--entry=teacher")
    del plain["bn.bias"]
    safetensors_file.write(path, {
        f"{part}.{name}": array for part in ("student", "teacher") for name, array in plain.items()
    }, {})
    line = call(path, *STATISTICS)[1]
    assert "bn.bias is missing" in line and "student.bn.weight" in line


def test_branches_and_folded_weights_do_not_go_out(initialised):
    model, variables = initialised("tiny", 4, size=8, num_branches=2)
    with pytest.raises(CheckpointError, match="2 BatchNorm branches; take one"):
        to_torch(variables)
    model = models.create("resnet8", 4, normalize=RAW)
    shapes = jax.eval_shape(lambda key: model.init(key, (32, 32)), jax.random.key(0))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    folded = models.fold_batchnorm(model, ones)
    with pytest.raises(CheckpointError, match="folded BatchNorm"):
        to_torch(folded)


# ---- files


def test_the_format_is_the_librarys(tmp_path):
    from safetensors.numpy import load_file

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array(3, np.int64),
              "c": np.zeros((0, 4), np.uint8)}
    path = tmp_path / "f.safetensors"
    safetensors_file.write(path, arrays, {"k": "v"})
    arrays_read, metadata = safetensors_file.read(path)
    reference = load_file(path)
    assert metadata == {"k": "v"} and set(arrays_read) == set(reference) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(arrays_read[name], array)
        np.testing.assert_array_equal(reference[name], array)
    half = jax.numpy.asarray([1.5, -2.0], jax.numpy.bfloat16)
    safetensors_file.write(path, {"h": np.asarray(half)}, {})
    np.testing.assert_array_equal(safetensors_file.read(path)[0]["h"], half)
    # Whoever may read the user's other new files may read this one.
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def packed(table, data=b"", length=None):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "short": (b"1234567", "has 7 bytes"),
    "endless": (packed({}, length=2**63), "its header would be 9,223,372,036,854,775,808 bytes"),
    "cut in the header": (packed({"a": ENTRY}, length=10**6), "was cut off: a header of 1,000,000"),
    "no JSON": (packed(b"{]"), "has a header that cannot be read"),
    "no UTF-8": (packed(b'{"\xff": 1}'), "has a header that cannot be read"),
    "deep": (packed(b"[" * 100_000), "has a header that cannot be read"),
    "list": (packed([1]), "has a header that is no table"),
    "twice": (packed(b'{"a": 1, "a": 2}'), "a name is there twice"),
    "metadata": (packed({"__metadata__": {"a": 1}}), "metadata that are not texts"),
    "fields": (packed({"a": {"dtype": "F32"}}), "'a' is not described by dtype, shape"),
    "dtype": (packed({"a": {**ENTRY, "dtype": "F31"}}, bytes(8)), "'a' has the unknown type F31"),
    "dtype list": (packed({"a": {**ENTRY, "dtype": []}}, bytes(8)), "'a' has the unknown type []"),
    "negative": (packed({"a": {**ENTRY, "shape": [-2]}}, bytes(8)), "'a' has the shape [-2]"),
    "float": (packed({"a": {**ENTRY, "shape": [2.0]}}, bytes(8)), "'a' has the shape [2.0]"),
    "bool": (packed({"a": {**ENTRY, "shape": [True]}}, bytes(8)), "'a' has the shape [True]"),
    "huge": (packed({"a": {**ENTRY, "shape": [2**62, 2**62]}}, bytes(8)), "'a' takes 8 bytes, but"),
    "huge and empty": (packed({"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
                       "'a' has the shape [0, 4611686018427387904]"),
    "backwards": (packed({"a": {**ENTRY, "data_offsets": [8, 0]}}, bytes(8)), "'a' takes -8 bytes"),
    "cut in the data": (packed({"a": ENTRY}, bytes(4)), "'a' reaches to byte 8 of 4: the file was"),
    "more": (packed({"a": ENTRY}, bytes(12)), "holds 4 bytes that belong to no array"),
    "overlap": (packed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
                "'b' overlaps the array before it"),
    "gap": (packed({"a": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)), "'a' leaves a gap"),
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_headers(tmp_path, what):
    content, words = HEADERS[what]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        safetensors_file.read(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def mutated(content, generator):
    """Returns a changed copy of a safetensors file: its length, header, data or end."""
    length = int.from_bytes(content[:8], "little")
    kind, content = generator.integers(7), bytearray(content)
    if kind == 0:  # some bytes of the header
        for _ in range(generator.integers(1, 4)):
            content[8 + generator.integers(length)] = generator.integers(256)
    elif kind == 1:  # the length
        content[generator.integers(8)] = generator.integers(256)
    elif kind == 2:  # the end
        del content[generator.integers(len(content)) :]
    elif kind == 3:  # a number of the header becomes another
        text = content[8 : 8 + length].decode()
        numbers = list(re.finditer(r"\d+", text))
        chosen = numbers[generator.integers(len(numbers))]
        other = generator.choice(["-1", "0", "3", "1e9", "99999999999999999999", "null", '"4"'])
        text = text[: chosen.start()] + str(other) + text[chosen.end() :]
        return packed(text.encode(), bytes(content[8 + length :]))
    elif kind == 4:  # a word of the header becomes another
        text = content[8 : 8 + length].decode()
        words = list(re.finditer(r"[\w.]+", text))
        chosen = words[generator.integers(len(words))]
        other = generator.choice(["F16", "BF16", "F64", "I64", "U8", "__metadata__", "bn.weight",
                                  "a\\nb", "\\u0000", "module.x"])
        text = text[: chosen.start()] + str(other) + text[chosen.end() :]
        return packed(text.encode(), bytes(content[8 + length :]))
    elif kind == 5:  # bytes put in or taken out anywhere
        place = generator.integers(len(content))
        content[place : place + generator.integers(3)] = generator.bytes(generator.integers(4))
    else:  # the data, which only values can tell
        for _ in range(8):
            content[8 + length + generator.integers(len(content) - 8 - length)] = 255
    return bytes(content)


def test_mutated_files_end_in_one_line(weights, tmp_path, monkeypatch):
    content = weights().read_bytes()
    shapes = import_weights.convert.__globals__["_shapes"]
    known = {}  # the network is traced once, not for each of the files

    def traced(arch, count, size, options):
        if count not in known:
            known[count] = shapes(arch, count, size, options)
        return known[count]

    monkeypatch.setitem(import_weights.convert.__globals__, "_shapes", traced)
    generator = np.random.default_rng(0)
    path, refused = tmp_path / "mutated.safetensors", 0
    for _ in range(200):
        path.write_bytes(mutated(content, generator))
        try:
            imported = import_weights.import_file(
                path, "tiny", mean=(0.5,) * 3, std=(0.25,) * 3
            )
        except UserError as error:  # anything else fails the test
            refused += 1
            line = str(error)
            assert str(path) in line and line.isprintable() and len(line) < 2000, line
        else:
            leaves = flatten(imported.variables).values()
            assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert 150 < refused < 200


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "a" * 300, "a\0b"])
@pytest.mark.parametrize("flag", ["--from", "--to", "--class_names"])
def test_what_is_no_path(tmp_path, capsys, flag, path):
    arguments = {"--arch": "resnet8", "--from": tmp_path / "a", "--to": tmp_path / "b"}
    arguments[flag] = path
    assert import_weights.main([f"{name}={value}" for name, value in arguments.items()]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith(f"error: {flag}: ") and "\n" not in printed and "path" in printed
    assert not any(tmp_path.iterdir())


def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path):
    path = tmp_path / "weights.safetensors"
    for size in (0x280, 0x380, 0x480, 0x580):  # b"\x80\x02" and so on, the lowest byte first
        header = b'{"__metadata__": {}}'.ljust(size)
        path.write_bytes(size.to_bytes(8, "little") + header)
        assert opened.kind_of(path) == "safetensors"
    path.write_bytes(pickle.dumps({"weight": 1}, protocol=2))
    assert opened.kind_of(path) == "torch"
