"""The devices that a program is built for, which need not be present while it is traced."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_SEVERAL: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("several", default=())


def platform_of(array: jax.Array) -> str:
    """Returns "cpu", "gpu" or "tpu": where an array lies."""
    return _common(next(iter(array.sharding.device_set)).platform)


def target_platform() -> str:
    """Returns "cpu", "gpu" or "tpu": that of the mesh in whose context a program is traced.

    A program may be built for devices that are not present, see `sharding.within`; without a mesh
    it is for JAX's default backend.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return _common(platform)


@contextlib.contextmanager
def several(platforms: tuple[str, ...]) -> Iterator[None]:
    """Says that what is traced inside is one program for several platforms, as `jax.export` makes.

    Args:
      platforms: as JAX calls them, such as "cpu", "cuda" and "tpu".
    """
    token = _SEVERAL.set(tuple(dict.fromkeys(map(_common, platforms))))
    try:
        yield
    finally:
        _SEVERAL.reset(token)


def target_platforms() -> tuple[str, ...]:
    """Returns the platforms of the program that is traced: those of `several`, else of its mesh."""
    return _SEVERAL.get() or (target_platform(),)


def requested_platforms() -> str:
    """Returns the platforms that JAX is restricted to, such as "tpu,cpu"; "" for all there are."""
    return jax.config.jax_platforms or ""


def has_cpu() -> bool:
    """Returns whether JAX has its CPU backend beside, or as, its default one; starts none."""
    platforms = requested_platforms()
    return not platforms or "cpu" in platforms.split(",")


def _common(platform: str) -> str:
    return "gpu" if platform in ("cuda", "rocm") else platform


def target_device_count() -> int:
    """Returns the number of devices of the mesh in whose context a program is traced.

    Without a mesh it is the number that JAX's default backend has.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() if mesh.empty else mesh.size
