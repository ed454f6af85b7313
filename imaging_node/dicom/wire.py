"""PDUs on a connection to a peer: whole ones, in time, of a bounded length."""

from __future__ import annotations

import struct
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from imaging_node.domain.errors import PeerUnavailableError

if TYPE_CHECKING:
    import socket

OFFERED_PDU_BYTES: Final = 131072
_NEGOTIATION_CEILING_BYTES: Final = 65536

IS_COMMAND: Final = 1  # PS3.8 annex E.2: message control header
IS_LAST: Final = 2

_HEADER = struct.Struct(">BxI")
_VALUE_HEADER = struct.Struct(">IBB")


class Pdu(IntEnum):
    """PDU types, PS3.8 9.3.1."""

    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


_CEILINGS: Final = {
    Pdu.ASSOCIATE_AC: _NEGOTIATION_CEILING_BYTES,
    Pdu.ASSOCIATE_RJ: 4,
    Pdu.P_DATA: OFFERED_PDU_BYTES,
    Pdu.RELEASE_RQ: 4,
    Pdu.RELEASE_RP: 4,
    Pdu.ABORT: 4,
}


class Wire:
    """Owns the connection; reads and writes PDUs of which none can block for ever."""

    def __init__(self, connection: socket.socket, *, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    def send(self, encoded: bytes | memoryview) -> None:
        """Send whole.

        Raises:
            PeerUnavailableError: The connection is lost, or the peer takes nothing.
        """
        self._connection.settimeout(self._timeout_s)
        try:
            self._connection.sendall(encoded)
        except OSError as error:
            raise _lost(error) from error

    def read(self, *, wait_s: float) -> tuple[Pdu, bytes]:
        """The next PDU, which must arrive whole within `wait_s`.

        Raises:
            PeerUnavailableError: It does not, or it is none that a requestor can be sent.
            TimeoutError: Nothing at all came.
        """
        deadline_s = time.monotonic() + wait_s
        header = bytearray(_HEADER.size)
        self._fill(header, deadline_s, may_wait_in_vain=True)
        kind, length = _HEADER.unpack(header)
        if kind not in _CEILINGS or length > _CEILINGS[Pdu(kind)]:
            raise broken("it sent a PDU that is unknown or too long")
        body = bytearray(length)
        self._fill(body, deadline_s)
        return Pdu(kind), bytes(body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _fill(
        self, buffer: bytearray, deadline_s: float, *, may_wait_in_vain: bool = False
    ) -> None:
        view = memoryview(buffer)
        while view:
            try:
                self._connection.settimeout(max(0.001, deadline_s - time.monotonic()))
                count = self._connection.recv_into(view)
            except TimeoutError:
                if may_wait_in_vain and len(view) == len(buffer):
                    raise
                raise unanswered() from None
            except OSError as error:
                raise _lost(error) from error
            if not count:
                raise unanswered("the peer closed the connection")
            view = view[count:]


def data_values(body: bytes) -> list[tuple[int, int, bytes]]:
    """Presentation data values of a P-DATA-TF PDU: context, control header, fragment."""
    found = []
    position = 0
    while position < len(body):
        if len(body) - position < _VALUE_HEADER.size:
            raise ValueError("a PDU ends within a data value")
        length, context_id, control = _VALUE_HEADER.unpack_from(body, position)
        end = position + 4 + length
        if length < 2 or end > len(body):  # noqa: PLR2004 - PS3.8 9.3.5.1: context and control
            raise ValueError("a data value is longer than its PDU")
        found.append((context_id, control, body[position + _VALUE_HEADER.size : end]))
        position = end
    if not found:
        raise ValueError("a PDU holds no data value")
    return found


def unanswered(what: str = "the peer did not answer in time") -> PeerUnavailableError:
    """Perhaps it was done, perhaps not: the same again settles it."""
    return PeerUnavailableError(what, status="no answer")


def broken(what: str) -> PeerUnavailableError:
    """The peer breaks the protocol."""
    return PeerUnavailableError(
        f"the peer breaks the DICOM protocol: {what}; see its log", status="protocol error"
    )


def _lost(error: OSError) -> PeerUnavailableError:
    return unanswered(f"the connection to the peer is lost ({type(error).__name__})")
