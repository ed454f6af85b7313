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
from imaging_node.store.arrival_rows import (
    INSTANCE_INSERT,
    find_instances,
    find_studies,
    write_arrivals,
)
from imaging_node.store.checksums import is_intact
from imaging_node.store.prepared import BoundRow, PreparedQuery
from imaging_node.store.quarantine import add_to_quarantine
from imaging_node.store.schema import instances
from imaging_node.store.transitions import record_transitions
from imaging_node.store.wholeness import require_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

# A study that goes on is due so much later than it could be: its row need not be written anew
# for each of many instances in quick succession.
_LONGEST_DELAY = timedelta(milliseconds=50)
# Reliability policy: the same UID for another study or patient.
STATUS_IDENTITY_CONFLICT = 0xC010


_OF_STUDY = PreparedQuery(
    sa.select(instances.c.path, instances.c.digest, instances.c.header)
    .where(
        instances.c.study_instance_uid
        == sa.bindparam("study", type_=instances.c.study_instance_uid.type)
    )
    .order_by(instances.c.id)
)


class Arrival(StrEnum):
    """What an accepted instance was to the node."""

    NEW = "new"
    AGAIN = "again"
    CHANGED = "changed"
    SET_ASIDE = "set aside"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivingInstance:
    """One instance whose bytes are durable already.

    Attributes:
        image: What its header says; `digest` names the durable file in the spool, and `path` one
            of an archive.
        is_in_spool: False when `path` is a file of an archive that stays where it is.
        patient_digest: Digest of the patient's identity; "" when the header names no patient.
        accession_number, study_at: For listings, as received.
        ordered_priority: What the order or the sender asks for.
        is_archive: True for reprocessing, which waits behind all else.
        set_aside: Why it is kept without being scored; "" for what may be scored.
    """

    image: ImageInstance
    is_in_spool: bool
    patient_digest: str
    accession_number: str
    study_at: datetime | None
    ordered_priority: ReadingPriority
    calling_ae_title: str
    is_archive: bool
    set_aside: str = ""


