"""A delivery room whose outbox holds one small object."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from imaging_node.dicom.file_format import encode_part10
from imaging_node.dicom.sender import Caller
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import ReadingPriority, TriageDecision
from imaging_node.domain.retrying import BackOff
from imaging_node.flow.delivery import DeliveryRoom
from imaging_node.store.answers import Ending, finish_study
from imaging_node.store.database import open_database
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Counters, Pseudonyms
from tests.store.arriving import arriving, note
from tests.store.test_studies import DUE, claim, report

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flow.conftest import Clock

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
OBJECT_UID = report().sop_instance_uid


def outbox(folder: Path, clock: Clock) -> DeliveryRoom:
    """The object waits for the peer "pacs"; waits double from 2 to 16 s."""
    database = open_database(f"sqlite:///{folder / 'node.sqlite'}")
    spool = Spool(folder / "spool", min_free_bytes=0)
    note(database, arriving())
    owned = claim(database)
    assert owned is not None
    answer = report()
    finish_study(
        database,
        owned,
        Ending(
            state=StudyState.DONE,
            reason="",
            decision=TriageDecision(priority=ReadingPriority.ROUTINE, reason="as ordered"),
            objects=((answer, spool.write(small_report())),),
            answers=(("chest", "sha256:0", answer),),
        ),
        destinations=["pacs"],
        now=DUE,
    )
    return DeliveryRoom(
        database=database,
        spool=spool,
        pseudonyms=Pseudonyms(b"k" * 32),
        caller=Caller(ae_title="NODE", timeout_s=2),
        peers={},
        back_off=BackOff(first_s=2, longest_s=16),
        commitment_timeout=timedelta(hours=1),
        worker="w",
        counters=Counters(),
        clock=clock,
        is_stopping=lambda: False,
        record=lambda _: None,
    )


def small_report() -> bytes:
    """A Part 10 file of two elements; its SOP Instance UID is `OBJECT_UID`."""
    uid = OBJECT_UID.encode() + b"\0" * (len(OBJECT_UID) % 2)
    return encode_part10(
        b"\x08\x00\x16\x00UI\x1e\x00"
        + REPORT.encode()
        + b"\0\x08\x00\x18\x00UI"
        + len(uid).to_bytes(2, "little")
        + uid,
        sop_class_uid=REPORT,
        sop_instance_uid=OBJECT_UID,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
