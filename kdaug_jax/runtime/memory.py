"""How the C library keeps memory that XLA's CPU backend has given back.

XLA frees its temporaries after each step. glibc returns blocks of that size to the system, so the
next step faults in each page again, a tenth of its time on small networks.
"""

from __future__ import annotations

import ctypes
import os

from kdaug_jax.errors import ConfigError

VARIABLE = "KDAUG_POOL_MEMORY"
# The options of mallopt(3) and what they are set to: blocks of any size come from the heap, its
# free end is kept up to 2 GiB, and all threads share it, as a step may run on any of them.
_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8
_OPTIONS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))


def pool_memory() -> bool:
    """Makes glibc keep freed memory; call it before JAX starts its backend.

    Another C library changes nothing, and `KDAUG_POOL_MEMORY=0` leaves glibc as it is.

    Returns:
      Whether memory is kept.

    Raises:
      ConfigError: the environment variable is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE) or "1"
    if value not in ("0", "1"):
        raise ConfigError(f"${VARIABLE}", f"is '{value}'", "0 to return freed memory, 1 to keep it")
    if value == "0":
        return False
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # macOS, Windows, musl
        return False
    return all([set_option(*option) for option in _OPTIONS])
