"""A listener on a free port of the loopback interface, and peers that speak bytes to it."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Self

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from imaging_node.dicom import command_set as words
from imaging_node.dicom.association import Watch
from imaging_node.dicom.command_set import Command, encode_command
from imaging_node.dicom.commitment import CommitmentReport, CommitmentRequest
from imaging_node.dicom.connection_slots import ConnectionSlots
from imaging_node.dicom.endings import Ending
from imaging_node.dicom.intake_port import IncomingInstance, Intake, Transferred
from imaging_node.dicom.listener import Listener
from imaging_node.dicom.listening_socket import bind
from imaging_node.dicom.negotiation import Caller
from imaging_node.dicom.tls import acceptor_context
from imaging_node.settings import DicomSettings
from imaging_node.telemetry import Counters

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from imaging_node.dicom.intake_port import InstanceSink

LOOPBACK = "127.0.0.1"
VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
RELEASE_REQUEST = b"\x05\0\0\0\0\x04\0\0\0\0"


@dataclass(slots=True)
class Kept:
    """A sink in memory: what was written, and what became of it."""

    incoming: IncomingInstance
    error: Exception | None = None
    written: bytearray = field(default_factory=bytearray)
    is_accepted: bool = False
    is_discarded: bool = False

    def write(self, piece: memoryview) -> None:
        self.written += piece

    def accept(self) -> str:
        if self.error is not None:
            raise self.error
        self.is_accepted = True
        return "0123456789abcdef"

    def discard(self) -> None:
        self.is_discarded = True


@dataclass(slots=True)
class Seen:
    """What a listener told the rest of the node."""

    sinks: list[Kept] = field(default_factory=list)
    requests: list[CommitmentRequest] = field(default_factory=list)
    reports: list[CommitmentReport] = field(default_factory=list)
    refused: list[tuple[Caller, str]] = field(default_factory=list)
    begun: list[tuple[Caller, bool]] = field(default_factory=list)
    ended: list[tuple[Caller, Ending, Transferred]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    error: Exception | None = None
    durability_lost: bool = False
    is_storage_low: bool = False
    may_promise: bool = True


@dataclass(frozen=True, slots=True)
class Listening:
    """A running listener.

    Attributes:
        seen: What it told.
    """

    port: int
    seen: Seen
    listener: Listener


@contextmanager
def listening(
    folder: Path,
    seen: Seen | None = None,
    *,
    open_instance: Callable[[IncomingInstance], InstanceSink] | None = None,
    **settings: object,
) -> Iterator[Listening]:
    """A listener with these settings of the section `dicom`."""
    noted = seen or Seen()
    dicom = DicomSettings.model_validate({"port": 1, **settings})

    def keep(incoming: IncomingInstance) -> InstanceSink:
        noted.sinks.append(Kept(incoming, noted.error))
        return noted.sinks[-1]

    def lose() -> None:
        noted.durability_lost = True

    server = bind(LOOPBACK, 0)
    listener = Listener(
        server,
        dicom,
        Intake(
            open_instance=open_instance or keep,
            note_request=noted.requests.append,
            note_report=noted.reports.append,
            may_promise=lambda: noted.may_promise,
            on_durability_lost=lose,
        ),
        Watch(
            is_storage_low=lambda: noted.is_storage_low,
            on_refused=lambda caller, reason: noted.refused.append((caller, reason)),
            on_begun=lambda caller, *, stores: noted.begun.append((caller, stores)),
            on_ended=lambda caller, ending, what: noted.ended.append((caller, ending, what)),
        ),
        ConnectionSlots(
            folder / "associations",
            total=dicom.max_associations,
            per_address=dicom.max_associations_per_address,
        ),
        noted.counters,
        acceptor_context(dicom.tls) if dicom.tls else None,
    )
    try:
        yield Listening(server.getsockname()[1], noted, listener)
    finally:
        listener.drain(1)
        server.close()


def store(port: int, payload: bytes, *, called: str = "IMAGING_NODE") -> int:
    """Status that pynetdicom's SCU sees for a Part 10 file."""
    dataset = dcmread(BytesIO(payload))
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate(LOOPBACK, port, ae_title=called)
    assert association.is_established
    status = association.send_c_store(dataset).Status
    association.release()
    return int(status)


