"""Studies under way: one row, one clock, one owner at a time."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imaging_node.domain.errors import UnknownRecordError
from imaging_node.domain.finding import FindingScore
from imaging_node.domain.lifecycle import FINAL_STUDY_STATES, DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority, TriageDecision
from imaging_node.domain.result_object import ObjectKind, ReportReference, ResultObject
from imaging_node.store.checksums import is_intact, require_intact, require_whole, row_id
from imaging_node.store.damage import choose_intact, is_set_aside
from imaging_node.store.schema import deliveries, objects, results, series, studies
from imaging_node.store.transitions import record_transition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database

CLAIMABLE = (StudyState.RECEIVING, StudyState.QUEUED, StudyState.SCORING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to answer one generation of a study until the lease ends.

    Attributes:
        attempts: Claims of this generation so far, this one included.
        shown_priority, priority_reason: What the worklist shows so far: an earlier answer may
            have raised it.
    """

    study_instance_uid: str
    token: str
    generation: int
    attempts: int
    ordered_priority: ReadingPriority
    shown_priority: ReadingPriority
    priority_reason: str
    is_archive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a study ends, with everything that is recorded in the same transaction.

    Attributes:
        findings: Scores for the worklist, empty when none.
        objects: Result objects whose files are durable, with the digest that names each.
        answers: (model name, model digest, report) of every SR among the objects.
    """

    state: StudyState
    reason: str
    decision: TriageDecision
    findings: tuple[FindingScore, ...] = ()
    remarks: tuple[str, ...] = ()
    objects: tuple[tuple[ResultObject, str], ...] = ()
    answers: tuple[tuple[str, str, ResultObject], ...] = ()


def claim_study(
    database: Database, *, worker: str, now: datetime, lease: timedelta
) -> Claim | None:
    """Claim the most urgent study that is due: complete, to be retried, or left by the dead."""
    candidates = (
        sa.select(row_id(studies))
        .select_from(studies)
        .where(studies.c.state.in_(CLAIMABLE), studies.c.due_at <= now)
        .order_by(studies.c.is_archive, studies.c.urgency.desc(), studies.c.due_at)
        .limit(1)
    )
    token = secrets.token_hex(16)
    with database.read() as connection:
        if connection.scalar(candidates.where(sa.not_(is_set_aside(studies)))) is None:
            return None  # the usual answer of an idle node: no write lock for it
    with database.write() as connection:
        chosen = choose_intact(connection, studies, candidates, now=now)
        if not chosen:
            return None
        row = connection.execute(
            studies.update()
            .where(row_id(studies).in_(chosen))
            .values(
                state=StudyState.SCORING,
                claim_token=token,
                claimed_by=worker,
                attempts=studies.c.attempts + 1,
                due_at=now + lease,
            )
            .returning(studies)
        ).one()
        record_transition(
            connection, row.study_instance_uid, StudyState.SCORING, by=worker, now=now
        )
    return Claim(
        study_instance_uid=row.study_instance_uid,
        token=token,
        generation=row.generation,
        attempts=row.attempts,
        ordered_priority=ReadingPriority(row.ordered_priority),
        shown_priority=ReadingPriority(row.priority),
        priority_reason=row.priority_reason,
        is_archive=row.is_archive,
    )


def count_waiting(database: Database) -> int:
    """Studies without an ending."""
    with database.read() as connection:
        waiting = connection.scalar(
            sa.select(sa.func.count()).select_from(studies).where(studies.c.state.in_(CLAIMABLE))
        )
    return waiting or 0


def renew_claims(
    database: Database, tokens: Sequence[str], *, now: datetime, lease: timedelta
) -> None:
    """Prolong the leases of studies that are still being worked on."""
    with database.write() as connection:
        connection.execute(
            studies.update()
            .where(studies.c.claim_token.in_(tokens), studies.c.state == StudyState.SCORING)
            .values(due_at=now + lease)
        )


def release_claims(database: Database, is_dead: Callable[[str], bool], *, now: datetime) -> int:
    """Make the studies of dead workers due at once, instead of when their lease ends.

    Returns:
        How many claims were released.
    """
    with database.write() as connection:
        claimed = connection.execute(
            sa.select(studies.c.claim_token, studies.c.claimed_by).where(
                studies.c.state == StudyState.SCORING, studies.c.due_at > now, is_intact(studies)
            )
        ).all()
        dead = [row.claim_token for row in claimed if is_dead(row.claimed_by)]
        if dead:
            connection.execute(
                studies.update().where(studies.c.claim_token.in_(dead)).values(due_at=now)
            )
    return len(dead)


def retry_study_later(
    database: Database,
    claim: Claim,
    *,
    reason: str,
    now: datetime,
    due_at: datetime,
    attempts: int,
) -> None:
    """Give a claimed study back to the queue, due at `due_at`, with `attempts` held against it."""
    with database.write() as connection:
        changed = connection.execute(
            studies.update()
            .where(*_still_owned(claim))
            .values(
                state=StudyState.QUEUED,
                reason=reason,
                attempts=attempts,
                due_at=due_at,
                claim_token="",
                claimed_by="",
            )
        )
        if changed.rowcount:
            record_transition(
                connection,
                claim.study_instance_uid,
                StudyState.QUEUED,
                by="score",
                now=now,
                reason=reason,
            )


def finish_study(
    database: Database, claim: Claim, ending: Ending, *, destinations: Sequence[str], now: datetime
) -> bool:
    """Record the result, its objects and their deliveries in one transaction.

    Returns:
        False when the claim was lost meanwhile: the stale result is dropped.
    """
    with database.write() as connection:
        changed = connection.execute(
            studies.update()
            .where(*_still_owned(claim))
            .values(
                state=ending.state,
                reason=ending.reason,
                priority=ending.decision.priority,
                priority_reason=ending.decision.reason,
                urgency=ending.decision.priority.urgency,
                findings=[asdict(score) for score in ending.findings],
                remarks=list(ending.remarks),
                finished_at=now,
                claim_token="",
                claimed_by="",
            )
        )
        if not changed.rowcount:
            return False
        _record_objects(connection, claim, ending, destinations=destinations, now=now)
        record_transition(
            connection,
            claim.study_instance_uid,
            ending.state,
            by="score",
            now=now,
            reason=ending.reason,
        )
    return True


def retry_study(database: Database, study_instance_uid: str, *, now: datetime) -> None:
    """Queue an ended study again, as a new generation.

    Raises:
        UnknownRecordError: There is no such study, or it has not ended.
        IntegrityError: Its row is damaged.
    """
    with database.write() as connection:
        require_intact(connection, studies, studies.c.study_instance_uid == study_instance_uid)
        changed = connection.execute(
            studies.update()
            .where(
                studies.c.study_instance_uid == study_instance_uid,
                studies.c.state.in_(FINAL_STUDY_STATES),
            )
            .values(
                state=StudyState.QUEUED,
                reason="",
                generation=studies.c.generation + 1,
                attempts=0,
                due_at=now,
                finished_at=None,
                findings=[],
                remarks=[],
            )
        )
        if not changed.rowcount:
            raise UnknownRecordError(
                "cannot retry: no study with this UID has ended; see `imaging-node studies`"
            )
        record_transition(connection, study_instance_uid, StudyState.QUEUED, by="operator", now=now)


def has_object(database: Database, sop_instance_uid: str) -> bool:
    """Whether a result object of this node has that UID."""
    with database.read() as connection:
        found = connection.scalar(
            sa.select(objects.c.sop_instance_uid).where(
                objects.c.sop_instance_uid == sop_instance_uid
            )
        )
    return found is not None


def previous_answers(
    database: Database, study_instance_uid: str, model: str
) -> tuple[ReportReference, ...]:
    """The SRs that a model gave for this study before, oldest first.

    Raises:
        IntegrityError: One of them may be unknown: a row is damaged or missing.
    """
    with database.read() as connection:
        require_whole(connection, results, study_instance_uid)
        rows = connection.execute(
            sa.select(results)
            .where(results.c.study_instance_uid == study_instance_uid, results.c.model == model)
            .order_by(results.c.id)
        ).all()
    return tuple(
        ReportReference(
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.report_series_instance_uid,
            sop_class_uid=row.report_sop_class_uid,
            sop_instance_uid=row.report_sop_instance_uid,
        )
        for row in rows
    )


def series_started_at(database: Database, series_instance_uid: str, *, now: datetime) -> datetime:
    """When a result series was begun: noted once, then the same for every later object.

    Raises:
        IntegrityError: The row that says so is damaged.
    """
    with database.write() as connection:
        require_intact(connection, series, series.c.series_instance_uid == series_instance_uid)
        noted: datetime | None = connection.scalar(
            sa.select(series.c.started_at).where(
                series.c.series_instance_uid == series_instance_uid
            )
        )
        if noted is None:
            connection.execute(
                series.insert().values(series_instance_uid=series_instance_uid, started_at=now)
            )
    return noted or now


def _still_owned(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        studies.c.study_instance_uid == claim.study_instance_uid,
        studies.c.claim_token == claim.token,
        studies.c.generation == claim.generation,
    )


def _record_objects(
    connection: Connection,
    claim: Claim,
    ending: Ending,
    *,
    destinations: Sequence[str],
    now: datetime,
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "sop_instance_uid": each.sop_instance_uid,
            "sop_class_uid": each.sop_class_uid,
            "series_instance_uid": each.series_instance_uid,
            "transfer_syntax_uid": each.transfer_syntax_uid,
            "study_instance_uid": claim.study_instance_uid,
            "generation": claim.generation,
            "kind": each.kind,
            "label": each.label,
            "digest": digest,
            "recorded_at": now,
        }
        for each, digest in ending.objects
    ]
    if not rows:
        return
    connection.execute(objects.insert(), rows)
    outbox = [
        {
            "sop_instance_uid": each.sop_instance_uid,
            "study_instance_uid": claim.study_instance_uid,
            "destination": destination,
            "state": DeliveryState.WAITING,
            "urgency": ending.decision.priority.urgency,
            "next_attempt_at": now,
        }
        # Captures first: an SR never points at a picture that is not there yet.
        for each in sorted(
            (each for each, _ in ending.objects), key=lambda each: each.kind != ObjectKind.CAPTURE
        )
        for destination in destinations
    ]
    if outbox:
        connection.execute(deliveries.insert(), outbox)
    for model, model_digest, report in ending.answers:
        connection.execute(
            results.insert().values(
                study_instance_uid=claim.study_instance_uid,
                generation=claim.generation,
                model=model,
                model_digest=model_digest,
                report_series_instance_uid=report.series_instance_uid,
                report_sop_class_uid=report.sop_class_uid,
                report_sop_instance_uid=report.sop_instance_uid,
                recorded_at=now,
            )
        )
