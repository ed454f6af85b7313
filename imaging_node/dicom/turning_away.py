"""Connections beyond the limits: told why by one thread, however many they are."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imaging_node.dicom.negotiation import reject_pdu
from imaging_node.dicom.upper_layer import REQUEST_CEILING_BYTES

if TYPE_CHECKING:
    from imaging_node.dicom.negotiation import Rejection

_MOST_WAITING = 128
_WAIT_S = 5.0
_POLL_S = 0.2
_HEADER_BYTES = 6
_ASSOCIATE_RQ = 1


@dataclass(slots=True)
class _Visitor:
    """A connection that will be rejected once its request has come whole (PS3.8 9.2, Sta2)."""

    pdu: bytes
    deadline_s: float
    received: bytearray = field(default_factory=bytearray)
    is_answered: bool = False


class TurningAway:
    """Owns surplus connections until each has its rejection and is closed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="turning-away")
        self._thread.start()

    def add(self, connection: socket.socket, rejection: Rejection) -> None:
        """Take over a connection; too many at a time are closed without a word."""
        with self._lock:
            if len(self._selector.get_map()) >= _MOST_WAITING or self._is_over.is_set():
                connection.close()
                return
            connection.setblocking(False)
            visitor = _Visitor(reject_pdu(rejection), time.monotonic() + _WAIT_S)
            self._selector.register(connection, selectors.EVENT_READ, visitor)

    def close(self) -> None:
        """Close all and end the thread; again, it is no error."""
        if self._is_over.is_set():
            return
        self._is_over.set()
        self._thread.join()
        with self._lock:
            for key in list(self._selector.get_map().values()):
                self._drop(key)
            self._selector.close()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            ready = self._selector.select(_POLL_S)
            now_s = time.monotonic()
            with self._lock:
                for key, _ in ready:
                    if not self._read(key):
                        self._drop(key)
                for key in list(self._selector.get_map().values()):
                    if key.data.deadline_s < now_s:
                        self._drop(key)

    def _read(self, key: selectors.SelectorKey) -> bool:
        """Take what came; False when the connection is done."""
        visitor: _Visitor = key.data
        connection = key.fileobj
        assert isinstance(connection, socket.socket)
        try:
            came = connection.recv(65536)
            if visitor.is_answered:
                return bool(came)  # waits for the peer to close, so that the answer is not lost
            visitor.received += came
            if _is_whole_request(visitor.received):
                connection.send(visitor.pdu)
                connection.shutdown(socket.SHUT_WR)
                visitor.is_answered = True
        except BlockingIOError:
            return True
        except OSError:
            return False
        is_begun = len(visitor.received) < _HEADER_BYTES or _may_become_request(visitor.received)
        return bool(came) and is_begun

    def _drop(self, key: selectors.SelectorKey) -> None:
        connection = key.fileobj
        assert isinstance(connection, socket.socket)
        self._selector.unregister(connection)
        connection.close()


def _length(received: bytearray) -> int:
    return int.from_bytes(received[2:_HEADER_BYTES], "big")


def _may_become_request(received: bytearray) -> bool:
    return received[0] == _ASSOCIATE_RQ and _length(received) <= REQUEST_CEILING_BYTES


def _is_whole_request(received: bytearray) -> bool:
    return (
        len(received) >= _HEADER_BYTES
        and _may_become_request(received)
        and len(received) >= _HEADER_BYTES + _length(received)
    )
