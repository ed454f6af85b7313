"""Storage commitment of what we sent: which transactions are open, and what a report changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.store.checksums import damaged_row_ids, row_id
from imaging_node.store.damage import choose_intact, is_set_aside
from imaging_node.store.schema import commitment_items, commitment_requests, deliveries, objects
from imaging_node.store.transitions import record_transition

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from imaging_node.domain.retrying import BackOff
    from imaging_node.store.database import Database
    from imaging_node.store.deliveries import Parcel

MOST_FAILURES = 5
"""An object whose commitment failed or stayed out so often is parked."""
STATUS_NO_REPORT = "no commitment report"
_STORE_STATUS = re.compile(r"[0-9A-F]{4}")

Reference = tuple[str, str]
"""SOP class UID and SOP instance UID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentChange:
    """What became of one object."""

    delivery_id: int
    destination: str
    study_instance_uid: str
    sop_instance_uid: str
    attempts: int
    state: DeliveryState
    status: str


def note_asked(
    database: Database,
    stored: Sequence[tuple[Parcel, str]],
    *,
    transaction_uid: str,
    now: datetime,
    due_at: datetime,
) -> Sequence[Parcel]:
    """Note durably, before it is asked, what one transaction asks for.

    Args:
        stored: Objects that the destination has, each with the status of its C-STORE response.
        due_at: When a report that has not come counts as a failure.

    Returns:
        Those that are still this worker's to ask for.
    """
    if not stored:
        return ()
    with database.write() as connection:
        ours = []
        for parcel, status in stored:
            changed = connection.execute(
                deliveries.update()
                .where(
                    deliveries.c.id == parcel.id,
                    deliveries.c.state == DeliveryState.WAITING,
                    deliveries.c.claimed_by == parcel.claimed_by,
                )
                .values(state=DeliveryState.STORED, last_status=status, next_attempt_at=due_at)
            )
            if changed.rowcount:
                ours.append(parcel)
                _record(connection, parcel.id, DeliveryState.STORED, now=now, reason=status)
        if ours:
            connection.execute(
                commitment_requests.insert().values(
                    transaction_uid=transaction_uid, destination=ours[0].destination, asked_at=now
                )
            )
            connection.execute(
                commitment_items.insert(),
                [{"transaction_uid": transaction_uid, "delivery_id": each.id} for each in ours],
            )
    return ours


def await_report(database: Database, parcels: Sequence[Parcel]) -> None:
    """Let go of objects whose commitment the peer has agreed to report."""
    with database.write() as connection:
        connection.execute(
            deliveries.update()
            .where(
                deliveries.c.id.in_([each.id for each in parcels]),
                deliveries.c.state == DeliveryState.STORED,
                deliveries.c.claimed_by.in_({each.claimed_by for each in parcels}),
            )
            .values(claimed_by="")
        )


def note_report(
    database: Database,
    transaction_uid: str,
    *,
    destinations: Collection[str],
    committed: Collection[Reference],
    failed: Mapping[Reference, int],
    back_off: BackOff,
    now: datetime,
) -> Sequence[CommitmentChange] | None:
    """Note a peer's report, once: its transaction is over then.

    What it vouches for is delivered. What it does not is sent again, or parked.

    Args:
        destinations: Names of the peer that reports.
        failed: Failure Reason of what it does not vouch for.

    Returns:
        What changed; empty for a transaction that was reported before; None for one that this
        peer was never asked for.
    """
    with database.write() as connection:
        this = commitment_requests.c.transaction_uid == transaction_uid
        request = connection.execute(
            sa.select(commitment_requests).where(
                this,
                commitment_requests.c.destination.in_(destinations),
                row_id(commitment_requests).not_in(
                    damaged_row_ids(connection, commitment_requests, this)
                ),
            )
        ).one_or_none()
        if request is None:
            return None
        if request.reported_at is not None:
            return ()
        connection.execute(commitment_requests.update().where(this).values(reported_at=now))
        changes = []
        for row in _intact_items(connection, transaction_uid):
            reference = (row.sop_class_uid, row.sop_instance_uid)
            if reference in committed:
                change = _deliver(connection, row, now=now)
            elif row.state != DeliveryState.STORED or row.item_id != _last_item(connection, row.id):
                change = None  # it is on its way again: another transaction will tell
            else:
                reason = failed.get(reference)
                change = _fail(
                    connection,
                    row,
                    status="not committed" if reason is None else f"not committed: {reason:04X}",
                    next_attempt_at=now + back_off.after(row.attempts),
                    now=now,
                )
            if change is not None:
                changes.append(change)
        return changes


