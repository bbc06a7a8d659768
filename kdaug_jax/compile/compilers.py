"""The compilers for TPUs and NVIDIA GPUs: optional packages in a folder of their own.

They stay off Python's path, since with libtpu on it every JAX process looks for a TPU and prints
errors where there is none.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax
import jaxlib

from kdaug_jax.errors import ConfigError
from kdaug_jax.files import expanded

VARIABLE = "KDAUG_COMPILERS"
# What libtpu reads once, where no TPU and no cloud is at hand; processes may load it side by side.
_LIBTPU_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3",
}
_NEEDED = {"tpu": Path("libtpu/libtpu.so"), "gpu": Path("jax_plugins/xla_cuda12")}
# The assembler and the linker are CUDA's own, of the last release that the plugin is made for.
_CUDA_TOOLS = ("nvidia-cuda-nvcc-cu12==12.9.*", "nvidia-nvjitlink-cu12==12.9.*")


def packages(platform: str) -> tuple[str, ...]:
    """Returns the packages that compile for a platform, in the versions of the installed JAX.

    Args:
      platform: "tpu" or "gpu".
    """
    if platform == "tpu":
        required = (re.match(r"libtpu\s*([^;]*)", text) for text in metadata.requires("jax") or ())
        versions = {match[1].strip() for match in required if match}
        return tuple(f"libtpu{version}" for version in sorted(versions))
    plugins = (f"{name}=={jaxlib.__version__}" for name in ("jax-cuda12-plugin", "jax-cuda12-pjrt"))
    return (*plugins, *_CUDA_TOOLS)


def pip_line(platform: str, directory: str) -> str:
    """Returns the command that installs the compiler for "tpu" or "gpu" into a folder."""
    quoted = " ".join(f'"{package}"' for package in packages(platform))
    return f"pip install --no-deps --target {directory} {quoted}"


def find(platform: str, directory: str) -> Path:
    """Returns the folder of a compiler.

    Args:
      platform: "tpu" or "gpu".
      directory: the folder; empty for `$KDAUG_COMPILERS`.

    Raises:
      ConfigError: the compiler is not there.
    """
    chosen = directory or os.environ.get(VARIABLE, "")
    path = expanded("--compilers", chosen).absolute()
    needed = _NEEDED[platform]
    if not chosen or not (path / needed).exists():
        what = f"there is no {needed} in '{chosen}'"
        folder = chosen or "compilers"
        raise ConfigError(
            "--compilers", what if chosen else f"is missing, and so is ${VARIABLE}",
            f"{pip_line(platform, folder)}, then --compilers={folder}",
        )
    return path


def use(platform: str, directory: Path) -> None:
    """Lets this process compile for a platform; JAX computes on the CPU and caches no program.

    Args:
      platform: "tpu" or "gpu".
      directory: what `find` returned.
    """
    jax.config.update("jax_platforms", "cpu")
    # Programs of devices that are not there cannot be read back from it.
    jax.config.update("jax_enable_compilation_cache", False)
    if platform == "tpu":
        for name, value in _LIBTPU_SETTINGS.items():
            os.environ.setdefault(name, value)
        os.environ["TPU_LIBRARY_PATH"] = str(directory / _NEEDED[platform])
    elif str(directory) not in sys.path:
        sys.path.append(str(directory))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what a compiler prints of the devices that it looks for while it is loaded."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