class IdentityConflictError(RejectedInstanceError):
    """The instance is known in another study, or its study for another patient."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, status=STATUS_IDENTITY_CONFLICT)


@dataclass(frozen=True, slots=True)
class ReadyArrival:
    """An instance with the row that will be written if it is new."""

    arriving: ArrivingInstance
    row: BoundRow


def make_ready(arriving: ArrivingInstance, *, now: datetime) -> ReadyArrival:
    """Do for one instance what others need not wait for."""
    return ReadyArrival(arriving, INSTANCE_INSERT.bind(_instance_row(arriving, now)))


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
    ready = make_ready(arriving, now=now)
    [outcome] = note_arrivals(database, [ready], now=now, quiet_period=quiet_period)
    if isinstance(outcome, ImagingNodeError):
        raise outcome
    return outcome


def note_arrivals(
    database: Database,
    ready: Sequence[ReadyArrival],
    *,
    now: datetime,
    quiet_period: timedelta,
) -> Sequence[Outcome]:
    """Durably note instances in one transaction; one outcome for each, in their order.

    Raises:
        StorageError: None of them was noted.
    """
    due_at = now + quiet_period
    with database.write() as connection:
        noting = _Noting(
            connection,
            ready,
            now=now,
            due_at=due_at,
            prolonged_due_at=due_at + min(quiet_period / 50, _LONGEST_DELAY),
        )
        outcomes = [noting.note(each) for each in ready]
        noting.write()
    return outcomes


def read_study(database: Database, spool: Spool, study_instance_uid: str) -> Study:
    """All instances of a study; of an instance received with several contents, the last.

    Raises:
        IntegrityError: A row of the study is damaged or missing: it is not the whole study.
    """
    with database.read() as connection:
        require_whole(connection, instances, study_instance_uid)
        rows = _OF_STUDY.rows(connection, study=study_instance_uid)
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
    """A study as it will stand.

    Attributes:
        is_new: It has no row yet.
        is_ended: It was claimed or had ended: what comes now makes a new generation.
    """

    values: dict[str, Any]
    is_new: bool
    is_changed: bool = False
    is_ended: bool = False


class _Noting:
    """One transaction over many instances: read once, decided in memory, written once."""

    def __init__(
        self,
        connection: Connection,
        ready: Sequence[ReadyArrival],
        *,
        now: datetime,
        due_at: datetime,
        prolonged_due_at: datetime,
    ) -> None:
        self._connection = connection
        self._now = now
        self._due_at = due_at
        self._prolonged_due_at = prolonged_due_at
        self._rows: dict[tuple[str, str, str], BoundRow] = {}
        self._returning: list[int] = []
        self._moved: list[tuple[str, str]] = []
        self._known: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._ids: dict[tuple[str, str, str], int] = {}
        for row_id, *key in find_instances(
            connection, {each.arriving.image.sop_instance_uid for each in ready}
        ):
            study_instance_uid, sop_instance_uid, digest = key
            self._known[sop_instance_uid].append((study_instance_uid, digest))
            self._ids[study_instance_uid, sop_instance_uid, digest] = row_id
        found, self._damaged = find_studies(
            connection, {each.arriving.image.study_instance_uid for each in ready}
        )
        self._studies = {uid: _StudyUnderWay(values, is_new=False) for uid, values in found.items()}

    def note(self, ready: ReadyArrival) -> Outcome:
        """Decide what one instance is to the node, those before it included."""
        arriving = ready.arriving
        image = arriving.image
        if image.study_instance_uid in self._damaged:
            return StorageError(
                "row damaged: what is noted of the instance's study is not what was written;"
                " restore the database from a backup"
            )
        if arriving.set_aside:
            add_to_quarantine(self._connection, arriving, reason=arriving.set_aside, now=self._now)
            return Arrival.SET_ASIDE
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
        # The same within one transaction: its row goes behind those that came between.
        self._rows.pop(key, None)
        self._rows[key] = ready.row
        return arrival

    def write(self) -> None:
        """Bring the database to what was decided."""
        changed = [
            {f"new_{name}": value for name, value in each.values.items()}
            | {"is_ended": each.is_ended}
            for each in self._studies.values()
            if each.is_changed and not each.is_new
        ]
        write_arrivals(
            self._connection,
            returning=self._returning,
            new_studies=[each.values for each in self._studies.values() if each.is_new],
            prolonged=[each for each in changed if not each["is_ended"]],
            reopened=[each for each in changed if each["is_ended"]],
            instance_rows=list(self._rows.values()),
        )
        record_transitions(
            self._connection, self._moved, StudyState.RECEIVING, by="receive", now=self._now
        )

    def _reopen(self, study: _StudyUnderWay, arriving: ArrivingInstance) -> None:
        values = study.values
        ordered = most_urgent(
            [ReadingPriority(values["ordered_priority"]), arriving.ordered_priority]
        )
        raised = most_urgent([ReadingPriority(values["priority"]), ordered])
        now_known = {
            "ordered_priority": ordered,
            "priority": raised,
            "is_archive": values["is_archive"] and arriving.is_archive,
            "patient_digest": values["patient_digest"] or arriving.patient_digest,
            "accession_number": values["accession_number"] or arriving.accession_number,
            "study_at": values["study_at"] or arriving.study_at,
        }
        if (
            values["state"] == StudyState.RECEIVING
            # Later than that only when the clock was set back.
            and self._due_at <= values["due_at"] <= self._prolonged_due_at
            and all(values[name] == value for name, value in now_known.items())
        ):
            return  # its row says all of that
        study.is_changed = True
        values |= now_known | {"due_at": self._prolonged_due_at, "urgency": raised.urgency}
        if values["state"] in (StudyState.RECEIVING, StudyState.QUEUED):
            return
        study.is_ended = True
        values |= {"state": StudyState.RECEIVING, "generation": values["generation"] + 1}
        self._moved.append(
            (values["study_instance_uid"], "instance arrived after the study was claimed")
        )


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
