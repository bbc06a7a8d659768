"""Files of weights that are damaged, or something else, and names that wrappers change."""

import io
import pickle
import zipfile

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import CheckpointError, UserError
from kdaug_jax.models import import_weights
from kdaug_jax.models.foreign import layouts, opened, safetensors_file
from kdaug_jax.models.weights import to_torch
from kdaug_jax.runtime.digest import sha256_file

STATISTICS = dict(mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def state():
    model = models.create("tiny", 4, normalize=((0.0,) * 3, (1.0,) * 3))
    return to_torch(model.init(jax.random.key(0), (8, 8)))


def refused(path, **settings):
    with pytest.raises(UserError) as caught:
        import_weights.import_file(path, "tiny", **STATISTICS, **settings)
    assert "\n" not in str(caught.value) and "if you trust" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty; copy the file again"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    (b"\n<!DOCTYPE html><html>404</html>", "is a web page, not the file itself"),
    (b'<?xml version="1.0"?><Error/>', "is a web page"),
    (b"\x1f\x8b\x08\x00rest", "is packed with gzip; unpack it first"),
    (b"\x89HDF\r\n\x1a\nrest", "is a file of HDF5"),
    (b"GGUF\x03\x00", "is a file of GGUF"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.npz", "w.stablehlo"])
def test_files_of_another_kind(tmp_path, content, message, name):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(path)
    with pytest.raises(CheckpointError) as caught:
        opened.kind_of(path)
    assert message in str(caught.value)


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return path


def test_archives_of_another_kind(tmp_path):
    script = archive(tmp_path / "s.pt", "m/data.pkl", "m/code/__torch__.py", "m/constants.pkl")
    assert "is a program of TorchScript, not weights alone" in refused(script)
    program = archive(tmp_path / "p.pt2", "p/models/model.json", "p/data/weights/weight_0")
    assert "is a program of torch.export (.pt2)" in refused(program)
    assert "is a zip archive of other files" in refused(archive(tmp_path / "a.pth", "a.txt"))
    arrays = tmp_path / "w.pth"
    with open(arrays, "wb") as file:
        np.savez(file, a=np.zeros(3))
    assert "holds arrays of NumPy, not weights of PyTorch" in refused(arrays)


def test_values_beyond_any_sense(state, tmp_path):
    path = tmp_path / "w.safetensors"

    def flipped(name, bit):
        array = state[name].copy()
        bits = array.reshape(-1).view(np.uint32)
        bits[0] ^= np.uint32(1 << bit)
        safetensors_file.write(path, {**state, name: array}, {})
        return array.reshape(-1)[0]

    assert abs(flipped("conv.weight", 30)) > 1e30
    assert "'conv.weight' holds a value of" in refused(path) and "looks damaged" in refused(path)
    flipped("bn.running_var", 29)
    array = state["conv.weight"].copy()
    array.reshape(-1)[5] = 5e4  # large, but possible by itself
    safetensors_file.write(path, {**state, "conv.weight": array}, {})
    assert "holds a value of 5e+04 among others of size" in refused(path)
    safetensors_file.write(path, state, {})
    imported = import_weights.import_file(path, "tiny", **STATISTICS)
    assert any("carries no checksum" in note for note in imported.notes)
    digest = sha256_file(path)
    imported = import_weights.import_file(path, "tiny", sha256=digest[:16], **STATISTICS)
    assert imported.card.sha256 == digest
    assert not any("carries no checksum" in note for note in imported.notes)
    assert f"has the SHA-256 {digest}, not the stated" in refused(path, sha256="0" * 64)
    assert "--sha256: is 'xyz'; 64 hexadecimal digits" in refused(path, sha256="xyz")


def test_a_flipped_bit_of_a_pytorch_file(torch, state, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({name: torch.tensor(np.array(array)) for name, array in state.items()}, path)
    whole = path.read_bytes()
    import_weights.import_file(path, "tiny", **STATISTICS)
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(whole)) as stored:
        entry = max(stored.infolist(), key=lambda item: item.file_size)
    start = whole.index(stored_bytes(whole, entry))
    for _ in range(8):
        content = bytearray(whole)
        content[start + generator.integers(entry.file_size)] ^= 1 << generator.integers(8)
        path.write_bytes(content)
        assert "is damaged: the checksum of" in refused(path)


def stored_bytes(content, entry):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(entry)


def test_only_pickles_are_called_pickles(torch, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"\x80\x02nothing of a pickle")
    assert "is damaged" in refused(path) or "cannot be read" in refused(path)
    path.write_bytes(pickle.dumps({"a": object}, protocol=2))
    with pytest.raises(CheckpointError, match="if you trust its author, convert it"):
        import_weights.import_file(path, "tiny", **STATISTICS)


def test_names_that_wrappers_change(state, tmp_path):
    path = tmp_path / "w.safetensors"
    reference = import_weights.import_file(write(path, state), "tiny", **STATISTICS)
    count = {"n_averaged": np.array(3, np.int64)}
    for change in (
        lambda name: f"module.{name}",
        lambda name: f"model.module._orig_mod.{name}",
        lambda name: f"student.{name}",
        lambda name: name.replace("bn.", "bn._fsdp_wrapped_module."),
        lambda name: name.replace("conv.", "conv.module."),
    ):
        renamed = {change(name): array for name, array in state.items()} | count
        imported = import_weights.import_file(write(path, renamed), "tiny", **STATISTICS)
        jax.tree.map(np.testing.assert_array_equal, imported.variables, reference.variables)
    alone = {"fc.weight": 1, "fc.bias": 2}
    assert set(layouts.plain_names(alone, roots=("fc",))) == set(alone)


def write(path, arrays):
    safetensors_file.write(path, arrays, {})
    return path
