"""Storage commitment as a peer meets it on the wire: what is agreed on, and each status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC

from imaging_node.dicom import command_set as words
from imaging_node.dicom.command_set import Command, encode_command
from imaging_node.dicom.commitment import (
    COMMITMENT_PUSH_MODEL,
    COMMITMENT_PUSH_MODEL_INSTANCE,
    CommitmentReport,
    CommitmentRequest,
    encode_commitment_report,
    encode_commitment_request,
)
from tests.dicom.listening import CT, RawPeer, Seen, data_pdu, listening, value

if TYPE_CHECKING:
    from pathlib import Path

IMPLICIT, LITTLE, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
WANTED = ((CT, "2.25.1"), (CT, "2.25.2"))
REQUEST = CommitmentRequest(transaction_uid="2.25.99", calling_ae_title="RAW", references=WANTED)
REPORT = CommitmentReport(
    transaction_uid="2.25.98", calling_ae_title="RAW", committed=WANTED[:1], failed=()
)


def action(*, kind: int = 1, instance: str = COMMITMENT_PUSH_MODEL_INSTANCE) -> bytes:
    return encode_command(
        {words.COMMAND_FIELD: Command.N_ACTION, words.MESSAGE_ID: 7, words.ACTION_TYPE_ID: kind},
        {
            words.REQUESTED_SOP_CLASS_UID: COMMITMENT_PUSH_MODEL,
            words.REQUESTED_SOP_INSTANCE_UID: instance,
        },
        has_dataset=True,
    )


def event(*, kind: int = 1) -> bytes:
    return encode_command(
        {
            words.COMMAND_FIELD: Command.N_EVENT_REPORT,
            words.MESSAGE_ID: 7,
            words.EVENT_TYPE_ID: kind,
        },
        {
            words.AFFECTED_SOP_CLASS_UID: COMMITMENT_PUSH_MODEL,
            words.AFFECTED_SOP_INSTANCE_UID: COMMITMENT_PUSH_MODEL_INSTANCE,
        },
        has_dataset=True,
    )


def test_it_is_agreed_on_only_in_syntaxes_that_its_datasets_are_read_in(tmp_path: Path) -> None:
    answer = A_ASSOCIATE_AC()
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        answer.decode(
            peer.associate([(COMMITMENT_PUSH_MODEL, each) for each in (BIG, IMPLICIT, LITTLE)])
        )

    # PS3.8 table 9-18: 0 accepted, 4 transfer syntaxes not supported.
    assert [each.result for each in answer.presentation_context] == [4, 0, 0]


@pytest.mark.parametrize("syntax", [IMPLICIT, LITTLE])
def test_request_and_report_are_noted_as_they_were_sent(tmp_path: Path, syntax: str) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate([(COMMITMENT_PUSH_MODEL, syntax)])
        for command, dataset in (
            (action(), encode_commitment_request(REQUEST, syntax)),
            (event(), encode_commitment_report(REPORT, syntax)),
        ):
            peer.send(data_pdu(value(command, is_command=True), value(dataset, is_command=False)))
            assert peer.status() == 0x0000

    assert running.seen.requests == [REQUEST]
    assert running.seen.reports == [REPORT]


@pytest.mark.parametrize(
    ("command", "dataset", "status"),
    [
        (action(instance="1.2.3"), b"", 0x0112),
        (action(kind=2), b"", 0x0123),
        (event(kind=3), b"", 0x0113),
        (action(), b"damaged", 0x0115),
        (event(), b"damaged", 0x0115),
        (action(), encode_commitment_request(REQUEST, IMPLICIT)[:-50], 0x0115),
    ],
)
def test_what_is_no_request_or_report_has_its_status_and_nothing_is_noted(
    tmp_path: Path, command: bytes, dataset: bytes, status: int
) -> None:
    body = dataset or encode_commitment_request(REQUEST, IMPLICIT)
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate([(COMMITMENT_PUSH_MODEL, IMPLICIT)])
        peer.send(data_pdu(value(command, is_command=True), value(body, is_command=False)))
        assert peer.status() == status

    assert running.seen.requests == []
    assert running.seen.reports == []


def test_no_report_is_promised_once_an_fsync_has_failed(tmp_path: Path) -> None:
    body = encode_commitment_request(REQUEST, IMPLICIT)
    with listening(tmp_path, Seen(may_promise=False)) as running, RawPeer(running.port) as peer:
        peer.associate([(COMMITMENT_PUSH_MODEL, IMPLICIT)])
        peer.send(data_pdu(value(action(), is_command=True), value(body, is_command=False)))
        assert peer.status() == 0x0110


def test_it_is_no_operation_of_another_service(tmp_path: Path) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate([(CT, IMPLICIT)])
        body = encode_commitment_request(REQUEST, IMPLICIT)
        peer.send(data_pdu(value(action(), is_command=True), value(body, is_command=False)))
        assert peer.status() == 0x0211

    assert running.seen.requests == []
