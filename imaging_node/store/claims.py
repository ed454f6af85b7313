"""Who works on which study: one row, one clock, one owner at a time."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from imaging_node.domain.errors import UnknownRecordError
from imaging_node.domain.lifecycle import FINAL_STUDY_STATES, StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.store.checksums import is_intact, require_intact, row_checksum, sealed_values
from imaging_node.store.damage import set_aside
from imaging_node.store.prepared import Prepared, PreparedQuery, driver
from imaging_node.store.schema import CLAIMABLE, Moment, studies
from imaging_node.store.transitions import record_transition, record_transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database

_MOMENT = Moment()
_WAITING = f"state IN ({', '.join(repr(str(each)) for each in CLAIMABLE)})"
_IS_SOUND = "rowid NOT IN (SELECT row_id FROM damaged_rows WHERE table_name = 'studies')"
_ANY_DUE = f"SELECT 1 FROM studies WHERE {_WAITING} AND due_at <= ? AND {_IS_SOUND}"  # noqa: S608 - words of our own
# The most urgent due study is the first of the first rank that has one: a look into the index for
# each rank, however many studies wait.
_RANKS = [
    (is_archive, each.urgency)
    for is_archive in (0, 1)
    for each in sorted(ReadingPriority, key=lambda each: -each.urgency)
]
_FIRST_OF_RANK = (
    f"SELECT rowid, attempts FROM studies INDEXED BY studies_by_rank WHERE {_WAITING}"  # noqa: S608 - same
    f" AND is_archive = ? AND urgency = ? AND due_at <= ? AND {_IS_SOUND} ORDER BY due_at LIMIT 1"
)
_SEALED = f"SELECT checksum, {sealed_values(studies, studies.name)} FROM studies WHERE rowid = ?"  # noqa: S608 - same
_ROW = sa.literal_column("studies.rowid", sa.Integer())
_TAKE = Prepared(
    studies.update()
    .where(sa.bindparam("row", type_=sa.Integer()) == _ROW)
    .values(
        state=StudyState.SCORING,
        claim_token=sa.bindparam("token", type_=sa.String()),
        claimed_by=sa.bindparam("worker", type_=sa.String()),
        attempts=studies.c.attempts + 1,
        due_at=sa.bindparam("until", type_=_MOMENT),
    )
)
_TAKEN = PreparedQuery(
    sa.select(
        studies.c.study_instance_uid,
        studies.c.generation,
        studies.c.attempts,
        studies.c.ordered_priority,
        studies.c.priority,
        studies.c.priority_reason,
        studies.c.is_archive,
        studies.c.received_at,
    ).where(sa.bindparam("row", type_=sa.Integer()) == _ROW)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to answer one generation of a study until the lease ends.

    Attributes:
        attempts: Claims of this generation so far, this one included.
        shown_priority, priority_reason: What the worklist shows so far: an earlier answer may
            have raised it.
        received_at: When the study's first instance came.
    """

    study_instance_uid: str
    token: str
    generation: int
    attempts: int
    ordered_priority: ReadingPriority
    shown_priority: ReadingPriority
    priority_reason: str
    is_archive: bool
    received_at: datetime


def claim_study(
    database: Database, *, worker: str, now: datetime, lease: timedelta
) -> Claim | None:
    """Claim the most urgent study that is due: complete, to be retried, or left by the dead."""
    claims = claim_studies(database, worker=worker, now=now, lease=lease, limit=1)
    return claims[0] if claims else None


def claim_studies(
    database: Database,
    *,
    worker: str,
    now: datetime,
    lease: timedelta,
    limit: int,
    least_urgency: int = 0,
    may_retry: bool = True,
) -> list[Claim]:
    """Claim up to `limit` studies in one transaction, the most urgent first.

    A study that was claimed before is claimed alone: when it ends its worker, no other is charged
    for that.

    Args:
        least_urgency: Above 0, only studies that are shown at least so urgent, of no archive.
        may_retry: Whether one that was claimed before may be; else nothing is, once it is the next.
    """
    microseconds = _MOMENT.process_bind_param(now, database.dialect)
    ranks = [each for each in _RANKS if not least_urgency or _is_of(each, least_urgency)]
    with database.read() as connection:
        if driver(connection).execute(_ANY_DUE, [microseconds]).fetchone() is None:
            return []  # the usual answer of an idle node: no write lock for it
        first = _first_due(connection, ranks, microseconds)
        if first is None or (first.attempts and not may_retry):
            return []
    claims: list[Claim] = []
    with database.write() as connection:
        while len(claims) < limit:
            found = _first_due(connection, ranks, microseconds)
            if found is None or (found.attempts and (claims or not may_retry)):
                break
            if not _is_intact(connection, found.row_id):
                set_aside(connection, studies, [found.row_id], now=now)
                continue
            claims.append(_take(connection, found.row_id, worker=worker, until=now + lease))
            if found.attempts:
                break
        record_transitions(
            connection,
            [(each.study_instance_uid, "") for each in claims],
            StudyState.SCORING,
            by=worker,
            now=now,
        )
    return claims


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


def _still_owned(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    """Condition that holds while the claim does."""
    return (
        studies.c.study_instance_uid == claim.study_instance_uid,
        studies.c.claim_token == claim.token,
        studies.c.generation == claim.generation,
    )


def _is_of(rank: tuple[int, int], least_urgency: int) -> bool:
    is_archive, urgency = rank
    return not is_archive and urgency >= least_urgency


class _Due(NamedTuple):
    """A study that is due, and how often it was claimed so far."""

    row_id: int
    attempts: int


def _first_due(
    connection: Connection, ranks: Sequence[tuple[int, int]], microseconds: int | None
) -> _Due | None:
    """The most urgent study that is due, the one due longest among equals."""
    raw = driver(connection)
    for is_archive, urgency in ranks:
        row = raw.execute(_FIRST_OF_RANK, [is_archive, urgency, microseconds]).fetchone()
        if row is not None:
            return _Due(*row)
    return None


def _take(connection: Connection, row_id: int, *, worker: str, until: datetime) -> Claim:
    token = secrets.token_hex(16)
    _TAKE.change(connection, {"row": row_id, "token": token, "worker": worker, "until": until})
    [row] = _TAKEN.rows(connection, row=row_id)
    return Claim(
        study_instance_uid=row.study_instance_uid,
        token=token,
        generation=row.generation,
        attempts=row.attempts,
        ordered_priority=ReadingPriority(row.ordered_priority),
        shown_priority=ReadingPriority(row.priority),
        priority_reason=row.priority_reason,
        is_archive=row.is_archive,
        received_at=row.received_at,
    )


def _is_intact(connection: Connection, row_id: int) -> bool:
    # By row id: found through an index, a row would lend its values from there.
    checksum, *sealed = driver(connection).execute(_SEALED, [row_id]).fetchone()
    return bool(checksum == row_checksum(*sealed))
