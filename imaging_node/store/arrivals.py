"""Instances as they arrive, and the study that each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import ReadingPriority, most_urgent
from imaging_node.domain.study import ImageInstance, Study
from imaging_node.store.checksums import is_intact, require_whole
from imaging_node.store.schema import instances, studies
from imaging_node.store.transitions import record_transition

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

# Reliability policy: the same UID for another study or patient.
STATUS_IDENTITY_CONFLICT = 0xC010


class Arrival(StrEnum):
    """What an accepted instance was to the node."""

    NEW = "new"
    AGAIN = "again"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivingInstance:
    """One instance whose bytes are durable already.

    Attributes:
        image: What its header says; `path` and `digest` name the durable file.
        is_in_spool: False when `path` is a file of an archive that stays where it is.
        patient_digest: Digest of the patient's identity; "" when the header names no patient.
        accession_number, study_at: For listings, as received.
        ordered_priority: What the order or the sender asks for.
        is_archive: True for reprocessing, which waits behind all else.
    """

    image: ImageInstance
    is_in_spool: bool
    patient_digest: str
    accession_number: str
    study_at: datetime | None
    ordered_priority: ReadingPriority
    calling_ae_title: str
    is_archive: bool


def note_arrival(
    database: Database, arriving: ArrivingInstance, *, now: datetime, quiet_period: timedelta
) -> Arrival:
    """Durably note one instance and restart its study's quiet period.

    Safe to repeat: the same bytes again change nothing.

    Raises:
        RejectedInstanceError: 0xC010, the study or instance belongs to another patient or study.
        StorageError: Nothing was noted.
    """
    image = arriving.image
    with database.write() as connection:
        known = connection.execute(
            sa.select(instances.c.id, instances.c.study_instance_uid, instances.c.digest)
            .where(instances.c.sop_instance_uid == image.sop_instance_uid)
            .order_by(instances.c.id)
        ).all()
        if any(row.study_instance_uid != image.study_instance_uid for row in known):
            raise RejectedInstanceError(
                "the instance is known in another study; correct its UIDs",
                status=STATUS_IDENTITY_CONFLICT,
            )
        study = connection.execute(
            sa.select(studies).where(studies.c.study_instance_uid == image.study_instance_uid)
        ).one_or_none()
        if study is None:
            _add_study(connection, arriving, now=now, due_at=now + quiet_period)
        else:
            _require_same_patient(study.patient_digest, arriving.patient_digest)
            if known and known[-1].digest == image.digest:
                return Arrival.AGAIN
            # Content that was received before and comes back is the last word again.
            connection.execute(
                sa.delete(instances).where(
                    instances.c.id.in_([row.id for row in known if row.digest == image.digest])
                )
            )
            _reopen_study(connection, study, arriving, now=now, due_at=now + quiet_period)
        connection.execute(instances.insert().values(**_instance_row(arriving, now)))
    return Arrival.CHANGED if known else Arrival.NEW


def read_study(database: Database, spool: Spool, study_instance_uid: str) -> Study:
    """All instances of a study; of an instance received with several contents, the last.

    Raises:
        IntegrityError: A row of the study is damaged or missing: it is not the whole study.
    """
    with database.read() as connection:
        require_whole(connection, instances, study_instance_uid)
        rows = connection.execute(
            sa.select(instances.c.path, instances.c.digest, instances.c.header)
            .where(instances.c.study_instance_uid == study_instance_uid)
            .order_by(instances.c.id)
        ).all()
    images = [
        ImageInstance(
            **{**row.header, "path": Path(row.path) if row.path else spool.path(row.digest)}
        )
        for row in rows
    ]
    latest = {image.sop_instance_uid: image for image in images}
    return Study(study_instance_uid=study_instance_uid, instances=tuple(latest.values()))


def known_paths(database: Database) -> set[str]:
    """Archive files noted so far: what a resumed run need not read again."""
    with database.read() as connection:
        return set(
            connection.scalars(
                sa.select(instances.c.path).where(instances.c.path != "", is_intact(instances))
            )
        )


def _require_same_patient(noted: str, arriving: str) -> None:
    if noted and arriving and noted != arriving:
        raise RejectedInstanceError(
            "the study is known for another patient; correct its Patient ID or its UIDs",
            status=STATUS_IDENTITY_CONFLICT,
        )


def _add_study(
    connection: Connection, arriving: ArrivingInstance, *, now: datetime, due_at: datetime
) -> None:
    image = arriving.image
    connection.execute(
        studies.insert().values(
            study_instance_uid=image.study_instance_uid,
            patient_digest=arriving.patient_digest,
            accession_number=arriving.accession_number,
            study_at=arriving.study_at,
            state=StudyState.RECEIVING,
            ordered_priority=arriving.ordered_priority,
            priority=arriving.ordered_priority,
            urgency=arriving.ordered_priority.urgency,
            is_archive=arriving.is_archive,
            due_at=due_at,
            received_at=now,
        )
    )
    record_transition(
        connection, image.study_instance_uid, StudyState.RECEIVING, by="receive", now=now
    )


def _reopen_study(
    connection: Connection,
    study: sa.Row[Any],
    arriving: ArrivingInstance,
    *,
    now: datetime,
    due_at: datetime,
) -> None:
    ordered = most_urgent([ReadingPriority(study.ordered_priority), arriving.ordered_priority])
    raised = most_urgent([ReadingPriority(study.priority), ordered])
    values: dict[str, Any] = {
        "due_at": due_at,
        "attempts": 0,
        "ordered_priority": ordered,
        "priority": raised,
        "urgency": raised.urgency,
        "is_archive": study.is_archive and arriving.is_archive,
        "patient_digest": study.patient_digest or arriving.patient_digest,
        "accession_number": study.accession_number or arriving.accession_number,
        "study_at": study.study_at or arriving.study_at,
    }
    if study.state not in (StudyState.RECEIVING, StudyState.QUEUED):
        values |= {
            "state": StudyState.RECEIVING,
            "reason": "",
            "generation": study.generation + 1,
            "claim_token": "",
            "claimed_by": "",
            "finished_at": None,
            # What an earlier answer said stands in its report; here it would read as current.
            "findings": [],
            "remarks": [],
        }
        record_transition(
            connection,
            study.study_instance_uid,
            StudyState.RECEIVING,
            by="receive",
            now=now,
            reason="instance arrived after the study was claimed",
        )
    connection.execute(
        studies.update()
        .where(studies.c.study_instance_uid == study.study_instance_uid)
        .values(**values)
    )


def _instance_row(arriving: ArrivingInstance, now: datetime) -> dict[str, Any]:
    image = arriving.image
    header = {name: getattr(image, name) for name in ImageInstance.__dataclass_fields__}
    return {
        "study_instance_uid": image.study_instance_uid,
        "series_instance_uid": image.series_instance_uid,
        "sop_instance_uid": image.sop_instance_uid,
        "sop_class_uid": image.sop_class_uid,
        "transfer_syntax_uid": image.transfer_syntax_uid,
        "digest": image.digest,
        # A spooled file is found by its digest, so that the state directory can move.
        "path": "" if arriving.is_in_spool else str(image.path),
        "header": header | {"path": ""},
        "calling_ae_title": arriving.calling_ae_title,
        "received_at": now,
    }
