"""What the node keeps of what it is sent, and what of it is scored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from imaging_node.dicom.file_format import split_part10
from imaging_node.dicom.identity import INSTANCE_CREATOR_UID
from imaging_node.dicom.intake_port import IncomingInstance
from imaging_node.domain.errors import RejectedInstanceError, StorageError
from imaging_node.flow.intake import IntakeRoom, accept_instance, open_room
from imaging_node.store.database import Database, open_database
from imaging_node.store.listings import list_studies
from imaging_node.store.quarantine import list_quarantined
from imaging_node.store.schema import objects, studies
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Pseudonyms
from tests.integration.films import film
from tests.store.arriving import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", min_free_bytes=0)


@pytest.fixture
def room(database: Database, spool: Spool) -> IntakeRoom:
    return open_room(
        database,
        spool,
        Pseudonyms(b"k" * 32),
        quiet_period=timedelta(0),
        priority_by_calling_ae_title={},
        is_archive=False,
        clock=lambda: datetime.now(UTC),
    )


def accept(room: IntakeRoom, payload: bytes) -> str:
    """Take a Part 10 file in; its SOP Instance UID."""
    header = dcmread(BytesIO(payload), stop_before_pixels=True)
    transfer_syntax_uid, dataset = split_part10(payload)
    accept_instance(
        IncomingInstance(
            sop_class_uid=str(header.SOPClassUID),
            sop_instance_uid=str(header.SOPInstanceUID),
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title="PACS",
            is_high_priority=False,
        ),
        dataset,
        room,
    )
    return str(header.SOPInstanceUID)


def test_a_file_of_an_archive_is_not_taken_under_the_watermark(
    database: Database, room: IntakeRoom, tmp_path: Path
) -> None:
    full = replace(room, spool=Spool(tmp_path / "full", min_free_bytes=1 << 60))

    with pytest.raises(StorageError, match="min_free_bytes"):
        accept(full, film())

    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]
    assert list_studies(database, now=NOON) == []


def made_by_this_product(dataset: Dataset) -> None:
    dataset.InstanceCreatorUID = INSTANCE_CREATOR_UID


def test_a_result_of_this_node_that_a_pacs_routes_back_is_neither_kept_nor_answered(
    database: Database, room: IntakeRoom
) -> None:
    payload = film(change=made_by_this_product)
    header = dcmread(BytesIO(payload), stop_before_pixels=True)
    with database.write() as connection:
        connection.execute(
            studies.insert().values(
                study_instance_uid="1.2", patient_digest="", accession_number="", state="done",
                ordered_priority="routine", priority="routine", due_at=NOON, received_at=NOON,
            )
        )  # fmt: skip
        connection.execute(
            objects.insert().values(
                sop_instance_uid=str(header.SOPInstanceUID), sop_class_uid="1", generation=1,
                series_instance_uid="1", transfer_syntax_uid="1", study_instance_uid="1.2",
                kind="capture", label="", digest="0", recorded_at=NOON,
            )
        )  # fmt: skip

    accept(room, payload)

    assert [each.study_instance_uid for each in list_studies(database, now=NOON)] == ["1.2"]
    assert list_quarantined(database) == []


def test_what_another_node_made_is_kept_and_shown_and_never_scored(
    database: Database, spool: Spool, room: IntakeRoom
) -> None:
    payload = film(change=made_by_this_product)

    uid = accept(room, payload)

    assert list_studies(database, now=NOON) == []
    [kept] = list_quarantined(database)
    assert kept.sop_instance_uid == uid
    assert "not scored" in kept.reason
    assert spool.read(kept.digest).endswith(payload[-1000:])


def test_an_instance_of_another_patient_is_kept_in_quarantine_and_told_to_the_sender(
    database: Database, spool: Spool, room: IntakeRoom
) -> None:
    first = film()
    study = str(dcmread(BytesIO(first), stop_before_pixels=True).StudyInstanceUID)

    def of_another_patient(dataset: Dataset) -> None:
        dataset.StudyInstanceUID = study
        dataset.PatientID = "SOMEBODY-ELSE"

    accept(room, first)
    payload = film(change=of_another_patient)
    with pytest.raises(RejectedInstanceError) as refused:
        accept(room, payload)

    assert refused.value.status == 0xC010
    [kept] = list_quarantined(database)
    assert spool.read(kept.digest).endswith(payload[-1000:])
    [record] = list_studies(database, now=NOON)
    assert record.instances == 1