class RawPeer:
    """Owns a connection on which any bytes can be sent; a context manager."""

    def __init__(
        self,
        port: int,
        *,
        limit_s: float = 15.0,
        source: str = LOOPBACK,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect.

        Args:
            limit_s: Longest wait for anything.
            source: The own address; all of 127.0.0.0/8 is this machine.
            tls: For a listener that speaks TLS.
        """
        self.socket = socket.create_connection(
            (LOOPBACK, port), timeout=limit_s, source_address=(source, 0)
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            try:
                self.socket = tls.wrap_socket(self.socket)
            except OSError:
                self.socket.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, encoded: bytes) -> None:
        self.socket.sendall(encoded)

    def associate(
        self,
        contexts: Sequence[tuple[str, str]] = ((CT, ExplicitVRLittleEndian),),
        *,
        called: str = "IMAGING_NODE",
        calling: str = "RAW",
        more: Sequence[object] = (),
    ) -> bytes:
        """Request an association; the answering PDU."""
        self.send(association_request(contexts, called=called, calling=calling, more=more))
        return self.pdu()

    def pdu(self) -> bytes:
        """The next whole PDU; b"" when the connection is closed."""
        header = self._exactly(6)
        return header + self._exactly(struct.unpack(">I", header[2:])[0]) if header else b""

    def status(self) -> int:
        """Status of the next response."""
        response = self.pdu()
        assert response[:1] == b"\x04", response[:12]
        return words.decode_command(response[12:]).number(words.STATUS)

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                came = self.socket.recv(size - len(parts))
            except ConnectionResetError:
                return b""
            if not came:
                return b""
            parts += came
        return bytes(parts)


def association_request(
    contexts: Sequence[tuple[str, str]],
    *,
    called: str = "IMAGING_NODE",
    calling: str = "RAW",
    more: Sequence[object] = (),
) -> bytes:
    """An A-ASSOCIATE-RQ whose presentation contexts have the identifiers 1, 3, 5 ..."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    definitions = []
    for number, (abstract_syntax, transfer_syntax) in enumerate(contexts):
        context = build_context(abstract_syntax, transfer_syntax)
        context.context_id = 2 * number + 1
        definitions.append(context)
    primitive.presentation_context_definition_list = definitions
    length = MaximumLengthNotification()
    length.maximum_length_received = 16382
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [length, implementation, *more]  # type: ignore[list-item]  # pynetdicom's union is private
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    encoded: bytes = request.encode()
    return encoded


def value(fragment: bytes, *, is_command: bool, is_last: bool = True, context_id: int = 1) -> bytes:
    """One presentation data value, PS3.8 9.3.5.1."""
    control = is_command | is_last << 1
    return struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment


def data_pdu(*values: bytes) -> bytes:
    """A P-DATA-TF PDU of these values."""
    body = b"".join(values)
    return struct.pack(">BxI", 4, len(body)) + body


def store_command(
    sop_instance_uid: str = "1.2.3.4",
    *,
    sop_class_uid: str = CT,
    message_id: int = 1,
    has_dataset: bool = True,
) -> bytes:
    """A C-STORE-RQ command set."""
    return encode_command(
        {words.COMMAND_FIELD: Command.C_STORE, words.MESSAGE_ID: message_id, words.PRIORITY: 0},
        {
            words.AFFECTED_SOP_CLASS_UID: sop_class_uid,
            words.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        },
        has_dataset=has_dataset,
    )


def echo_command(message_id: int = 1) -> bytes:
    """A C-ECHO-RQ command set."""
    return encode_command(
        {words.COMMAND_FIELD: Command.C_ECHO, words.MESSAGE_ID: message_id},
        {words.AFFECTED_SOP_CLASS_UID: VERIFICATION},
    )
