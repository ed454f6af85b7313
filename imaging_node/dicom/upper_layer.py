"""Acceptor side of the DICOM upper layer (PS3.8): acts as its state table says.

Every read has a deadline and a ceiling that is checked before the body is read. pynetdicom
encodes and decodes what is negotiated; the bytes of P-DATA are handed on as they lie in one
buffer.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING, Protocol

from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RP

from imaging_node.dicom.endings import AbortAssociationError, AbortReason, Ended, Ending
from imaging_node.dicom.state_table import STATE_TABLE, Action, Received, State
from imaging_node.dicom.wire import OFFERED_PDU_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.dicom.negotiation import Answer

REQUEST_CEILING_BYTES = 65536
COMMAND_CEILING_BYTES = 65536
# PS3.8 9.3.5 to 9.3.8: all other PDUs carry four bytes.
_SMALL_CEILING_BYTES = 64
PDU_DEADLINE_S = 10.0
# How long a peer may take to close its side after an abort, a rejection or a release (ARTIM).
CLOSING_DEADLINE_S = 2.0
_TICK_S = 1.0
_BUFFER_BYTES = 4 * OFFERED_PDU_BYTES
_HEADER = struct.Struct(">BxI")
_VALUE_HEADER = struct.Struct(">IBB")
_IS_COMMAND = 1
_IS_LAST = 2


class MessageConsumer(Protocol):
    """What takes the fragments of messages: the services of one association."""

    @property
    def is_idle(self) -> bool:
        """Whether no message has begun."""
        ...

    def take(
        self, context_id: int, fragment: memoryview, *, is_command: bool, is_last: bool
    ) -> None:
        """Take one presentation data value; its memory is used again afterwards.

        Raises:
            AbortAssociationError: The peer broke the rules.
        """
        ...


_ABORT_REASONS = {
    Received.UNRECOGNISED: AbortReason.UNRECOGNISED_PDU,
    Received.INVALID: AbortReason.INVALID_PARAMETER,
    Received.TIMER_EXPIRED: AbortReason.NOT_SPECIFIED,
}


class UpperLayer:
    """Owns one accepted connection from its first byte to its close."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        negotiate: Callable[[bytes], Answer],
        idle_timeout_s: float,
        connected_at_s: float,
    ) -> None:
        """Take over a connection whose TLS handshake, if any, is done.

        Args:
            negotiate: The A-ASSOCIATE-RQ PDU to the answer, and who takes its messages.
            connected_at_s: When it was accepted, by `time.monotonic`.
        """
        self._connection = connection
        self._negotiate = negotiate
        self._idle_timeout_s = idle_timeout_s
        self._buffer = bytearray(REQUEST_CEILING_BYTES + _HEADER.size)
        self._view = memoryview(self._buffer)
        self._begin = 0
        self._end = 0
        self._state = State.AWAITING_REQUEST
        self._deadline_s = connected_at_s + PDU_DEADLINE_S
        self._is_in_pdu = False
        self._consumer: MessageConsumer | None = None
        self._ending: Ending | None = None
        self._is_draining = False
        self._has_sent_abort = False
        _wait_at_most(connection, _TICK_S)

    @property
    def has_unread_data(self) -> bool:
        """Whether data lies ready that came before the last answer was sent."""
        return self._end > self._begin and self._buffer[self._begin] == Received.P_DATA

    def serve(self) -> Ending:
        """Read and act until the connection is closed."""
        try:
            while self._state is not State.CLOSED:
                self._step()
        except AbortAssociationError as error:
            self._abort(error)
        except OSError as error:
            self._end_with(Ended.CONNECTION_LOST, type(error).__name__)
        finally:
            self._connection.close()
        return self._ending or Ending(how=Ended.CONNECTION_LOST)

    def send(self, encoded: bytes) -> None:
        """Send whole; a peer that takes nothing for ten seconds is gone.

        Raises:
            OSError: The connection is lost.
        """
        left, deadline_s = memoryview(encoded), time.monotonic() + PDU_DEADLINE_S
        while left:
            try:
                left = left[self._connection.send(left) :]
            except (TimeoutError, BlockingIOError):
                if time.monotonic() > deadline_s:
                    raise

    def send_command(self, context_id: int, command: bytes) -> None:
        """Send one command set in one P-DATA-TF PDU.

        Raises:
            OSError: The connection is lost.
        """
        length = len(command) + 2
        self.send(
            struct.pack(">BxIIBB", 4, length + 4, length, context_id, _IS_COMMAND | _IS_LAST)
            + command
        )

    def drain(self) -> None:
        """From another thread: end the association as soon as it is silent for a second."""
        self._is_draining = True

    def cut(self) -> None:
        """From another thread: end the association now; what it waits for returns at once."""
        self._is_draining = True
        try:
            # Not SSLSocket.shutdown, which would let the reading thread go on in plain text.
            socket.socket.shutdown(self._connection, socket.SHUT_RD)
        except OSError:
            return  # it has ended by itself

    def _step(self) -> None:
        event = self._next_event()
        action = STATE_TABLE[self._state][event]
        if action is Action.DT_2:
            self._take_data()
        elif action is Action.AE_6:
            self._answer_request()
        elif action is Action.AR_2:
            # The release is always granted: AR-4.
            self._consume_pdu()
            self.send(A_RELEASE_RP().encode())
            self._await_close(Ending(how=Ended.RELEASED))
        elif action in (Action.AA_1, Action.AA_8):
            raise AbortAssociationError(
                f"unexpected {event.name.lower().replace('_', ' ')}",
                abort=_ABORT_REASONS.get(event, AbortReason.UNEXPECTED_PDU),
                is_provider=action is Action.AA_8,
            )
        elif action is Action.AA_6:
            self._begin = self._end = 0
        elif action is Action.AA_7:
            self._begin = self._end = 0
            if not self._has_sent_abort:
                self._has_sent_abort = True
                self.send(_abort_pdu(AbortReason.UNEXPECTED_PDU, is_provider=True))
        elif action in (Action.AA_3, Action.AA_2) and event is Received.ABORT:
            self._end_with(Ended.ABORTED_BY_PEER, "A-ABORT")
        elif action is Action.AA_2:
            self._end_with(Ended.CONNECTION_LOST, "nothing came in time")
        else:  # AA-4, AA-5, AR-5: the peer closed the connection
            self._end_with(Ended.CONNECTION_LOST, "closed by the peer")

    def _next_event(self) -> Received:
        """Wait until a whole PDU lies at `_begin`, or for what comes instead."""
        while True:
            have = self._end - self._begin
            if have >= _HEADER.size:
                kind, length = _HEADER.unpack_from(self._buffer, self._begin)
                event = _event(kind, length, self._state)
                if not _is_read_whole(self._state, event):
                    return event
                if have >= _HEADER.size + length:
                    self._is_in_pdu = False
                    return event
                self._make_room(_HEADER.size + length)
            elif have == 0:
                self._begin = self._end = 0
            else:
                self._make_room(_HEADER.size)
            outcome = self._receive()
            if outcome is not None:
                return outcome

    def _receive(self) -> Received | None:
        """Read what is there; None when more came."""
        self._begin_deadline()
        while True:
            count = self._read_some()
            if count > 0:
                is_late = time.monotonic() > self._deadline_s
                self._end += count
                self._begin_deadline()
                return Received.TIMER_EXPIRED if is_late else None
            if self._is_draining and self._is_between_messages:
                raise AbortAssociationError("the node stops", is_provider=False)
            if count == 0:
                return Received.CONNECTION_CLOSED
            if time.monotonic() > self._deadline_s:
                return Received.TIMER_EXPIRED

    def _read_some(self) -> int:
        """Bytes read; 0 at the end of the stream, -1 when none came within a second."""
        try:
            return self._connection.recv_into(self._view[self._end :])
        except (TimeoutError, BlockingIOError):
            return -1

    def _begin_deadline(self) -> None:
        """In data transfer: silence has its limit, and a PDU once its first byte is there."""
        if self._is_in_pdu or self._state is not State.DATA_TRANSFER:
            return
        self._is_in_pdu = self._end > self._begin
        limit_s = PDU_DEADLINE_S if self._is_in_pdu else self._idle_timeout_s
        self._deadline_s = time.monotonic() + limit_s

    @property
    def _is_between_messages(self) -> bool:
        return (
            self._state is State.DATA_TRANSFER
            and not self._is_in_pdu
            and self._consumer is not None
            and self._consumer.is_idle
        )

    def _make_room(self, needed: int) -> None:
        if self._begin + needed > len(self._buffer):
            have = self._end - self._begin
            self._buffer[:have] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, have

    def _consume_pdu(self) -> bytes:
        _, length = _HEADER.unpack_from(self._buffer, self._begin)
        end = self._begin + _HEADER.size + length
        pdu = bytes(self._view[self._begin : end])
        self._begin = end
        return pdu

    def _answer_request(self) -> None:
        answer = self._negotiate(self._consume_pdu())
        self.send(answer.pdu)
        if answer.consume is None:
            self._await_close(Ending(how=Ended.REJECTED, reason=answer.reason))
            return
        # A peer that was let in may send much: one buffer for several PDUs.
        left = bytes(self._view[self._begin : self._end])
        self._view.release()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._buffer[: len(left)] = left
        self._view = memoryview(self._buffer)
        self._begin, self._end = 0, len(left)
        self._consumer = answer.consume(self)
        self._state = State.DATA_TRANSFER
        self._is_in_pdu = False

    def _take_data(self) -> None:
        """DT-2: hand each presentation data value of the PDU on, PS3.8 9.3.5."""
        consumer = self._consumer
        assert consumer is not None  # Sta6
        _, length = _HEADER.unpack_from(self._buffer, self._begin)
        position = self._begin + _HEADER.size
        end = position + length
        self._begin = end
        while position < end:
            if end - position < _VALUE_HEADER.size:
                raise _invalid("a PDU ends within a presentation data value")
            size, context_id, control = _VALUE_HEADER.unpack_from(self._buffer, position)
            position += _VALUE_HEADER.size
            stop = position + size - 2
            if size < 2 or stop > end:  # noqa: PLR2004 - context id and control header
                raise _invalid("a presentation data value is longer than its PDU")
            consumer.take(
                context_id,
                self._view[position:stop],
                is_command=bool(control & _IS_COMMAND),
                is_last=bool(control & _IS_LAST),
            )
            position = stop

    def _await_close(self, ending: Ending) -> None:
        self._ending = ending
        self._state = State.AWAITING_CLOSE
        self._deadline_s = time.monotonic() + CLOSING_DEADLINE_S
        self._begin = self._end = 0

    def _abort(self, error: AbortAssociationError) -> None:
        """Send A-ABORT, then wait in Sta13 for the peer to close."""
        self._await_close(Ending(how=Ended.ABORTED, reason=str(error)))
        self._has_sent_abort = True
        try:
            self.send(_abort_pdu(error.abort, is_provider=error.is_provider))
            while self._state is not State.CLOSED:
                self._step()
        except OSError:
            return  # the peer is gone: nothing is left to say

    def _end_with(self, how: Ended, reason: str) -> None:
        self._ending = self._ending or Ending(how=how, reason=reason)
        self._state = State.CLOSED


