"""What the node tells about its work: studies, deliveries, the ranked worklist, the roles."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imaging_node.domain.finding import FindingScore
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.records import (
    CaptureReference,
    DeliveryRecord,
    KeptInstance,
    StudyRecord,
    WorkCounts,
    WorklistRow,
)
from imaging_node.domain.result_object import ObjectKind
from imaging_node.store.checksums import damaged_row_ids, is_intact, row_id
from imaging_node.store.damage import is_set_aside
from imaging_node.store.damaged_records import (
    damaged_deliveries,
    damaged_studies,
    damaged_worklist_rows,
)
from imaging_node.store.schema import deliveries, instances, objects, quarantine, studies
from imaging_node.store.wholeness import require_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.store.database import Database
    from imaging_node.telemetry import Pseudonyms


_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A result object of a study's last answer, as kept in the spool."""

    kind: ObjectKind
    label: str
    sop_instance_uid: str
    digest: str


def list_studies(
    database: Database, *, now: datetime, study_instance_uid: str | None = None
) -> Sequence[StudyRecord]:
    """Studies in order of arrival; one or none when a UID is given."""
    wanted = (
        [] if study_instance_uid is None else [studies.c.study_instance_uid == study_instance_uid]
    )
    with database.read() as connection:
        damaged = damaged_row_ids(connection, studies, *wanted)
        rows = connection.execute(
            _studies_with_counts()
            .where(*wanted, row_id(studies).not_in(damaged))
            .order_by(studies.c.received_at)
        )
        return [
            *(_study_record(row, now) for row in rows),
            *damaged_studies(connection, damaged, now=now).values(),
        ]


def list_worklist(
    database: Database,
    pseudonyms: Pseudonyms,
    *,
    now: datetime,
    limit: int | None = None,
    finished_since: datetime | None = None,
    study_instance_uid: str | None = None,
    received_since: datetime | None = None,
) -> Sequence[WorklistRow]:
    """The most urgent studies, first to be read first; of equal urgency, the longest waiting.

    Args:
        finished_since: Only studies that have ended at or after that time.
        study_instance_uid: Only that study; its rank is the one among all of the worklist.
        received_since: Ended studies received before leave the worklist; ranks begin behind
            them.
    """
    order = (
        # Nobody knows how urgent a damaged row is.
        is_set_aside(studies).desc(),
        studies.c.urgency.desc(),
        studies.c.received_at,
        studies.c.study_instance_uid,
    )
    ranking = sa.select(
        row_id(studies).label("row_id"), sa.func.row_number().over(order_by=order).label("rank")
    ).select_from(studies)
    if received_since is not None:
        ranking = ranking.where(
            sa.or_(
                studies.c.finished_at.is_(None),
                studies.c.received_at >= received_since,
                is_set_aside(studies),
            )
        )
    ranks = ranking.subquery()
    query = (
        _studies_with_counts()
        .add_columns(ranks.c.rank)
        .select_from(studies)
        .join(ranks, ranks.c.row_id == row_id(studies))
        .order_by(ranks.c.rank)
        .limit(limit)
    )
    if finished_since is not None:
        query = query.where(sa.or_(studies.c.finished_at >= finished_since, is_set_aside(studies)))
    if study_instance_uid is not None:
        query = query.where(studies.c.study_instance_uid == study_instance_uid)
    with database.read() as connection:
        damaged = damaged_row_ids(
            connection, studies, row_id(studies).in_(query.with_only_columns(row_id(studies)))
        )
        rows = connection.execute(query.where(row_id(studies).not_in(damaged))).all()
        # A subquery, not a list: there may be more studies than a statement takes parameters.
        chosen = query.with_only_columns(studies.c.study_instance_uid)
        captures = _captures(connection, pseudonyms, chosen)
        counts = _delivery_counts(connection, chosen)
        unknown = damaged_worklist_rows(connection, pseudonyms, ranks, damaged, now=now)
    known = [
        WorklistRow(
            study=_study_record(row, now),
            token=pseudonyms.token(row.study_instance_uid),
            rank=row.rank,
            priority_reason=row.priority_reason,
            findings=tuple(stored_finding(each) for each in row.findings),
            remarks=tuple(row.remarks),
            captures=tuple(captures[row.study_instance_uid, row.generation]),
            deliveries=dict(counts[row.study_instance_uid]),
        )
        for row in rows
    ]
    return sorted([*known, *unknown], key=lambda row: row.rank)


