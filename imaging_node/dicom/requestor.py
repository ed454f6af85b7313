"""Requestor side of the DICOM upper layer (PS3.8): one association in which every wait is bounded.

pynetdicom encodes and decodes what is negotiated. The loop is ours: it blocks, with a deadline
for every PDU, and a dataset goes from its file through one buffer to the socket.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RP, A_RELEASE_RQ

from imaging_node.dicom.command_set import (
    COMMAND_FIELD,
    MESSAGE_ID_RESPONDED_TO,
    RESPONSE,
    CommandSet,
    decode_command,
)
from imaging_node.dicom.wire import IS_COMMAND, IS_LAST, Pdu, Wire, broken, data_values, unanswered
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imaging_node.dicom.proposal import AcceptedContext, Agreement

_LONGEST_SENT_PDU_BYTES: Final = 131072
_COMMAND_CEILING_BYTES: Final = 65536
_DATASET_CEILING_BYTES: Final = 16 * 1024 * 1024
_RELEASE_WAIT_S: Final = 5.0
# Fragments that are read from the file and handed to the socket together.
_SENT_AT_ONCE_BYTES: Final = 1024 * 1024
_ROOM_FOR_COMMAND_BYTES: Final = 1024

_VALUE_HEADER_BYTES: Final = 6
_DATA_HEADER = struct.Struct(">BxIIBB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One DIMSE message of the peer."""

    context_id: int
    command: CommandSet
    dataset: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """An encoded dataset to send, read once from where `stream` stands."""

    stream: BinaryIO
    size_bytes: int


