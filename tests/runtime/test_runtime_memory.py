"""glibc keeps what was freed, where there is a glibc and nobody refuses."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.runtime import memory, sharding

# Frees a large block twice, and says whether taking it again faulted in its pages anew.
PROGRAM = """
import resource
import numpy as np
from kdaug_jax.runtime.memory import pool_memory

kept = pool_memory()
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.full(1 << 26, 1, np.uint8)
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, faults[-1] > 20)  # of 4 KiB or, where the system has them, 2 MiB
"""


@pytest.fixture
def calls(monkeypatch):
    """Records the calls of mallopt instead of making them."""
    made = []
    library = SimpleNamespace(mallopt=lambda *option: made.append(option) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    return made


@pytest.mark.parametrize("value", ["", "1"])
def test_glibc_is_told_to_keep_memory(value, calls, monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, value)
    assert memory.pool_memory()
    assert len(calls) == 3


def test_nothing_is_set_when_it_is_off(calls, monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, "0")
    assert not memory.pool_memory() and calls == []


@pytest.mark.parametrize("value", ["yes", "2", "off"])
def test_unknown_values_are_refused(value, calls, monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, value)
    with pytest.raises(ConfigError) as raised:
        sharding.use_host_cores(8)
    assert str(raised.value) == (
        f"$KDAUG_POOL_MEMORY: is '{value}'; 0 to return freed memory, 1 to keep it"
    )
    assert calls == []


def test_another_c_library_changes_nothing(calls, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not memory.pool_memory()

    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert not memory.pool_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for its page faults")
@pytest.mark.parametrize("value, kept", [("1", True), ("0", False)])
def test_pages_are_kept(value, kept, monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, value)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout.split() == [str(kept), str(not kept)], done.stderr
