"""The order of the parts of one program on a CPU with several virtual devices.

There each device runs parts that do not depend on each other in an order of its own, and then
waits for the others at every collective: two devices at different collectives wait for ever.
Accelerators keep one order and need no help.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from kdaug_jax.runtime.platform import target_device_count, target_platform


class Ordering:
    """Makes later parts of a program depend on earlier ones; does nothing on other platforms.

    Belongs to one trace. `done` records what must be computed first, `after` returns a value that
    waits for everything recorded so far.
    """

    def __init__(self, step: jax.Array, done: Iterable[jax.Array] = ()):
        """Starts an order.

        Args:
          step: `i32[]`, at least 0, from which a 0 is made that XLA cannot foresee.
          done: `f32[N,...]` each, what comes first; N may differ.
        """
        self._step = step
        self._needed = target_platform() == "cpu" and target_device_count() > 1
        self._done = list(done)

    def done(self, array: jax.Array) -> None:
        """Records `f32[N,...]`, which everything that is asked for later waits for."""
        self._done.append(array)

    def after(self, value: jax.Array) -> jax.Array:
        """Returns `u8[B,...]` or `f32[B,...]` bit for bit, but not before what is done."""
        if not self._needed or not self._done:
            return value
        rows = value.shape[0]
        zeros = jnp.broadcast_to(jnp.minimum(self._step, 0), (rows,))
        for array in self._done:
            first = jax.lax.stop_gradient(array).reshape(array.shape[0], -1)[:, 0]
            # Equal shares of the rows, so that each device looks at its own.
            shares = math.gcd(rows, array.shape[0])
            bits = jax.lax.bitcast_convert_type(first.reshape(shares, -1)[:, :1], jnp.int32)
            zeros = zeros & jnp.broadcast_to(bits, (shares, rows // shares)).reshape(rows)
        return value + zeros.astype(value.dtype).reshape(-1, *[1] * (value.ndim - 1))
