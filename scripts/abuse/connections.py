"""Faults 20 to 23: connections that never say what they want, or say it without end."""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from pydicom.uid import ExplicitVRLittleEndian

from abuse.fault import Fault
from abuse.ground import ATTACKER, Ground, expect
from tests.dicom.listening import (
    CT,
    LOOPBACK,
    RawPeer,
    association_request,
    data_pdu,
    store_command,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LITTLE = str(ExplicitVRLittleEndian)
_ABORT = 0x07
_CLEARED_WITHIN_S = 15.0
_HANDSHAKE_WITHIN_S = 6.5  # 5 s, and the time to notice
_MIB = 1024 * 1024
_ENDLESS_BYTES = 200 * _MIB


def _await_closed(connections: Sequence[socket.socket], limit_s: float, what: str) -> float:
    """Seconds until the node has closed every one of them; what it says before is read."""
    begun_s = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for each in connections:
            each.setblocking(False)
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            left_s = begun_s + limit_s - time.monotonic()
            expect(left_s > 0, f"{len(selector.get_map())} {what} still open after {limit_s:g} s")
            for key, _ in selector.select(left_s):
                assert isinstance(key.fileobj, socket.socket)
                if _is_at_end(key.fileobj):
                    selector.unregister(key.fileobj)
    return time.monotonic() - begun_s


def _is_at_end(connection: socket.socket) -> bool:
    try:
        return not connection.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def _connect(ground: Ground, opened: ExitStack) -> socket.socket:
    return opened.enter_context(
        socket.create_connection((LOOPBACK, ground.port), timeout=10, source_address=(ATTACKER, 0))
    )


def _idle_connections(ground: Ground) -> str:
    with ExitStack() as opened:
        connections = [_connect(ground, opened) for _ in range(200)]
        seconds = _await_closed(connections, _CLEARED_WITHIN_S, "idle connections")
    return f"200 closed within {seconds:.1f} s"


def _half_requests(ground: Ground) -> str:
    request = association_request([(CT, _LITTLE)])
    with ExitStack() as opened:
        connections = [_connect(ground, opened) for _ in range(12)]
        for number, each in enumerate(connections):
            each.sendall(request[: 1 + number * (len(request) - 2) // 11])
        seconds = _await_closed(connections, _CLEARED_WITHIN_S, "half requests")
    return f"12 closed within {seconds:.1f} s"


def _dripping_requests(ground: Ground) -> str:
    """A byte each half second: every read is answered, and no PDU is ever whole."""
    request = association_request([(CT, _LITTLE)])
    begun_s = time.monotonic()
    with ExitStack() as opened:
        connections = [_connect(ground, opened) for _ in range(8)]
        left = list(connections)
        for byte in request:
            for each in list(left):
                try:
                    each.sendall(bytes([byte]))
                except OSError:
                    left.remove(each)  # closed by the node
            seconds = time.monotonic() - begun_s
            if not left or seconds > _CLEARED_WITHIN_S:
                break
            time.sleep(0.5)  # the fault itself
    expect(not left, f"{len(left)} of 8 still open after {seconds:.0f} s")
    return f"8 closed within {seconds:.1f} s"


def _half_data(ground: Ground) -> str:
    pdu = data_pdu(value(store_command(), is_command=True))
    with ExitStack() as opened:
        peers = [opened.enter_context(ground.call()) for _ in range(10)]
        for number, each in enumerate(peers):
            expect(each.associate()[:1] == b"\x02", "an association was refused")
            each.send(pdu[: 1 + number * (len(pdu) - 2) // 9])
        seconds = _await_closed(
            [each.socket for each in peers], _CLEARED_WITHIN_S, "half P-DATA PDUs"
        )
    return f"10 aborted within {seconds:.1f} s"


def _silent_tls(ground: Ground) -> str:
    with ExitStack() as opened:
        connections = [_connect(ground, opened) for _ in range(50)]
        seconds = _await_closed(connections, _HANDSHAKE_WITHIN_S, "silent clients")
    return f"50 closed within {seconds:.1f} s"


def _pour(peer: RawPeer, pieces: Callable[[int], bytes]) -> tuple[int, bytes]:
    """Send until the node has had enough: bytes that went out, and what it answered."""
    sent, number = 0, 0
    peer.socket.settimeout(15)
    with suppress(OSError):
        while sent < _ENDLESS_BYTES:
            piece = pieces(number)
            peer.socket.sendall(piece)
            sent += len(piece)
            number += 1
            if _has_answered(peer.socket):
                break
    try:
        return sent, peer.pdu()
    except OSError:
        return sent, b""


def _has_answered(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    else:
        return True
    finally:
        connection.settimeout(15)


def _expect_ended(what: str, sent: int, answer: bytes, most_bytes: int) -> str:
    expect(answer[:1] in (b"", bytes([_ABORT])), f"{what}: answered by PDU {answer[:10].hex(' ')}")
    expect(sent <= most_bytes, f"{what}: {sent / _MIB:.1f} MiB were taken")
    return f"{what} {'A-ABORT' if answer else 'closed'} after {sent / 1024:.0f} KiB"


def _huge_header(ground: Ground) -> str:
    """A-ASSOCIATE-RQ and P-DATA-TF whose headers promise 4 GiB and 200 MiB, and then deliver."""
    seen = []
    # What the kernel's buffers hold is sent whatever the node does.
    most = 16 * _MIB
    with ground.call() as peer:
        peer.send(b"\x01\0\xff\xff\xff\xff")
        seen.append(_expect_ended("4 GiB request:", *_pour(peer, lambda _: bytes(65536)), most))
    with ground.call() as peer:
        peer.associate()
        peer.send(struct.pack(">BxI", 4, _ENDLESS_BYTES))
        seen.append(_expect_ended("200 MiB data:", *_pour(peer, lambda _: bytes(65536)), most))
    with ground.call() as peer:
        peer.associate()
        piece = data_pdu(value(bytes(16000), is_command=True, is_last=False))
        seen.append(_expect_ended("endless command:", *_pour(peer, lambda _: piece), most))
    return ", ".join(seen)


def _many_headers(ground: Ground) -> str:
    """Sixteen at a time: what one may cost, sixteen cost sixteen times."""
    with ExitStack() as opened:
        peers = [opened.enter_context(ground.call()) for _ in range(16)]
        for each in peers:
            expect(each.associate()[:1] == b"\x02", "an association was refused")
        for each in peers:
            with suppress(OSError):
                each.send(data_pdu(value(bytes(60000), is_command=True, is_last=False)))
                each.send(data_pdu(value(bytes(60000), is_command=True, is_last=False)))
        answers = [each.pdu()[:1] for each in peers]
    expect(set(answers) == {bytes([_ABORT])}, f"answers {sorted(set(answers))}")
    return "16 commands of 120 kB at a time: A-ABORT each"


def _pipelined(ground: Ground) -> str:
    """Sixty instances of 2 MiB, none of whose answers is awaited."""
    dataset = bytes(100_000)
    answers: list[int] = []
    ended = b""
    with ground.call() as peer:
        peer.associate()
        peer.socket.settimeout(10)
        with suppress(OSError):
            for number in range(60):
                peer.send(
                    data_pdu(value(store_command(f"1.2.3.{number}", message_id=1), is_command=True))
                )
                for part in range(20):
                    peer.send(data_pdu(value(dataset, is_command=False, is_last=part == 19)))  # noqa: PLR2004 - of twenty
        with suppress(OSError):
            while (answer := peer.pdu())[:1] == b"\x04":
                answers.append(answer[0])
            ended = answer
    expect(ended[:1] in (b"", bytes([_ABORT])), f"ended by {ended[:10].hex(' ')}")
    expect(len(answers) <= 4, f"{len(answers)} of 60 were answered")  # noqa: PLR2004 - two ahead
    return f"{len(answers)} answers, then {'A-ABORT' if ended else 'closed'}"


CONNECTION_FAULTS = (
    Fault(
        number="20a",
        what="200 idle TCP connections",
        expected="cleared within 15 s",
        commit=_idle_connections,
        most_memory_mib=64,
    ),
    Fault(
        number="20b",
        what="12 half A-ASSOCIATE-RQ",
        expected="cleared within 15 s",
        commit=_half_requests,
        most_memory_mib=64,
    ),
    Fault(
        number="20c",
        what="10 half P-DATA-TF",
        expected="cleared within 15 s",
        commit=_half_data,
        most_memory_mib=64,
        is_sampled=False,
    ),
    Fault(
        number="20d",
        what="8 requests, a byte each half second",
        expected="cleared within 15 s",
        commit=_dripping_requests,
        most_memory_mib=64,
        is_sampled=False,
    ),
    Fault(
        number="22a",
        what="4 GiB header, 200 MiB P-DATA, endless command",
        expected="closed or A-ABORT, memory +<= 64 MiB",
        commit=_huge_header,
        most_memory_mib=64,
    ),
    Fault(
        number="22b",
        what="16 commands over 64 KiB at a time",
        expected="A-ABORT, memory +<= 64 MiB",
        commit=_many_headers,
        most_memory_mib=64,
    ),
    Fault(
        number="23",
        what="60 pipelined stores, no answer awaited",
        expected="A-ABORT beyond two ahead, one file at a time",
        commit=_pipelined,
        most_memory_mib=64,
    ),
)
TLS_CONNECTION_FAULTS = (
    Fault(
        number="21",
        what="50 silent TLS clients",
        expected="closed at 5 s",
        commit=_silent_tls,
        most_memory_mib=64,
    ),
)
