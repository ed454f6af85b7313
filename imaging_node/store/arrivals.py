"""Instances as they arrive, and the study that each belongs to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imaging_node.domain.errors import ImagingNodeError, RejectedInstanceError, StorageError
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import ReadingPriority, most_urgent
from imaging_node.domain.study import ImageInstance, Study
from imaging_node.store.checksums import damaged_row_ids, is_intact, require_whole, row_id
from imaging_node.store.quarantine import add_to_quarantine
from imaging_node.store.schema import instances, studies
from imaging_node.store.transitions import record_transitions

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class IdentityConflictError(RejectedInstanceError):
    """The instance is known in another study, or its study for another patient."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, status=STATUS_IDENTITY_CONFLICT)


Outcome = Arrival | IdentityConflictError | StorageError
"""What an instance was to the node, or why it was not taken."""


def note_arrival(
    database: Database, arriving: ArrivingInstance, *, now: datetime, quiet_period: timedelta
) -> Arrival:
    """Durably note one instance and restart its study's quiet period.

    Safe to repeat: the same bytes again change nothing.

    Raises:
        IdentityConflictError: It is quarantined: kept and shown, never scored.
        StorageError: Nothing was noted.
    """
    [outcome] = note_arrivals(database, [arriving], now=now, quiet_period=quiet_period)
    if isinstance(outcome, ImagingNodeError):
        raise outcome
    return outcome


def note_arrivals(
    database: Database,
    arriving: Sequence[ArrivingInstance],
    *,
    now: datetime,
    quiet_period: timedelta,
) -> Sequence[Outcome]:
    """Durably note instances in one transaction; one outcome for each, in their order.

    Raises:
        StorageError: None of them was noted.
    """
    with database.write() as connection:
        noting = _Noting(connection, arriving, now=now, due_at=now + quiet_period)
        outcomes = [noting.note(each) for each in arriving]
        noting.write()
    return outcomes


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


@dataclass(slots=True)
class _StudyUnderWay:
    """A study as it will stand, and whether it has a row yet."""

    values: dict[str, Any]
    is_new: bool
    is_changed: bool = False


class _Noting:
    """One transaction over many instances: read once, decided in memory, written once."""

    def __init__(
        self,
        connection: Connection,
        arriving: Sequence[ArrivingInstance],
        *,
        now: datetime,
        due_at: datetime,
    ) -> None:
        self._connection = connection
        self._now = now
        self._due_at = due_at
        self._rows: list[dict[str, Any]] = []
        self._returning: list[int] = []
        self._moved: list[tuple[str, str]] = []
        self._known: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._ids: dict[tuple[str, str, str], int] = {}
        for row in connection.execute(
            sa.select(
                instances.c.id,
                instances.c.study_instance_uid,
                instances.c.sop_instance_uid,
                instances.c.digest,
            )
            .where(
                instances.c.sop_instance_uid.in_({each.image.sop_instance_uid for each in arriving})
            )
            .order_by(instances.c.id)
        ):
            self._known[row.sop_instance_uid].append((row.study_instance_uid, row.digest))
            self._ids[row.study_instance_uid, row.sop_instance_uid, row.digest] = row.id
        # A damaged row is no ground to decide on, and no change may give it a right checksum.
        self._damaged = _damaged_studies(connection, arriving)
        self._studies = {
            row.study_instance_uid: _StudyUnderWay(dict(row._mapping), is_new=False)  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping
            for row in connection.execute(
                sa.select(studies).where(
                    studies.c.study_instance_uid.in_(
                        {each.image.study_instance_uid for each in arriving} - self._damaged
                    )
                )
            )
        }

    def note(self, arriving: ArrivingInstance) -> Outcome:
        """Decide what one instance is to the node, those before it included."""
        image = arriving.image
        if image.study_instance_uid in self._damaged:
            return StorageError(
                "row damaged: what is noted of the instance's study is not what was written;"
                " restore the database from a backup"
            )
        known = self._known[image.sop_instance_uid]
        study = self._studies.get(image.study_instance_uid)
        conflict = _conflict(image, known, arriving, study)
        if conflict is not None:
            add_to_quarantine(self._connection, arriving, reason=str(conflict), now=self._now)
            return conflict
        if known and known[-1][1] == image.digest:
            return Arrival.AGAIN
        arrival = Arrival.CHANGED if known else Arrival.NEW
        if study is None:
            self._studies[image.study_instance_uid] = _StudyUnderWay(
                _new_study(arriving, now=self._now, due_at=self._due_at), is_new=True
            )
            self._moved.append((image.study_instance_uid, ""))
        else:
            self._reopen(study, arriving)
        key = (image.study_instance_uid, image.sop_instance_uid, image.digest)
        if key in self._ids:
            # Content that was received before and comes back is the last word again.
            self._returning.append(self._ids.pop(key))
        known.append((image.study_instance_uid, image.digest))
        self._rows.append(_instance_row(arriving, self._now))
        return arrival

    def write(self) -> None:
        """Bring the database to what was decided."""
        connection = self._connection
        if self._returning:
            connection.execute(sa.delete(instances).where(instances.c.id.in_(self._returning)))
        new = [each.values for each in self._studies.values() if each.is_new]
        if new:
            connection.execute(studies.insert(), new)
        changed = [
            {f"new_{name}": each.values[name] for name in ("study_instance_uid", *_REOPENED)}
            for each in self._studies.values()
            if each.is_changed and not each.is_new
        ]
        if changed:
            connection.execute(_UPDATE_STUDY, changed)
        if self._rows:
            connection.execute(instances.insert(), self._rows)
        record_transitions(
            connection, self._moved, StudyState.RECEIVING, by="receive", now=self._now
        )

    def _reopen(self, study: _StudyUnderWay, arriving: ArrivingInstance) -> None:
        values = study.values
        ordered = most_urgent(
            [ReadingPriority(values["ordered_priority"]), arriving.ordered_priority]
        )
        raised = most_urgent([ReadingPriority(values["priority"]), ordered])
        study.is_changed = True
        values |= {
            "due_at": self._due_at,
            "attempts": 0,
            "ordered_priority": ordered,
            "priority": raised,
            "urgency": raised.urgency,
            "is_archive": values["is_archive"] and arriving.is_archive,
            "patient_digest": values["patient_digest"] or arriving.patient_digest,
            "accession_number": values["accession_number"] or arriving.accession_number,
            "study_at": values["study_at"] or arriving.study_at,
        }
        if values["state"] in (StudyState.RECEIVING, StudyState.QUEUED):
            return
        values |= {
            "state": StudyState.RECEIVING,
            "reason": "",
            "generation": values["generation"] + 1,
            "claim_token": "",
            "claimed_by": "",
            "finished_at": None,
            # What an earlier answer said stands in its report; here it would read as current.
            "findings": [],
            "remarks": [],
        }
        self._moved.append(
            (values["study_instance_uid"], "instance arrived after the study was claimed")
        )