def find_study(database: Database, pseudonyms: Pseudonyms, token: str) -> str | None:
    """Study Instance UID that a token stands for, None if there is none."""
    with database.read() as connection:
        # As text whatever the damage: a damaged study has its page as well.
        uids = connection.scalars(sa.select(sa.cast(studies.c.study_instance_uid, sa.String)))
        return next((uid for uid in uids if pseudonyms.token(uid) == token), None)


def list_deliveries(database: Database) -> Sequence[DeliveryRecord]:
    """All deliveries in order of creation."""
    with database.read() as connection:
        damaged = damaged_row_ids(connection, deliveries)
        damaged_objects = damaged_row_ids(connection, objects)
        query = (
            sa.select(deliveries, objects.c.sop_class_uid)
            .select_from(deliveries)
            .outerjoin(
                objects,
                sa.and_(
                    objects.c.sop_instance_uid == deliveries.c.sop_instance_uid,
                    row_id(objects).not_in(damaged_objects),
                ),
            )
            .where(deliveries.c.id.not_in(damaged))
        )
        known = [
            DeliveryRecord(
                id=row.id,
                study_instance_uid=row.study_instance_uid,
                sop_instance_uid=row.sop_instance_uid,
                sop_class_uid=row.sop_class_uid or "",
                destination=row.destination,
                state=DeliveryState(row.state),
                attempts=row.attempts,
                last_status=row.last_status,
                next_attempt_at=row.next_attempt_at,
            )
            for row in connection.execute(query)
        ]
        unknown = damaged_deliveries(connection, damaged)
    return sorted([*known, *unknown], key=lambda record: record.id)


def list_instances(database: Database, study_instance_uid: str) -> Sequence[KeptInstance]:
    """Every content of every instance that is kept of a study, in order of arrival.

    Raises:
        IntegrityError: A row of the study is damaged or missing.
    """
    with database.read() as connection:
        require_whole(connection, instances, study_instance_uid)
        rows = connection.execute(
            sa.select(instances)
            .where(instances.c.study_instance_uid == study_instance_uid)
            .order_by(instances.c.id)
        ).all()
    return [
        KeptInstance(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            digest=row.digest,
            received_at=row.received_at,
        )
        for row in rows
    ]


def list_objects(database: Database, study_instance_uid: str) -> Sequence[StoredObject]:
    """The result objects of a study's last generation, in the order they were built.

    Raises:
        IntegrityError: A row of them is damaged or missing.
    """
    query = (
        sa.select(objects)
        .join(
            studies,
            sa.and_(
                studies.c.study_instance_uid == objects.c.study_instance_uid,
                studies.c.generation == objects.c.generation,
            ),
        )
        .where(objects.c.study_instance_uid == study_instance_uid)
        .order_by(sa.literal_column("objects.rowid"))
    )
    with database.read() as connection:
        require_whole(connection, objects, study_instance_uid)
        return [
            StoredObject(
                kind=ObjectKind(row.kind),
                label=row.label,
                sop_instance_uid=row.sop_instance_uid,
                digest=row.digest,
            )
            for row in connection.execute(query)
        ]


