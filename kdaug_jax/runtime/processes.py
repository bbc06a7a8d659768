"""Runs over several processes: how they connect, agree and end.

All processes run the same program in the same order. Decisions that could differ between them (on
files, clocks or signals) are made in one process and shared; otherwise the processes would wait for
each other in different collectives.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax._src import distributed  # its store of keys has no public name
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kdaug_jax import errors
from kdaug_jax.errors import ConfigError, PeerGone, UserError
from kdaug_jax.runtime import rendezvous, sharding, streams
from kdaug_jax.runtime.watch import Watch

FORM = "--distributed=auto, or NUMBER/COUNT@HOST:PORT"
# How long a process that fails waits for the others to fail too, in seconds.
PARTING = 5.0
# And for what another one has announced before it ended.
MOMENT = 1.0
# How long process 0 stays once a peer is gone: JAX aborts those that it leaves behind.
COORDINATOR_STAYS = 1.0
# How long one that has saved waits for the others to be as far.
SAVING = 60.0
# Milliseconds after which a process that waits looks whether another one has failed.
_GLANCE_MS = 500
_SHOWN = 160  # characters of what JAX says
# All processes end with these together.
SAVED = (errors.Preempted.exit_code, errors.Interrupted.exit_code)


class Limits(NamedTuple):
    """How long the processes of a run wait for each other, in seconds.

    Attributes:
      join: for all of them to come, before anything else.
      heartbeat: after which one that does not answer counts as gone.
      shared: for a new file of the working directory to be seen by all.
    """

    join: float = 300.0
    heartbeat: float = 100.0
    shared: float = 60.0


DEFAULTS = Limits()
_limits = [DEFAULTS]


def limits() -> Limits:
    """Returns those that the run was started with."""
    return _limits[0]


def start(text: str, limits: Limits = DEFAULTS) -> int:
    """Connects the processes of a run; call it before JAX starts its backend.

    Args:
      text: "" for one process; "auto" where JAX finds the cluster by itself (TPU pods, SLURM,
        Open MPI, Kubernetes); or "NUMBER/COUNT@HOST:PORT": this process, how many there are, and
        where process 0 listens.
      limits: how long they wait for each other.

    Returns:
      The number of processes.

    Raises:
      ConfigError: the text cannot be read, no cluster is found, or the processes do not meet.
    """
    if not text:
        return 1
    for name, seconds in limits._asdict().items():
        if not 1 <= seconds < 1e6:
            raise ConfigError(f"--{name}_seconds", f"{seconds:g} is not from 1 to a million",
                              f"--{name}_seconds={getattr(DEFAULTS, name):g}")
    _limits[0] = limits
    named: dict[str, Any] = {}
    if text != "auto":
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})@(.+):(\d{1,5})", text)
        if match is None or int(match[1]) >= int(match[2]) or not 0 < int(match[4]) < 65536:
            raise ConfigError("--distributed", f"cannot read '{text}'", FORM)
        # Under SLURM JAX would show this process one device, by its number on the node.
        named = dict(
            process_id=int(match[1]), num_processes=int(match[2]),
            coordinator_address=f"{match[3]}:{match[4]}", cluster_detection_method="deactivate",
        )
        host = match[3].removeprefix("[").removesuffix("]")
        rendezvous.meet(int(match[1]), int(match[2]), host, int(match[4]), limits.join)
    # Its handler of SIGTERM would replace the one of `signals`, which is polled between steps.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **named, initialization_timeout=round(limits.join),
            heartbeat_timeout_seconds=round(limits.heartbeat),
        )
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError("--distributed", f"'{text}' failed ({reason})", FORM) from None
    if count() > 1:
        _watch()
    return count()


_watches: list[Watch] = []


def _watch() -> None:
    """Lets this process end soon after another one has ended."""
    watch = Watch(number(), _end_after)
    _watches.append(watch)
    key = _next_key()
    if number() == 0:
        _post(key, watch.port)
    else:
        host = distributed.global_state.coordinator_address.rpartition(":")[0]
        watch.connect(number(), host.removeprefix("[").removesuffix("]"), _await(key))


def _end_after(other: int) -> None:
    """Ends this process because another one has ended; runs in a thread."""
    error = _reason_of_peer(other, MOMENT)
    if not _ending.is_set():
        _tell_end(error)


def _tell_end(error: UserError) -> NoReturn:
    """Prints why this process ends with others, and ends it."""
    _ending.set()
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if number() == 0:
        time.sleep(COORDINATOR_STAYS)
    os._exit(error.exit_code)


# Whether this process knows why it ends.
_ending = threading.Event()


def number() -> int:
    """Returns the number of this process; unlike `jax.process_index` it starts no backend."""
    return distributed.global_state.process_id


def count() -> int:
    """Returns the number of processes; unlike `jax.process_count` it starts no backend."""
    return distributed.global_state.num_processes


def on_first(function: Callable[[], Any]) -> Any:
    """Calls `function` in process 0 only and shares its value or error.

    Args:
      function: returns a JSON value or raises a UserError.

    Returns:
      Its value, in every process.

    Raises:
      UserError: the error that it raised, in every process; or that with which another process
        has failed meanwhile.
    """
    if count() == 1:
        return function()
    key = _next_key()
    if number() == 0:
        try:
            outcome = {"value": function()}
        except UserError as error:
            _post(key, {"error": _written(error)})
            raise
        _post(key, outcome)
        return json.loads(json.dumps(outcome))["value"]
    shared = _await(key)
    if "error" in shared:
        raise _read(shared["error"])
    return shared["value"]


def exchange(value: Any) -> list[Any]:
    """Returns what each process gives, by its number.

    Args:
      value: a JSON value.

    Raises:
      UserError: that with which another process has failed meanwhile.
    """
    if count() == 1:
        return [value]
    key = _next_key()
    _post(f"{key}/{number()}", value)
    return [_await(f"{key}/{other}") for other in range(count())]


def announce(error: UserError) -> None:
    """Tells the other processes why this one fails, so that they need not wait for it."""
    _ending.set()
    if count() > 1:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # a second error, or no coordinator
            _post(f"{_FAILED}/{number()}", _written(error))


def failure() -> UserError | None:
    """Returns the error with which the first other process has failed, None if none has."""
    failed = {
        int(key.rpartition("/")[2]): written
        for key, written in distributed.global_state.client.key_value_dir_get(_FAILED)
    }
    failed.pop(number(), None)
    if not failed:
        return None
    error = _read(json.loads(failed[min(failed)]))
    return type(error)(error.where, f"{error.what} (in process {min(failed)})", error.remedy)


def is_told_by_first(error: UserError) -> bool:
    """Returns whether process 0 prints the same error, so that this one need not.

    Args:
      error: which is announced.
    """
    if count() == 1 or number() == 0 or error.printed_by_all:
        return False
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        return _await(f"{_FAILED}/0", PARTING) == _written(error)
    return False


def _written(error: UserError) -> list[str]:
    return [type(error).__name__, error.where, error.what, error.remedy]


def _read(written: Sequence[str]) -> UserError:
    kind, *arguments = written
    return getattr(errors, kind)(*arguments)


_FAILED = "kdaug_jax/failed"
# All processes come to the same points in the same order.
_points = itertools.count()


def _next_key() -> str:
    return f"kdaug_jax/{next(_points)}"


def _post(key: str, value: Any) -> None:
    distributed.global_state.client.key_value_set(key, json.dumps(value))


def _await(key: str, seconds: float = math.inf) -> Any:
    """Returns the value of a key once it is there.

    Raises:
      UserError: another process has failed.
      JaxRuntimeError: it is not there in time.
    """
    ends = time.monotonic() + seconds
    while True:
        try:
            value = distributed.global_state.client.blocking_key_value_get(key, _GLANCE_MS)
            return json.loads(value)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > ends:
                raise
        if math.isinf(seconds) and (error := failure()):
            raise error


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

    If one of several processes fails, the others learn why where they wait for it, or that it is
    gone, and end with its status; that must not take the minutes that JAX would wait for them.

    Args:
      main: the program.
    """
    try:
        status = main()
        streams.ignore_signals()
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        # Some of JAX's errors are ValueErrors.
        if isinstance(error, jax.errors.JaxRuntimeError | ValueError) and _GONE.search(str(error)):
            _tell_end(_reason_of_peer(None, PARTING, str(error)))
        traceback.print_exc()
        announce(ConfigError(f"process {number()}", f"ended with {type(error).__name__}",
                             "see its traceback"))
        status = 1
    _ending.set()
    if status in (0, *SAVED):
        for watch in _watches:
            watch.leave()
    if status == 0 or not jax.distributed.is_initialized():
        sys.exit(status)
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(SAVING if status in SAVED else PARTING)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# What JAX's collectives and its coordinator say when a peer has ended.
_GONE = re.compile(
    r"Gloo |heartbeat|Coordination ?Service|socket closed|connection (reset|closed|refused)",
    re.IGNORECASE,
)


def _reason_of_peer(other: int | None, seconds: float, said: str = "") -> UserError:
    """Returns why other processes end: what one of them has announced, or that it is gone.

    Args:
      other: the number of one that has ended, None if it is not known which.
      seconds: how long to wait for an announcement.
      said: what JAX says.
    """
    ends = time.monotonic() + seconds
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator is gone
        while other != 0 and not _ending.is_set():
            if error := failure():
                return error
            if time.monotonic() > ends:
                break
            time.sleep(_GLANCE_MS / 5000)
    who = "a peer" if other is None else f"process {other}"
    reason = f" ({said.splitlines()[0][:_SHOWN]})" if said else ""
    return PeerGone("--distributed", f"{who} is gone{reason}", "run the same command again")
