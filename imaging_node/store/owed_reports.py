"""Storage commitment that peers ask of us: which reports are owed, and what the node keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.store.checksums import damaged_row_ids, is_intact, row_id
from imaging_node.store.damage import choose_intact, is_set_aside
from imaging_node.store.schema import commitment_reports, instances

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime, timedelta

    from imaging_node.store.database import Database

MOST_OWED = 256
"""Reports that one peer can be owed at a time; its next request waits."""
_UIDS_AT_A_TIME = 500

Reference = tuple[str, str]
"""SOP class UID and SOP instance UID."""
FailedReference = tuple[str, str, int]
"""SOP class UID, SOP instance UID and Failure Reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedReport:
    """One report that this worker is to send.

    Attributes:
        attempts: Attempts so far, this one included.
        failed: What is not vouched for; None while that is undecided.
    """

    id: int
    calling_ae_title: str
    transaction_uid: str
    wanted: tuple[Reference, ...]
    failed: tuple[FailedReference, ...] | None
    attempts: int
    claimed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptInstance:
    """What the node last received under a SOP instance UID."""

    sop_class_uid: str
    digest: str


def note_wanted(
    database: Database,
    *,
    calling_ae_title: str,
    transaction_uid: str,
    wanted: Sequence[Reference],
    now: datetime,
) -> bool:
    """Durably owe a report; the same request again, before it is answered, changes nothing.

    Returns:
        False when the peer is owed too many; nothing was noted.
    """
    table = commitment_reports
    same = (
        table.c.calling_ae_title == calling_ae_title,
        table.c.transaction_uid == transaction_uid,
    )
    with database.write() as connection:
        state = connection.scalar(sa.select(table.c.state).where(*same))
        if state == DeliveryState.WAITING:
            return True
        owed = connection.scalar(
            sa.select(sa.func.count()).where(
                table.c.calling_ae_title == calling_ae_title,
                table.c.state == DeliveryState.WAITING,
            )
        )
        if (owed or 0) >= MOST_OWED:
            return False
        # A peer that asks again under a UID that was answered did not get the answer.
        connection.execute(table.delete().where(*same))
        connection.execute(
            table.insert().values(
                calling_ae_title=calling_ae_title,
                transaction_uid=transaction_uid,
                noted_at=now,
                wanted=list(wanted),
                state=DeliveryState.WAITING,
                next_attempt_at=now,
            )
        )
    return True


def claim_owed(
    database: Database, calling_ae_title: str, *, worker: str, now: datetime, lease: timedelta
) -> OwedReport | None:
    """Claim the oldest report that is due to a peer."""
    table = commitment_reports
    due = (
        table.c.calling_ae_title == calling_ae_title,
        table.c.state == DeliveryState.WAITING,
        table.c.next_attempt_at <= now,
    )
    with database.read() as connection:
        found = sa.select(table.c.id).where(*due, sa.not_(is_set_aside(table)))
        if connection.scalar(found.limit(1)) is None:
            return None
    with database.write() as connection:
        candidates = sa.select(table.c.id).where(*due).order_by(table.c.id).limit(1)
        row = connection.execute(
            table.update()
            .where(table.c.id.in_(choose_intact(connection, table, candidates, now=now)))
            .values(attempts=table.c.attempts + 1, next_attempt_at=now + lease, claimed_by=worker)
            .returning(table)
        ).one_or_none()
    if row is None:
        return None
    return OwedReport(
        id=row.id,
        calling_ae_title=row.calling_ae_title,
        transaction_uid=row.transaction_uid,
        wanted=tuple((each[0], each[1]) for each in row.wanted),
        failed=None
        if row.failed is None
        else tuple((each[0], each[1], each[2]) for each in row.failed),
        attempts=row.attempts,
        claimed_by=worker,
    )


def kept_instances(database: Database, sop_instance_uids: Iterable[str]) -> dict[str, KeptInstance]:
    """Those of the instances that lie in the spool, each as last received.

    Files of an archive that was scored are not the node's to vouch for, and of a damaged row
    nobody knows what it named.
    """
    uids = list(sop_instance_uids)
    found: dict[str, KeptInstance] = {}
    with database.read() as connection:
        for begin in range(0, len(uids), _UIDS_AT_A_TIME):
            these = instances.c.sop_instance_uid.in_(uids[begin : begin + _UIDS_AT_A_TIME])
            rows = connection.execute(
                sa.select(
                    instances.c.sop_instance_uid, instances.c.sop_class_uid, instances.c.digest
                )
                .where(
                    these,
                    instances.c.path == "",
                    row_id(instances).not_in(damaged_row_ids(connection, instances, these)),
                )
                .order_by(instances.c.id)
            )
            for row in rows:
                found[row.sop_instance_uid] = KeptInstance(
                    sop_class_uid=row.sop_class_uid, digest=row.digest
                )
    return found


def note_decided(database: Database, owed: OwedReport, failed: Sequence[FailedReference]) -> None:
    """Keep what the report will say, however often it must be sent."""
    with database.write() as connection:
        connection.execute(
            commitment_reports.update()
            .where(commitment_reports.c.id == owed.id)
            .values(failed=list(failed))
        )


def close_owed(
    database: Database,
    owed: OwedReport,
    state: DeliveryState,
    *,
    status: str,
    next_attempt_at: datetime | None = None,
) -> None:
    """Note how sending the report went, unless another worker has it by now."""
    table = commitment_reports
    values: dict[str, object] = {
        "state": state,
        "last_status": status,
        "next_attempt_at": next_attempt_at,
        "claimed_by": "",
    }
    if state is DeliveryState.DELIVERED:
        values |= {"wanted": [], "failed": []}  # they may be long, and nobody asks again
    with database.write() as connection:
        connection.execute(
            table.update()
            .where(
                table.c.id == owed.id,
                table.c.state == DeliveryState.WAITING,
                table.c.claimed_by == owed.claimed_by,
            )
            .values(**values)
        )


def release_owed(database: Database, is_dead: Callable[[str], bool], *, now: datetime) -> int:
    """Make the reports that a dead `deliver` had claimed due at once; returns how many."""
    table = commitment_reports
    claimed = (
        table.c.state == DeliveryState.WAITING,
        table.c.claimed_by != "",
        is_intact(table),
    )
    with database.write() as connection:
        workers = connection.scalars(sa.select(table.c.claimed_by).where(*claimed).distinct()).all()
        changed = connection.execute(
            table.update()
            .where(*claimed, table.c.claimed_by.in_([each for each in workers if is_dead(each)]))
            .values(claimed_by="", next_attempt_at=now)
        )
    return changed.rowcount
