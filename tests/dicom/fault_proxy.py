"""A TCP proxy that spoils a conversation on purpose, until it is healed."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

_PIECE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong.

    Attributes:
        kind: "reset" and "swallow" begin after `after_bytes` of the caller: the connection is
            reset, or nothing is passed on any more. "eat replies" passes so many replies of the
            peer on and no more. "slow" passes the caller's bytes on at `bytes_per_second`.
            "refuse" closes every connection.
    """

    kind: Literal["reset", "swallow", "eat replies", "slow", "refuse"]
    after_bytes: int = 0
    bytes_per_second: int = 0


class FaultProxy:
    """Owns a listening socket on loopback; a context manager."""

    def __init__(self, peer: tuple[str, int], fault: Fault) -> None:
        """Begin to listen; `port` is where callers go."""
        self._peer = peer
        self._fault: Fault | None = fault
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def spoil(self, fault: Fault) -> None:
        """Do so from the next connection."""
        self._fault = fault

    def heal(self) -> None:
        """Pass everything on from the next connection."""
        self._fault = None

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return  # the proxy was closed
            fault = self._fault
            if fault is not None and fault.kind == "refuse":
                caller.close()
                continue
            peer = socket.create_connection(self._peer)
            for each in (caller, peer):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pass_on, args=(caller, peer, fault), daemon=True).start()
            threading.Thread(target=_reply, args=(peer, caller, fault), daemon=True).start()


def _pass_on(caller: socket.socket, peer: socket.socket, fault: Fault | None) -> None:
    passed = 0
    try:
        while piece := caller.recv(_PIECE_BYTES):
            if fault is not None and fault.kind in {"reset", "swallow"}:
                allowed = piece[: max(0, fault.after_bytes - passed)]
                if len(allowed) < len(piece):
                    peer.sendall(allowed)
                    if fault.kind == "reset":
                        _reset(caller, peer)
                        return
                    continue
            if fault is not None and fault.kind == "slow":
                time.sleep(len(piece) / fault.bytes_per_second)  # the fault itself
            peer.sendall(piece)
            passed += len(piece)
    except OSError:
        pass  # one side is gone: so is the other
    _close(caller, peer)


def _reply(peer: socket.socket, caller: socket.socket, fault: Fault | None) -> None:
    replies = 0
    try:
        while piece := peer.recv(_PIECE_BYTES):
            replies += 1
            if fault is not None and fault.kind == "eat replies" and replies > fault.after_bytes:
                continue
            caller.sendall(piece)
    except OSError:
        pass  # one side is gone: so is the other
    _close(caller, peer)


def _reset(*connections: socket.socket) -> None:
    for each in connections:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _close(*connections)


def _close(*connections: socket.socket) -> None:
    for each in connections:
        with suppress(OSError):  # not connected any more
            each.shutdown(socket.SHUT_RDWR)
        each.close()
