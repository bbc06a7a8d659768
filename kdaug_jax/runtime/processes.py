"""Runs over several processes: how they connect, agree and end.

All processes run the same program in the same order. Decisions that could differ between them (on
files, clocks or signals) are made in one process and shared; otherwise the processes would wait for
each other in different collectives.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kdaug_jax import errors
from kdaug_jax.errors import ConfigError, PeerGone, UserError
from kdaug_jax.runtime import sharding, streams

FORM = "--distributed=auto, or NUMBER/COUNT@HOST:PORT"
# How long a process that fails waits for the others to fail too, in seconds.
PARTING = 5.0
# How long process 0 stays once a peer is gone, in seconds: JAX aborts those that it leaves behind.
COORDINATOR_STAYS = 1.0
# What collectives and the coordination service say when a connection ends.
_LOST = re.compile(
    r"connection (reset|closed|refused)|socket closed|broken pipe|heartbeat|coordination service",
    re.IGNORECASE,
)
# All processes end with these together.
SAVED = (0, errors.Preempted.exit_code, errors.Interrupted.exit_code)


def start(text: str) -> int:
    """Connects the processes of a run; call it before JAX starts its backend.

    Args:
      text: "" for one process; "auto" where JAX finds the cluster by itself (TPU pods, SLURM,
        Open MPI, Kubernetes); or "NUMBER/COUNT@HOST:PORT": this process, how many there are, and
        where process 0 listens.

    Returns:
      The number of processes.

    Raises:
      ConfigError: the text cannot be read, no cluster is found, or process 0 does not answer.
    """
    if not text:
        return 1
    named = {} if text == "auto" else _explicit(text)
    # Its handler of SIGTERM would replace the one of `signals`, which is polled between steps.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**named)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError("--distributed", f"'{text}' failed ({reason})", FORM) from None
    return named.get("num_processes") or jax.process_count()


def _explicit(text: str) -> dict[str, Any]:
    """Returns the arguments of `jax.distributed.initialize` for "NUMBER/COUNT@HOST:PORT"."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})@(.+:(\d{1,5}))", text)
    if match is None or int(match[1]) >= int(match[2]) or not 0 < int(match[4]) < 65536:
        raise ConfigError("--distributed", f"cannot read '{text}'", FORM)
    number, port = int(match[1]), int(match[4])
    if number == 0:
        _require_free(port)
    return dict(
        process_id=number, num_processes=int(match[2]), coordinator_address=match[3],
        # Under Slurm JAX would give this process the one GPU of its local number, and no other.
        cluster_detection_method="deactivate",
    )


def _require_free(port: int) -> None:
    """Validates that process 0 can listen on a port; JAX ends with a segmentation fault instead.

    Raises:
      ConfigError: the port is taken, or needs rights that this process has not.
    """
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        what = f"port {port} cannot be listened on ({os.strerror(error.errno)})"
        raise ConfigError("--distributed", what, "name another port to all processes") from None


def on_first(function: Callable[[], Any]) -> Any:
    """Calls `function` in process 0 only and shares its value or error.

    Args:
      function: returns a JSON value or raises a UserError.

    Returns:
      Its value, in every process.

    Raises:
      UserError: the error that it raised, in every process.
    """
    if jax.process_count() == 1:
        return function()
    outcome: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            outcome["value"] = function()
        except UserError as error:
            outcome["error"] = type(error).__name__, error.where, error.what, error.remedy
    shared = json.loads(_broadcast(json.dumps(outcome).encode()))
    if "error" in shared:
        kind, *arguments = shared["error"]
        raise getattr(errors, kind)(*arguments)
    return shared["value"]


def _broadcast(content: bytes) -> bytes:
    """Returns the bytes of process 0."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    # Of few lengths, because each is compiled.
    buffer = np.zeros(1 << max(size - 1, 1).bit_length(), np.uint8)
    if jax.process_index() == 0:
        buffer[:size] = np.frombuffer(content, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8)[:size])


@functools.cache
def _ballot() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    count = jax.jit(
        lambda votes: votes.max(), out_shardings=NamedSharding(mesh, PartitionSpec())
    )
    return NamedSharding(mesh, PartitionSpec("all")), count


def vote(number: int) -> jax.Array:
    """Computes the largest number that any process gives, without waiting for the result.

    Args:
      number: of this process, 0 or more.

    Returns:
      `i32[]`; reading it waits for all earlier work of the devices.
    """
    where, count = _ballot()
    shape = (jax.device_count(),)
    votes = jax.make_array_from_callback(shape, where, lambda _: np.full(1, number, np.int32))
    return sharding.settle(count(votes))


def end(main: Callable[[], int]) -> NoReturn:
    """Runs a program and ends its process with the exit status that it returns.

    If one of several processes fails, the others either fail in the same way, and all shut down
    together, or they hang in a collective until this process is gone. That must not take the
    minutes that JAX would wait for them. A process that learns in a collective that a peer is gone
    ends at once, before JAX aborts it natively.

    Args:
      main: the program.
    """
    try:
        status = main()
        streams.ignore_signals()
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if _tells_of_a_peer(error):
            _leave_without_peer()
        traceback.print_exc()
        status = 1
    if status in SAVED or not jax.distributed.is_initialized():
        sys.exit(status)
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(PARTING)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _tells_of_a_peer(error: BaseException | None) -> bool:
    """Returns whether an error, or the one behind it, is of a connection to another process."""
    while error is not None:
        if isinstance(error, ValueError | RuntimeError) and _LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _leave_without_peer() -> NoReturn:
    gone = PeerGone(f"process {jax.process_index()}", "a peer is gone, run the same command again")
    print(f"error: {gone}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if jax.process_index() == 0:
        time.sleep(COORDINATOR_STAYS)
    os._exit(gone.exit_code)
