"""How the processes of a run find each other before JAX connects them.

JAX ends a process natively, after minutes and without saying why, if a peer is missing or a name
cannot be resolved. Here process 0 listens at the address first; each of the others says its number
there, and all go on once everybody has come.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Collection

from kdaug_jax.errors import ConfigError

WHERE = "--distributed"
_HELLO, _GO = "kdaug_jax {number}/{count}\n", "go\n"
# Seconds between attempts to reach process 0, and that a peer has to say its number.
_PAUSE, _PATIENCE = 0.2, 5.0
_LINE = 1024


def meet(number: int, count: int, host: str, port: int, seconds: float) -> None:
    """Waits until all processes of a run have come to process 0.

    Args:
      number: of this process.
      count: of all processes.
      host: name or address of the host of process 0.
      port: TCP port there, on which JAX listens afterwards.
      seconds: how long to wait.

    Raises:
      ConfigError: the port is taken, the host is unknown, process 0 does not answer, a process is
        missing, or the processes do not agree on how many they are.
    """
    if count == 1:
        return
    ends = time.monotonic() + seconds
    if number == 0:
        _receive(count, f"{host}:{port}", port, ends, seconds)
    else:
        _report(number, count, host, port, ends, seconds)


def _receive(count: int, address: str, port: int, ends: float, seconds: float) -> None:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(WHERE, f"cannot listen on port {port} ({error.strerror})",
                              "name another port to all processes") from None
        raise ConfigError(WHERE, f"port {port} of this host is taken by another program",
                          "name another port to all processes") from None
    with server, contextlib.ExitStack() as stack:
        peers: dict[int, socket.socket] = {}
        while len(peers) < count - 1 and (left := ends - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(TimeoutError):
                peer = stack.enter_context(server.accept()[0])
                said = _read(peer, _PATIENCE)
                if answer := _welcome(said, count, peers, peer):
                    _tell([peer], answer)
        missing = sorted(set(range(1, count)) - set(peers))
        if missing:
            what = (f"{_named(missing)} of {count} did not come to {address} within "
                    f"{seconds:g} s")
            _tell(peers.values(), what)
            raise ConfigError(WHERE, what, "start them, or wait longer: --join_seconds=N")
        _tell(peers.values(), _GO)
        for peer in peers.values():
            # They close first: a socket that waits for stray packets would keep the port.
            _read(peer, _PATIENCE)


def _welcome(said: str, count: int, peers: dict[int, socket.socket], peer: socket.socket) -> str:
    """Notes a peer; returns why it is turned away, "" if it is one of this run."""
    words = said.split()
    if len(words) != 2 or words[0] != "kdaug_jax":
        return "this is the port of another program"
    number, _, theirs = words[1].partition("/")
    if theirs != str(count) or not number.isdecimal() or not 0 < int(number) < count:
        return f"process 0 expects {count} processes, and this one is {words[1]}"
    if int(number) in peers:
        return f"two processes say that they are number {number}"
    peers[int(number)] = peer
    return ""


def _report(number: int, count: int, host: str, port: int, ends: float, seconds: float) -> None:
    address, reason = f"{host}:{port}", ""
    while True:
        left = ends - time.monotonic()
        if left <= 0:
            raise ConfigError(WHERE, f"process 0 does not answer at {address} within {seconds:g} s"
                              f"{reason}", "start it, or mend the address")
        patience = max(min(left, _PATIENCE), 0.01)
        try:
            with socket.create_connection((host, port), timeout=patience) as to_first:
                to_first.sendall(_HELLO.format(number=number, count=count).encode())
                answer = _read(to_first, left + _PATIENCE)
        except socket.gaierror as error:
            reason = f" (unknown host: {error.strerror})"
        except OSError as error:
            reason = f" ({error.strerror or error})"
        else:
            if answer == _GO:
                return
            if answer:
                raise ConfigError(WHERE, answer.strip(), "start all processes with the same "
                                  "count and address, each with a number of its own")
            reason = " (it hung up)"
        time.sleep(_PAUSE)


def _read(peer: socket.socket, seconds: float) -> str:
    """Returns the line that a peer sends, "" if it hangs up or says nothing."""
    line = b""
    ends = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < _LINE:
            peer.settimeout(max(ends - time.monotonic(), 0.01))
            part = peer.recv(_LINE)
            if not part:
                break
            line += part
    return line.decode(errors="replace")


def _tell(peers: Collection[socket.socket], line: str) -> None:
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.sendall((line.rstrip("\n") + "\n").encode())


def _named(numbers: Collection[int]) -> str:
    few = ", ".join(map(str, list(numbers)[:8])) + (", …" if len(numbers) > 8 else "")
    return f"process {few}" if len(numbers) == 1 else f"processes {few}"