def _event(kind: int, length: int, state: State) -> Received:
    """What a PDU header announces; a length over the ceiling is invalid before it is read."""
    if kind not in range(Received.ASSOCIATE_RQ, Received.ABORT + 1):
        return Received.UNRECOGNISED
    event = Received(kind)
    if event is Received.P_DATA:
        ceiling = OFFERED_PDU_BYTES if state is State.DATA_TRANSFER else 0
    elif event is Received.ASSOCIATE_RQ:
        ceiling = REQUEST_CEILING_BYTES if state is State.AWAITING_REQUEST else 0
    else:
        ceiling = _SMALL_CEILING_BYTES
    if length <= ceiling:
        return event
    # Out of place anyway: unexpected, whatever its length.
    is_read = event is Received.ABORT or _is_read_whole(state, event)
    return Received.INVALID if is_read else event


def _is_read_whole(state: State, event: Received) -> bool:
    """Whether a PDU's body is waited for; what is out of place is answered by its header."""
    return STATE_TABLE[state][event] in (
        Action.AE_6, Action.AR_2, Action.DT_2, Action.AA_2, Action.AA_3,
    ) and state is not State.AWAITING_CLOSE  # fmt: skip


def _invalid(reason: str) -> AbortAssociationError:
    return AbortAssociationError(reason, abort=AbortReason.INVALID_PARAMETER)


def _abort_pdu(reason: AbortReason, *, is_provider: bool) -> bytes:
    pdu = A_ABORT_RQ()
    pdu.source = 2 if is_provider else 0
    pdu.reason_diagnostic = int(reason) if is_provider else 0
    encoded: bytes = pdu.encode()
    return encoded


def _wait_at_most(connection: socket.socket, limit_s: float) -> None:
    """Let each read and write return after `limit_s`.

    Python's own time-out asks the kernel twice for each read, and hands its lock to another
    thread both times; the kernel's asks once. TLS cannot tell the kernel's from its end.
    """
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(limit_s)
        return
    connection.settimeout(None)
    span = struct.pack("ll", int(limit_s), int(limit_s % 1 * 1_000_000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