class Association:
    """Owns an association from its acceptance to its release or abort."""

    def __init__(self, wire: Wire, agreement: Agreement, *, timeout_s: float) -> None:
        self._wire = wire
        self._agreement = agreement
        self._timeout_s = timeout_s
        self._message_id = 0
        self._answer_peer: Callable[[Message], bytes] | None = None
        self._buffer = bytearray()
        self._values: deque[tuple[int, int, bytes]] = deque()
        self.is_open = True

    def serve(self, answer: Callable[[Message], bytes]) -> None:
        """Let `answer` give the response to each request that the peer makes."""
        self._answer_peer = answer

    def context(
        self, abstract_syntax: str, transfer_syntax_uid: str | None = None
    ) -> AcceptedContext | None:
        """The accepted presentation context for a class, in one syntax if given."""
        for each in self._agreement.contexts:
            if each.abstract_syntax == abstract_syntax and transfer_syntax_uid in (
                None,
                each.transfer_syntax_uid,
            ):
                return each
        return None

    def next_message_id(self) -> int:
        """A Message ID that no open request has."""
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def request(self, context_id: int, command: bytes, payload: Payload | None = None) -> Message:
        """Send one request and wait for its response; requests of the peer are served meanwhile.

        Raises:
            PeerUnavailableError: There is no response.
            OSError: The payload cannot be read; the association was aborted.
        """
        self._require_open()
        try:
            self._send_message(context_id, command, payload)
            deadline_s = time.monotonic() + self._timeout_s
            while True:
                message = self._next_message(deadline_s)
                if self._answers(message):
                    return message
                self._serve_request(message)
        except TimeoutError:
            self.abort()
            raise unanswered() from None
        except ValueError as error:
            self.abort()
            raise broken(str(error)) from None
        except (PeerUnavailableError, OSError):
            self.abort()
            raise

    def await_request(self, *, wait_s: float) -> bool:
        """Serve one request of the peer; False if none began within `wait_s`.

        Raises:
            PeerUnavailableError: The association has ended.
        """
        self._require_open()
        try:
            self._serve_request(self._next_message(time.monotonic() + wait_s))
        except TimeoutError:
            return False
        except ValueError as error:
            self.abort()
            raise broken(str(error)) from None
        except PeerUnavailableError:
            self.abort()
            raise
        return True

    def release(self) -> None:
        """End the association as agreed; one that has ended already is no error."""
        if not self.is_open:
            return
        try:
            self._wire.send(A_RELEASE_RQ().encode())
            deadline_s = time.monotonic() + min(self._timeout_s, _RELEASE_WAIT_S)
            while (wait_s := deadline_s - time.monotonic()) > 0:
                kind, _ = self._wire.read(wait_s=wait_s)
                if kind is Pdu.RELEASE_RQ:  # collision, PS3.8 7.2.2.6
                    self._wire.send(A_RELEASE_RP().encode())
                elif kind is not Pdu.P_DATA:
                    break
        except (PeerUnavailableError, TimeoutError):
            pass  # all that mattered was answered before
        finally:
            self._close()

    def abort(self) -> None:
        """End the association at once (A-ABORT by the service user)."""
        if not self.is_open:
            return
        pdu = A_ABORT_RQ()
        pdu.source, pdu.reason_diagnostic = 0, 0
        try:
            self._wire.send(pdu.encode())
        except PeerUnavailableError:
            pass  # it is gone
        finally:
            self._close()

    def _send_message(self, context_id: int, command: bytes, payload: Payload | None) -> None:
        value = (
            _DATA_HEADER.pack(
                Pdu.P_DATA, len(command) + 6, len(command) + 2, context_id, IS_COMMAND | IS_LAST
            )
            + command
        )
        if payload is None:
            self._wire.send(value)
        else:
            self._send_dataset(context_id, value, payload)

    def _send_dataset(self, context_id: int, command: bytes, payload: Payload) -> None:
        """Send the command and, in as few writes as possible, the dataset behind it."""
        longest = min(
            self._agreement.peer_pdu_bytes or _LONGEST_SENT_PDU_BYTES, _LONGEST_SENT_PDU_BYTES
        )
        # PS3.8 annex E speaks of even fragments, and DCMTK insists on them.
        fragment_bytes = (longest - _VALUE_HEADER_BYTES) & ~1
        if fragment_bytes <= 0:
            raise broken("it takes no PDU that holds data")
        slot_bytes = _DATA_HEADER.size + fragment_bytes
        slots = max(1, _SENT_AT_ONCE_BYTES // slot_bytes)
        if not self._buffer:
            self._buffer = bytearray(_ROOM_FOR_COMMAND_BYTES + slots * slot_bytes)
        view = memoryview(self._buffer)
        begin = _ROOM_FOR_COMMAND_BYTES - len(command)
        view[begin:_ROOM_FOR_COMMAND_BYTES] = command
        end, left = _ROOM_FOR_COMMAND_BYTES, payload.size_bytes
        while True:
            length = min(fragment_bytes, left)
            left -= length
            _DATA_HEADER.pack_into(
                self._buffer,
                end,
                Pdu.P_DATA,
                length + 6,
                length + 2,
                context_id,
                0 if left else IS_LAST,
            )
            end += _DATA_HEADER.size
            _read_exactly(payload.stream, view[end : end + length])
            end += length
            if not left or end + slot_bytes > len(self._buffer):
                self._wire.send(view[begin:end])
                begin = end = _ROOM_FOR_COMMAND_BYTES
                if not left:
                    return

    def _next_message(self, deadline_s: float) -> Message:
        """Raises TimeoutError when nothing came, ValueError for what is no message."""
        command, dataset = bytearray(), bytearray()
        decoded: CommandSet | None = None
        while True:
            if not self._values:
                self._values.extend(self._next_values(deadline_s, is_first=not command))
            context_id, control, fragment = self._values.popleft()
            if control & IS_COMMAND:
                command += fragment
                if decoded is not None or len(command) > _COMMAND_CEILING_BYTES:
                    raise ValueError("it sent a command without end")
                if control & IS_LAST:
                    decoded = decode_command(command)
                    if not decoded.has_dataset:
                        return Message(context_id=context_id, command=decoded, dataset=b"")
            else:
                dataset += fragment
                if decoded is None or len(dataset) > _DATASET_CEILING_BYTES:
                    raise ValueError("it sent a dataset without command or end")
                if control & IS_LAST:
                    return Message(context_id=context_id, command=decoded, dataset=bytes(dataset))

    def _next_values(self, deadline_s: float, *, is_first: bool) -> list[tuple[int, int, bytes]]:
        try:
            kind, body = self._wire.read(wait_s=deadline_s - time.monotonic())
        except TimeoutError:
            if is_first:
                raise
            raise unanswered() from None
        if kind is Pdu.P_DATA:
            return data_values(body)
        if kind is Pdu.ABORT:
            self._close()
            raise PeerUnavailableError(
                "the peer aborted the association; see its log", status="aborted by the peer"
            )
        if kind is Pdu.RELEASE_RQ:
            self._wire.send(A_RELEASE_RP().encode())
            self._close()
            raise unanswered("the peer released the association")
        raise ValueError("it sent a PDU out of place")

    def _answers(self, message: Message) -> bool:
        """Whether it is the response to the last request, rather than a request of the peer."""
        if not message.command.number(COMMAND_FIELD) & RESPONSE:
            return False
        if message.command.number(MESSAGE_ID_RESPONDED_TO) != self._message_id:
            raise ValueError("it answered another message")
        return True

    def _serve_request(self, message: Message) -> None:
        if message.command.number(COMMAND_FIELD) & RESPONSE:
            raise ValueError("it answered what was not asked")
        if self._answer_peer is None:
            raise ValueError("it made a request of a service that was not agreed")
        self._send_message(message.context_id, self._answer_peer(message), None)

    def _require_open(self) -> None:
        if not self.is_open:
            raise unanswered("the association has ended")

    def _close(self) -> None:
        self.is_open = False
        self._wire.close()


@contextmanager
def released(association: Association) -> Iterator[None]:
    """Release an association at the end of its use; abort it if that failed."""
    try:
        yield
    except BaseException as error:
        # What a peer answers is part of the conversation: it still ends as agreed.
        if isinstance(error, PeerRefusedError | PeerUnavailableError):
            association.release()
        else:
            association.abort()
        raise
    association.release()


def _read_exactly(stream: BinaryIO, view: memoryview) -> None:
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]  # typeshed leaves it out of BinaryIO
        if not count:
            raise OSError("the file became shorter while it was sent")
        view = view[count:]
