"""A peer that says what it was told to say, byte for byte, whatever it hears."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROPOSED_CONTEXT = 0x20
_TRANSFER_SYNTAX = 0x40
ASSOCIATION_REJECTED = bytes([3, 0, 0, 0, 0, 4])
ABORTED = bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0])
RELEASE_REQUESTED = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])
ACCEPT = b"accept"
"""Stands for the acceptance of every context that was proposed."""
HANG_UP = b"hang up"
"""Stands for the end of the connection."""


@contextmanager
def scripted_peer(*answers: bytes, reads_on: bool = True) -> Iterator[int]:
    """A listener on loopback: for each piece it hears it says the next answer; its port.

    After the last one it is silent and keeps the connection until the caller closes it.

    Args:
        reads_on: Whether it reads what comes after its last answer.
    """
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(
            target=_serve, args=(listener, answers, None if reads_on else is_over), daemon=True
        ).start()
        yield listener.getsockname()[1]
        is_over.set()


def data_pdu(context_id: int, control: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU with one presentation data value."""
    value = (len(fragment) + 2).to_bytes(4, "big") + bytes([context_id, control]) + fragment
    return b"\x04\x00" + len(value).to_bytes(4, "big") + value


def _serve(
    listener: socket.socket, answers: tuple[bytes, ...], is_over: threading.Event | None
) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the test is over
        with connection:
            try:
                _talk(connection, answers)
                if is_over is not None:
                    is_over.wait()
                while connection.recv(1 << 20):
                    pass
            except OSError:
                continue  # the caller had enough


def _talk(connection: socket.socket, answers: tuple[bytes, ...]) -> None:
    for answer in answers:
        heard = connection.recv(1 << 20)
        if not heard or answer == HANG_UP:
            raise ConnectionError
        connection.sendall(_acceptance(heard) if answer == ACCEPT else answer)


def _acceptance(heard: bytes) -> bytes:
    """A-ASSOCIATE-AC (PS3.8 9.3.3) that takes each context with its first transfer syntax."""
    items = [b"\x10\x00" + _counted(b"1.2.840.10008.3.1.1.1")]
    for kind, body in _items(heard[74:]):
        if kind == _PROPOSED_CONTEXT:
            syntax = next(value for each, value in _items(body[4:]) if each == _TRANSFER_SYNTAX)
            chosen = bytes([_TRANSFER_SYNTAX, 0]) + _counted(syntax)
            items.append(b"\x21\x00" + _counted(bytes([body[0], 0, 0, 0]) + chosen))
    length = b"\x51\x00" + _counted((16384).to_bytes(4, "big"))
    implementation = b"\x52\x00" + _counted(b"2.25.1")
    items.append(b"\x50\x00" + _counted(length + implementation))
    body = heard[6:74] + b"".join(items)
    return b"\x02\x00" + len(body).to_bytes(4, "big") + body


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(encoded):
        length = int.from_bytes(encoded[position + 2 : position + 4], "big")
        yield encoded[position], encoded[position + 4 : position + 4 + length]
        position += 4 + length


def _counted(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value
