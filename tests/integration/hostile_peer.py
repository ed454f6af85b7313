"""A peer that puts names and identifiers wherever the protocol lets it put bytes."""

from __future__ import annotations

from dataclasses import dataclass

from imaging_node.dicom import command_set as words
from imaging_node.dicom.command_set import Command, decode_command, encode_command
from imaging_node.dicom.commitment import (
    COMMITMENT_PUSH_MODEL,
    COMMITMENT_PUSH_MODEL_INSTANCE,
    CommitmentReport,
    CommitmentRequest,
    encode_commitment_report,
    encode_commitment_request,
)
from tests.dicom.listening import CT, RawPeer, association_request, data_pdu, store_command, value

LITTLE = "1.2.840.10008.1.2.1"
_FRAGMENT_BYTES = 64 * 1024
_TITLE = "TITLE-OF-16-CHAR"


@dataclass(frozen=True, slots=True)
class Answered:
    """A response.

    Attributes:
        text: Everything in it but its numbers, as a peer's log would show it.
    """

    status: int
    text: bytes


def store_raw(
    port: int, dataset: bytes, *, sop_instance_uid: str, sop_class_uid: str = CT, calling: str
) -> Answered:
    """C-STORE of any bytes under any name."""
    with RawPeer(port) as peer:
        assert peer.associate([(CT, LITTLE)], calling=calling)[:1] == b"\x02"
        command = store_command(sop_instance_uid, sop_class_uid=sop_class_uid)
        peer.send(data_pdu(value(command, is_command=True)))
        for begin in range(0, len(dataset), _FRAGMENT_BYTES):
            fragment = dataset[begin : begin + _FRAGMENT_BYTES]
            is_last = begin + _FRAGMENT_BYTES >= len(dataset)
            peer.send(data_pdu(value(fragment, is_command=False, is_last=is_last)))
        return _answer(peer)


def ask_commitment(port: int, request: CommitmentRequest, *, cut: int = 0) -> Answered:
    """N-ACTION, its dataset cut short by so many bytes."""
    dataset = encode_commitment_request(request, LITTLE)
    command = encode_command(
        {words.COMMAND_FIELD: Command.N_ACTION, words.MESSAGE_ID: 1, words.ACTION_TYPE_ID: 1},
        {
            words.REQUESTED_SOP_CLASS_UID: COMMITMENT_PUSH_MODEL,
            words.REQUESTED_SOP_INSTANCE_UID: COMMITMENT_PUSH_MODEL_INSTANCE,
        },
        has_dataset=True,
    )
    return _normalised(port, command, dataset[: len(dataset) - cut], request.calling_ae_title)


def report_commitment(port: int, report: CommitmentReport) -> Answered:
    """N-EVENT-REPORT that nobody waits for."""
    command = encode_command(
        {
            words.COMMAND_FIELD: Command.N_EVENT_REPORT,
            words.MESSAGE_ID: 1,
            words.EVENT_TYPE_ID: report.event_type,
        },
        {
            words.AFFECTED_SOP_CLASS_UID: COMMITMENT_PUSH_MODEL,
            words.AFFECTED_SOP_INSTANCE_UID: COMMITMENT_PUSH_MODEL_INSTANCE,
        },
        has_dataset=True,
    )
    dataset = encode_commitment_report(report, LITTLE)
    return _normalised(port, command, dataset, report.calling_ae_title)


def associate_as(port: int, title: bytes, *, called: str) -> bytes:
    """The answer to a request whose calling AE title is any 16 bytes; then it hangs up."""
    request = association_request([(CT, LITTLE)], called=called, calling=_TITLE)
    assert len(title) == len(_TITLE)
    with RawPeer(port) as peer:
        peer.send(request.replace(_TITLE.encode(), title))
        return peer.pdu()


def _normalised(port: int, command: bytes, dataset: bytes, calling: str) -> Answered:
    with RawPeer(port) as peer:
        opened = peer.associate([(COMMITMENT_PUSH_MODEL, LITTLE)], calling=calling)
        assert opened[:1] == b"\x02"
        peer.send(data_pdu(value(command, is_command=True), value(dataset, is_command=False)))
        return _answer(peer)


def _answer(peer: RawPeer) -> Answered:
    response = peer.pdu()
    assert response[:1] == b"\x04"
    decoded = decode_command(response[12:])
    comment = decoded.elements.get(words.ERROR_COMMENT, b"")
    return Answered(decoded.number(words.STATUS), comment)
