"""Memory: how much there is, objects in nameless shared files, and what the C library keeps."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_COUNT = struct.Struct("<q")
_ALIGNMENT = 64
# glibc's numbers of mallopt: from which size blocks are mapped one by one, how much free memory at
# the end of a heap is kept, and how much a heap grows by.
_MALLOPT = {-3: 32 << 20, -1: 256 << 20, -2: 8 << 20}


def memory_limit(root: Path = Path("/")) -> int:
    """Returns the bytes of memory that this process may use: the machine's, or its container's.

    Args:
      root: of the file system that holds `proc` and `sys`.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _limit_files(root):
        try:
            text = file.read_text().strip()
        except OSError:  # no limit there, or none that may be read
            continue
        if text.isdigit():  # else "max"
            limits.append(int(text))
    return min(limits)


def _limit_files(root: Path) -> Iterator[Path]:
    """Yields the files in which Linux's control groups of this process would limit its memory."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        # "0::PATH" is of version 2; "NUMBER:CONTROLLERS:PATH" of version 1. Where a container sees
        # its own group as the root, PATH is not there, and the root has its limit.
        _, controllers, path = line.split(":", 2)
        group = path.strip("/")
        if not controllers:
            place, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            place, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        for inner in (Path(group), *Path(group).parents):  # a group above may allow less
            yield place / inner / name


def keep_memory() -> None:
    """Lets glibc keep what images free, for the rest of the process.

    Pillow and NumPy ask for blocks of about a megabyte for each image, which glibc would map and
    unmap each time, so that every page is faulted in anew: 5–9 % of the time of a crop by Pillow,
    and more than half of one by TensorFlow's arithmetic. Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def shared_memory(bytes_: int) -> int:
    """Returns the descriptor of a new shared file of zeros; without a name, it ends with its users.

    It is memory that /dev/shm does not bound.
    """
    descriptor = os.memfd_create("kdaug_jax", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, bytes_)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def dump(value: Any) -> int:
    """Pickles a value into a new shared file, so that all who `load` it share its arrays.

    Returns:
      The descriptor.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    lengths = b"".join(_COUNT.pack(len(part)) for part in parts)
    places = _places([_COUNT.size + len(lengths), *map(len, parts)])
    descriptor = shared_memory(places[-1])
    with open(descriptor, "r+b", closefd=False) as file:
        file.write(_COUNT.pack(len(parts)) + lengths)
        for place, part in zip(places[1:-1], parts, strict=True):
            file.seek(place)
            file.write(part)
    return descriptor


def load(descriptor: int) -> Any:
    """Unpickles what `dump` wrote; arrays are read-only views of the shared file. Closes it."""
    memory = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    os.close(descriptor)
    (count,) = _COUNT.unpack_from(memory)
    lengths = [_COUNT.unpack_from(memory, _COUNT.size * (1 + part))[0] for part in range(count)]
    places = _places([_COUNT.size * (1 + count), *lengths])
    body, *buffers = (
        memory[place : place + length]
        for place, length in zip(places[1:-1], lengths, strict=True)
    )
    return pickle.loads(body, buffers=buffers)


def _places(lengths: list[int]) -> list[int]:
    """Returns where parts of these lengths begin, one behind another, and where the last ends."""
    places = [0]
    for length in lengths:
        places.append(-(-(places[-1] + length) // _ALIGNMENT) * _ALIGNMENT)
    return places