_REOPENED = (
    "due_at", "attempts", "ordered_priority", "priority", "urgency", "is_archive",
    "patient_digest", "accession_number", "study_at", "state", "reason", "generation",
    "claim_token", "claimed_by", "finished_at", "findings", "remarks",
)  # fmt: skip
_UPDATE_STUDY = (
    studies.update()
    .where(studies.c.study_instance_uid == sa.bindparam("new_study_instance_uid"))
    .values({name: sa.bindparam(f"new_{name}", type_=studies.c[name].type) for name in _REOPENED})
)


def _damaged_studies(connection: Connection, arriving: Sequence[ArrivingInstance]) -> set[str]:
    """Studies among these whose rows are not what was written, or are not found any more."""
    uids = {each.image.study_instance_uid for each in arriving}
    row_ids = damaged_row_ids(connection, studies, studies.c.study_instance_uid.in_(uids))
    orphaned = (
        sa.select(instances.c.study_instance_uid)
        .where(
            instances.c.study_instance_uid.in_(uids),
            instances.c.study_instance_uid.not_in(sa.select(studies.c.study_instance_uid)),
        )
        .distinct()
    )
    damaged = set(connection.scalars(orphaned))
    if row_ids:
        damaged |= set(
            connection.scalars(
                sa.select(studies.c.study_instance_uid).where(row_id(studies).in_(row_ids))
            )
        )
    return damaged


def _conflict(
    image: ImageInstance,
    known: Sequence[tuple[str, str]],
    arriving: ArrivingInstance,
    study: _StudyUnderWay | None,
) -> IdentityConflictError | None:
    if any(study_instance_uid != image.study_instance_uid for study_instance_uid, _ in known):
        return IdentityConflictError("the instance is known in another study; correct its UIDs")
    if study is None:
        return None
    noted = study.values["patient_digest"]
    if noted and arriving.patient_digest and noted != arriving.patient_digest:
        return IdentityConflictError(
            "the study is known for another patient; correct its Patient ID or its UIDs"
        )
    return None


def _new_study(arriving: ArrivingInstance, *, now: datetime, due_at: datetime) -> dict[str, Any]:
    return {
        "study_instance_uid": arriving.image.study_instance_uid,
        "patient_digest": arriving.patient_digest,
        "accession_number": arriving.accession_number,
        "study_at": arriving.study_at,
        "state": StudyState.RECEIVING,
        "reason": "",
        "generation": 1,
        "ordered_priority": arriving.ordered_priority,
        "priority": arriving.ordered_priority,
        "priority_reason": "as ordered",
        "urgency": arriving.ordered_priority.urgency,
        "is_archive": arriving.is_archive,
        "attempts": 0,
        "due_at": due_at,
        "claim_token": "",
        "claimed_by": "",
        "received_at": now,
        "finished_at": None,
        "findings": [],
        "remarks": [],
    }


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