def capture_digests(database: Database, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Digest of every capture's file by the token that names it in URLs.

    Rows are not verified: a damaged digest names no file, a damaged UID no token.
    """
    query = sa.select(objects.c.sop_instance_uid, objects.c.digest).where(
        objects.c.kind == ObjectKind.CAPTURE
    )
    with database.read() as connection:
        return {
            pseudonyms.token(row.sop_instance_uid): row.digest for row in connection.execute(query)
        }


def count_work(database: Database, *, now: datetime) -> WorkCounts:
    """Counts for metrics: small queries, whatever the backlog.

    Rows are counted, not verified; those found damaged before count as failed and parked.
    """
    shown = sa.case(
        (is_set_aside(studies), str(StudyState.FAILED)),
        (studies.c.state.not_in([str(each) for each in StudyState]), str(StudyState.FAILED)),
        (
            sa.and_(studies.c.state == StudyState.RECEIVING, studies.c.due_at <= now),
            str(StudyState.QUEUED),
        ),
        else_=studies.c.state,
    ).label("shown")
    with database.read() as connection:
        by_state = connection.execute(sa.select(shown, sa.func.count()).group_by(shown)).all()
        state = _shown_delivery_state()
        by_delivery = connection.execute(sa.select(state, sa.func.count()).group_by(state)).all()
        oldest_study: datetime | None = connection.scalar(
            sa.select(sa.func.min(studies.c.received_at)).where(
                studies.c.finished_at.is_(None), studies.c.received_at.between(_EPOCH, now)
            )
        )
        oldest_object: datetime | None = connection.scalar(
            sa.select(sa.func.min(objects.c.recorded_at))
            .join(deliveries, deliveries.c.sop_instance_uid == objects.c.sop_instance_uid)
            .where(
                deliveries.c.state.in_([DeliveryState.WAITING, DeliveryState.STORED]),
                objects.c.recorded_at.between(_EPOCH, now),
            )
        )
        quarantined = connection.scalar(sa.select(sa.func.count()).select_from(quarantine))
    return WorkCounts(
        studies={StudyState(state): count for state, count in by_state},
        deliveries={DeliveryState(state): count for state, count in by_delivery},
        oldest_waiting_s=_age_s(oldest_study, now),
        oldest_delivery_s=_age_s(oldest_object, now),
        quarantined_instances=quarantined or 0,
    )


def _studies_with_counts() -> sa.Select[Any]:
    count = (
        sa.select(sa.func.count(sa.distinct(instances.c.sop_instance_uid)))
        .where(instances.c.study_instance_uid == studies.c.study_instance_uid)
        .correlate(studies)
        .scalar_subquery()
    )
    return sa.select(studies, count.label("instance_count"))


def _study_record(row: sa.Row[Any], now: datetime) -> StudyRecord:
    state = StudyState(row.state)
    if state is StudyState.RECEIVING and row.due_at <= now:
        state = StudyState.QUEUED  # complete, and waiting for a worker
    return StudyRecord(
        study_instance_uid=row.study_instance_uid,
        accession_number=row.accession_number,
        state=state,
        reason=row.reason,
        generation=row.generation,
        priority=ReadingPriority(row.priority),
        received_at=row.received_at,
        finished_at=row.finished_at,
        instances=row.instance_count,
        study_at=row.study_at,
    )


def _age_s(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())


def _shown_delivery_state() -> sa.ColumnElement[str]:
    return sa.case(
        (is_set_aside(deliveries), str(DeliveryState.PARKED)),
        (
            deliveries.c.state.not_in([str(each) for each in DeliveryState]),
            str(DeliveryState.PARKED),
        ),
        else_=deliveries.c.state,
    ).label("shown")


def _delivery_counts(
    connection: sa.Connection, chosen: sa.Select[Any]
) -> dict[str, Counter[DeliveryState]]:
    counts: dict[str, Counter[DeliveryState]] = defaultdict(Counter)
    state = _shown_delivery_state()
    for row in connection.execute(
        sa.select(deliveries.c.study_instance_uid, state, sa.func.count().label("n"))
        .where(deliveries.c.study_instance_uid.in_(chosen))
        .group_by(deliveries.c.study_instance_uid, state)
    ):
        counts[row.study_instance_uid][DeliveryState(row.shown)] = row.n
    return counts


def _captures(
    connection: sa.Connection, pseudonyms: Pseudonyms, chosen: sa.Select[Any]
) -> dict[tuple[str, int], list[CaptureReference]]:
    captures: dict[tuple[str, int], list[CaptureReference]] = defaultdict(list)
    for row in connection.execute(
        sa.select(objects).where(
            objects.c.study_instance_uid.in_(chosen),
            objects.c.kind == ObjectKind.CAPTURE,
            is_intact(objects),
        )
    ):
        captures[row.study_instance_uid, row.generation].append(
            CaptureReference(token=pseudonyms.token(row.sop_instance_uid), label=row.label)
        )
    return captures


def stored_finding(stored: dict[str, Any]) -> FindingScore:
    """A finding as `asdict` and JSON kept it."""
    interval = stored["interval"]
    return FindingScore(**{**stored, "interval": tuple(interval) if interval else None})
