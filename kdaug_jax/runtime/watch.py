"""Notices at once that another process of the run has ended, wherever this one waits.

JAX finds a dead peer within a collective, or after the heartbeat, and then ends the process
natively. So each process keeps a connection to process 0 open, which closes with the process; it
says goodbye where it ends as it should. A host that loses its power or its network closes nothing:
there the heartbeat decides.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_GOODBYE, _GONE = "goodbye", "gone"
_PATIENCE = 10.0


class Watch:
    """The connections of a process to its peers.

    Attributes:
      port: where process 0 listens; 0 in all others.
    """

    def __init__(self, number: int, on_gone: Callable[[int], None]):
        """Makes that of a process.

        Args:
          number: of this process.
          on_gone: called in a thread, with the number of a process that has ended.
        """
        self.port = 0
        self._on_gone = on_gone
        self._peers: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        self._server: socket.socket | None = None
        if number == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
            self.port = self._server.getsockname()[1]
            self._start(self._accept)

    def connect(self, number: int, host: str, port: int) -> None:
        """Connects to process 0; where a firewall is in between, nothing is watched.

        Args:
          number: of this process.
          host: of process 0.
          port: where it listens.
        """
        with contextlib.suppress(OSError):
            peer = socket.create_connection((host, port), timeout=_PATIENCE)
            peer.settimeout(None)
            peer.sendall(f"{number}\n".encode())
            with self._lock:
                self._peers[0] = peer
            self._start(self._listen, 0, peer)

    def leave(self) -> None:
        """Says goodbye: this process ends as it should, or has told why it does not."""
        with self._lock:
            peers, self._peers = dict(self._peers), {}
        for peer in peers.values():
            with contextlib.suppress(OSError):
                peer.sendall(f"{_GOODBYE}\n".encode())
        if self._server is not None:
            self._server.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed by `leave`
            while True:
                peer = self._server.accept()[0]
                self._start(self._welcome, peer)

    def _welcome(self, peer: socket.socket) -> None:
        line = ""
        with contextlib.suppress(OSError):
            line = peer.makefile("r", encoding="ascii", errors="replace").readline().strip()
        if line.isdecimal():
            with self._lock:
                self._peers[int(line)] = peer
            self._listen(int(line), peer)

    def _listen(self, number: int, peer: socket.socket) -> None:
        """Reads what a peer says until it hangs up."""
        last = ""
        with contextlib.suppress(OSError):
            for line in peer.makefile("r", encoding="ascii", errors="replace"):
                last = line.strip()
                if last == _GOODBYE:
                    break
                if last.startswith(_GONE):
                    self._on_gone(int(last.split()[1]))
        with self._lock:
            known = self._peers.pop(number, None)
            others = list(self._peers.values())
        peer.close()
        if last == _GOODBYE or known is None:
            return
        for other in others:
            with contextlib.suppress(OSError):
                other.sendall(f"{_GONE} {number}\n".encode())
        self._on_gone(number)
