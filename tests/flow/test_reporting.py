"""Storage commitment asked of us: the report that a modality, made of pynetdicom, gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.dicom.commitment import CommitmentRequest
from imaging_node.dicom.file_format import encode_part10
from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.flow.commitment import note_commitment_request
from imaging_node.flow.reporting import report_due
from imaging_node.store.owed_reports import MOST_OWED, claim_owed, release_owed
from tests.dicom.storage_peer import ReportListener
from tests.flow.outbox import outbox
from tests.store.arriving import arriving, note
from tests.store.test_studies import DUE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.flow.delivery import DeliveryRoom
    from tests.flow.conftest import Clock

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def modality() -> Iterator[ReportListener]:
    with ReportListener() as listener:
        yield listener


@pytest.fixture
def asked(tmp_path: Path, clock: Clock, modality: ReportListener) -> Iterator[DeliveryRoom]:
    """A node that has an instance of a study, whose sender is a peer of it."""
    clock.now = DUE
    known = replace(outbox(tmp_path, clock), peers={"modality": modality.settings()})
    digest = known.spool.write(received())
    note(known.database, arriving("1.2.9", "1.2.9.1", digest=digest))
    yield known
    known.database.close()


def received() -> bytes:
    return encode_part10(
        b"\x08\x00\x18\x00UI\x08\x001.2.9.1\x00",
        sop_class_uid=DX,
        sop_instance_uid="1.2.9.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )


def request(*references: tuple[str, str], transaction: str = "2.25.5") -> CommitmentRequest:
    return CommitmentRequest(
        transaction_uid=transaction, calling_ae_title="MODALITY", references=references
    )


def outcome(information: Dataset) -> tuple[list[str], dict[str, int]]:
    committed = [
        str(each.ReferencedSOPInstanceUID) for each in information.get("ReferencedSOPSequence", [])
    ]
    failed = {
        str(each.ReferencedSOPInstanceUID): int(each.FailureReason)
        for each in information.get("FailedSOPSequence", [])
    }
    return committed, failed


def test_what_is_kept_is_reported_as_committed_once(
    asked: DeliveryRoom, modality: ReportListener
) -> None:
    note_commitment_request(request((DX, "1.2.9.1")), asked.commitment)

    assert report_due(asked.peers["modality"], asked) == 1
    assert report_due(asked.peers["modality"], asked) == 0
    [(event_type, information)] = modality.reports
    assert event_type == 1
    assert information.TransactionUID == "2.25.5"
    assert outcome(information) == (["1.2.9.1"], {})
    assert modality.roles == [True]


def test_what_is_not_kept_is_reported_with_its_reason(
    asked: DeliveryRoom, modality: ReportListener
) -> None:
    damaged = asked.spool.write(received() + b"x")
    note(asked.database, arriving("1.2.8", "1.2.8.1", digest=damaged))
    asked.spool.path(damaged).write_bytes(b"damaged")
    note(asked.database, arriving("1.2.7", "1.2.7.1", digest="f" * 64))
    note_commitment_request(
        request(
            (DX, "1.2.9.1"), (CT, "1.2.9.1"), (DX, "1.2.3.4"), (DX, "1.2.8.1"), (DX, "1.2.7.1")
        ),
        asked.commitment,
    )

    report_due(asked.peers["modality"], asked)

    [(event_type, information)] = modality.reports
    assert event_type == 2
    assert len(information.FailedSOPSequence) == 4
    assert outcome(information) == (
        ["1.2.9.1"],
        {"1.2.9.1": 0x0119, "1.2.3.4": 0x0112, "1.2.8.1": 0x0110, "1.2.7.1": 0x0110},
    )


def test_a_caller_that_is_no_peer_is_refused_and_owed_nothing(
    asked: DeliveryRoom, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = replace(request((DX, "1.2.9.1")), calling_ae_title="STRANGER")

    with pytest.raises(RejectedInstanceError) as refusal:
        note_commitment_request(stranger, asked.commitment)

    assert refusal.value.status == 0x0110
    assert "add one" in "".join(capsys.readouterr())


def test_a_report_is_sent_until_it_is_answered(
    asked: DeliveryRoom, modality: ReportListener, clock: Clock
) -> None:
    note_commitment_request(request((DX, "1.2.9.1")), asked.commitment)
    modality.status = 0x0213
    for wait_s in (2, 4, 8):
        assert report_due(asked.peers["modality"], asked) == 1
        assert report_due(asked.peers["modality"], asked) == 0
        clock.advance(wait_s)
    modality.status = 0x0000

    assert report_due(asked.peers["modality"], asked) == 1
    clock.advance(3600)
    assert report_due(asked.peers["modality"], asked) == 0
    assert len(modality.reports) == 4


def test_a_report_that_the_peer_refuses_is_not_repeated(
    asked: DeliveryRoom, modality: ReportListener, clock: Clock
) -> None:
    note_commitment_request(request((DX, "1.2.9.1")), asked.commitment)
    modality.status = 0x0112

    assert report_due(asked.peers["modality"], asked) == 1
    clock.advance(3600)
    assert report_due(asked.peers["modality"], asked) == 0


def test_the_same_request_again_is_owed_one_report_until_it_is_answered(
    asked: DeliveryRoom, modality: ReportListener
) -> None:
    for _ in range(2):
        note_commitment_request(request((DX, "1.2.9.1")), asked.commitment)
    assert report_due(asked.peers["modality"], asked) == 1
    assert report_due(asked.peers["modality"], asked) == 0

    # It asks again, so it did not get the answer.
    note_commitment_request(request((DX, "1.2.9.1")), asked.commitment)
    assert report_due(asked.peers["modality"], asked) == 1
    assert len(modality.reports) == 2


def test_a_peer_cannot_be_owed_reports_without_end(asked: DeliveryRoom) -> None:
    for number in range(MOST_OWED):
        note_commitment_request(
            request((DX, "1.2.9.1"), transaction=f"2.25.{number}"), asked.commitment
        )

    with pytest.raises(RejectedInstanceError) as refusal:
        note_commitment_request(request((DX, "1.2.9.1"), transaction="2.25.9999"), asked.commitment)
    assert refusal.value.status == 0x0213


def test_a_report_survives_the_worker_that_had_claimed_it(
    asked: DeliveryRoom, modality: ReportListener
) -> None:
    note_commitment_request(request((DX, "1.2.9.1")), asked.commitment)
    assert claim_owed(asked.database, "MODALITY", worker="dead", now=DUE, lease=timedelta(hours=1))
    assert report_due(asked.peers["modality"], asked) == 0

    assert release_owed(asked.database, lambda worker: worker == "dead", now=DUE) == 1
    assert report_due(asked.peers["modality"], asked) == 1
    assert len(modality.reports) == 1


def test_a_peer_that_is_down_gets_its_report_when_it_is_back(
    asked: DeliveryRoom, modality: ReportListener, clock: Clock
) -> None:
    note_commitment_request(request((DX, "1.2.9.1")), asked.commitment)
    modality.close()
    assert report_due(asked.peers["modality"], asked) == 1
    clock.advance(2)

    with ReportListener(port=modality.port) as back:
        assert report_due(asked.peers["modality"], asked) == 1
        assert [outcome(information) for _, information in back.reports] == [(["1.2.9.1"], {})]
