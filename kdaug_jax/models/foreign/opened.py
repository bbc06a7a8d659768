"""What kind of file a user named: every file of weights, logits or functions is looked at here."""

from __future__ import annotations

import io
import os
import pickletools
import re
import zipfile
from pathlib import Path

from kdaug_jax.errors import CheckpointError
from kdaug_jax.files import open_file

# What the first bytes of a pickle are; protocols 2 to 5.
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ZIP = b"PK\x03\x04"
_TEXT = re.compile(rb"\s*(<!doctype|<html|<\?xml|<head|<body)", re.IGNORECASE)
_LFS = b"version https://git-lfs"
# First bytes of other files that end up under such names, and what they are.
_OTHERS = (
    (b"\x1f\x8b", "is packed with gzip", "unpack it first"),
    (b"BZh", "is packed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "is packed with xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd", "unpack it first"),
    (b"\x89HDF\r\n", "is a file of HDF5", "save the arrays as safetensors"),
    (b"\x93NUMPY", "is one array without a name (.npy)", "save named arrays with np.savez"),
    (b"GGUF", "is a file of GGUF", "name a .safetensors or .pth file"),
)
_ASIDE = "name a .safetensors or .pth file of weights"


def kind_of(path: Path) -> str:
    """Returns what kind of file this is by its content.

    Args:
      path: the file.

    Returns:
      "torch" for weights as PyTorch's `save` writes them, "npz" for arrays of NumPy,
      "safetensors", or "other".

    Raises:
      CheckpointError: it cannot be read, or is of a kind that never holds what is asked for: an
        empty file, a pointer of Git LFS, a web page, an archive, a program of TorchScript or
        `torch.export`.
    """
    try:
        with open_file(path, "weights") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror})", "check the path and who may read it"
        ) from None

    def refuse(what: str, remedy: str) -> CheckpointError:
        return CheckpointError(str(path), what, remedy)

    if not size:
        raise refuse("is empty", "copy the file again")
    if start.startswith(_LFS):
        raise refuse(
            "is a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"
        )
    if _TEXT.match(start):
        raise refuse("is a web page, not the file itself", "download it again, by its direct link")
    for magic, what, remedy in _OTHERS:
        if start.startswith(magic):
            raise refuse(what, remedy)
    # A safetensors file begins with the 8 bytes of its header's length, such as 0x280, and "{".
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return "safetensors"
    if start.startswith(_ZIP):
        return _kind_of_zip(path)
    if start.startswith(_PICKLE):
        return "torch"
    return "safetensors" if path.suffix == ".safetensors" else "other"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return "npz" if path.suffix == ".npz" else "torch"  # whose reader tells what is wrong

    def holds(*endings: str) -> bool:
        return any(name.endswith(endings) for name in names)

    if holds("constants.pkl") or any("/code/" in name for name in names):
        raise CheckpointError(
            str(path), "is a program of TorchScript, not weights alone",
            "save its weights: torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.pth')",
        )
    if any("/models/" in f"/{name}" and name.endswith(".json") for name in names) or holds(
        "serialized_exported_program.json"
    ):
        raise CheckpointError(
            str(path), "is a program of torch.export (.pt2), not weights alone",
            "save its weights: torch.save(torch.export.load(FILE).state_dict, 'weights.pth')",
        )
    if holds("data.pkl"):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if path.suffix == ".npz":
        return "npz"
    raise CheckpointError(str(path), "is a zip archive of other files", _ASIDE)


def is_pickle(content: bytes) -> bool:
    """Returns whether bytes hold a pickle that can be read to its end, without running it."""
    stream = io.BytesIO(content)
    try:
        # Before 1.6 PyTorch wrote several, one after another, and then the numbers.
        for _ in range(5):
            for _ in pickletools.genops(stream):
                pass
            if not content[stream.tell() :].startswith(_PICKLE):
                return True
    except Exception:  # damaged pickles make it raise any exception
        return False
    return True