def return_unreported(
    database: Database, destination: str, *, now: datetime
) -> Sequence[CommitmentChange]:
    """Send again what waited too long for its report; a report that comes later still counts."""
    overdue = (
        deliveries.c.destination == destination,
        deliveries.c.state == DeliveryState.STORED,
        deliveries.c.next_attempt_at <= now,
    )
    with database.read() as connection:
        found = sa.select(deliveries.c.id).where(*overdue, sa.not_(is_set_aside(deliveries)))
        if connection.scalar(found.limit(1)) is None:
            return ()
    with database.write() as connection:
        chosen = choose_intact(
            connection, deliveries, sa.select(deliveries.c.id).where(*overdue), now=now
        )
        rows = connection.execute(sa.select(deliveries).where(deliveries.c.id.in_(chosen))).all()
        return [
            _fail(connection, row, status=STATUS_NO_REPORT, next_attempt_at=now, now=now)
            for row in rows
        ]


def _intact_items(
    connection: Connection, transaction_uid: str
) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    """What one transaction asked for; what is damaged of it is left to its time limit."""
    this = commitment_items.c.transaction_uid == transaction_uid
    ids = sa.select(commitment_items.c.delivery_id).where(this)
    uids = sa.select(deliveries.c.sop_instance_uid).where(deliveries.c.id.in_(ids))
    which = {
        commitment_items: this,
        deliveries: deliveries.c.id.in_(ids),
        objects: objects.c.sop_instance_uid.in_(uids),
    }
    return connection.execute(
        sa.select(
            commitment_items.c.id.label("item_id"),
            deliveries.c.id,
            deliveries.c.destination,
            deliveries.c.study_instance_uid,
            deliveries.c.sop_instance_uid,
            deliveries.c.state,
            deliveries.c.attempts,
            deliveries.c.last_status,
            objects.c.sop_class_uid,
        )
        .join(deliveries, deliveries.c.id == commitment_items.c.delivery_id)
        .join(objects, objects.c.sop_instance_uid == deliveries.c.sop_instance_uid)
        .where(
            this,
            *(
                row_id(table).not_in(damaged_row_ids(connection, table, where))
                for table, where in which.items()
            ),
        )
        .order_by(commitment_items.c.id)
    ).all()


def _deliver(
    connection: Connection, row: sa.Row[*tuple[Any, ...]], *, now: datetime
) -> CommitmentChange | None:
    if row.state == DeliveryState.DELIVERED:
        return None
    # A warning of the C-STORE response stays to be seen.
    status = row.last_status if _STORE_STATUS.fullmatch(row.last_status) else "0000"
    connection.execute(
        deliveries.update()
        .where(deliveries.c.id == row.id)
        .values(
            state=DeliveryState.DELIVERED,
            last_status=status,
            next_attempt_at=None,
            claimed_by="",
            delivered_at=now,
        )
    )
    _record(connection, row.id, DeliveryState.DELIVERED, now=now, reason=f"{status}, committed")
    return _change(row, DeliveryState.DELIVERED, status)


def _last_item(connection: Connection, delivery_id: int) -> int | None:
    """Of the transactions that asked for an object, the last one's item."""
    found: int | None = connection.scalar(
        sa.select(sa.func.max(commitment_items.c.id)).where(
            commitment_items.c.delivery_id == delivery_id
        )
    )
    return found


def _fail(
    connection: Connection,
    row: sa.Row[*tuple[Any, ...]],
    *,
    status: str,
    next_attempt_at: datetime,
    now: datetime,
) -> CommitmentChange:
    connection.execute(
        commitment_items.update()
        .where(commitment_items.c.id == _last_item(connection, row.id))
        .values(has_failed=True)
    )
    failures = connection.scalar(
        sa.select(sa.func.count()).where(
            commitment_items.c.delivery_id == row.id, commitment_items.c.has_failed
        )
    )
    state = DeliveryState.PARKED if (failures or 0) >= MOST_FAILURES else DeliveryState.WAITING
    connection.execute(
        deliveries.update()
        .where(deliveries.c.id == row.id)
        .values(
            state=state,
            last_status=status,
            next_attempt_at=None if state is DeliveryState.PARKED else next_attempt_at,
            claimed_by="",
        )
    )
    _record(connection, row.id, state, now=now, reason=status)
    return _change(row, state, status)


def _change(row: sa.Row[*tuple[Any, ...]], state: DeliveryState, status: str) -> CommitmentChange:
    return CommitmentChange(
        delivery_id=row.id,
        destination=row.destination,
        study_instance_uid=row.study_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        attempts=row.attempts,
        state=state,
        status=status,
    )


def _record(
    connection: Connection, delivery_id: int, state: DeliveryState, *, now: datetime, reason: str
) -> None:
    record_transition(
        connection, f"delivery {delivery_id}", state, by="deliver", now=now, reason=reason
    )
