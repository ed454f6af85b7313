"""The outbox: every object on its way to every destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.errors import UnknownRecordError
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.store.checksums import damaged_row_ids, is_intact, require_intact, row_id
from imaging_node.store.damage import ROW_DAMAGED, choose_intact
from imaging_node.store.prepared import Prepared, driver
from imaging_node.store.schema import Moment, commitment_items, deliveries, objects
from imaging_node.store.transitions import record_transition, record_transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database


_WAITING = f"state = '{DeliveryState.WAITING}'"
_IS_SOUND = "id NOT IN (SELECT row_id FROM damaged_rows WHERE table_name = 'deliveries')"
_ANY_DUE = (
    f"SELECT 1 FROM deliveries WHERE destination = ? AND {_WAITING}"  # noqa: S608 - words of our own
    f" AND next_attempt_at <= ? AND {_IS_SOUND} LIMIT 1"
)
# Read in the order of the index until there are enough that are due, however many wait behind them.
_DUE_OF_RANK = (
    "deliveries.id IN (SELECT id FROM deliveries INDEXED BY deliveries_by_rank"  # noqa: S608 - same
    f" WHERE destination = :destination AND {_WAITING} AND next_attempt_at <= :now AND {_IS_SOUND}"
    " ORDER BY urgency DESC, id LIMIT :most)"
)
_DELIVERED = Prepared(
    deliveries.update()
    # What was delivered or taken over meanwhile is not this worker's to move.
    .where(
        deliveries.c.id == sa.bindparam("parcel", type_=sa.Integer()),
        deliveries.c.state != DeliveryState.DELIVERED,
        deliveries.c.claimed_by == sa.bindparam("worker", type_=sa.String()),
    )
    .values(
        state=DeliveryState.DELIVERED,
        last_status=sa.bindparam("status", type_=sa.String()),
        next_attempt_at=None,
        claimed_by="",
        delivered_at=sa.bindparam("accepted_at", type_=Moment()),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One object that this worker is to send to one destination.

    Attributes:
        attempts: Attempts so far, this one included.
        digest: Names the object's file in the spool.
    """

    id: int
    destination: str
    attempts: int
    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    claimed_by: str


def claim_deliveries(
    database: Database,
    destination: str,
    *,
    worker: str,
    now: datetime,
    lease: timedelta,
    limit: int,
) -> Sequence[Parcel]:
    """Claim due objects for one destination, urgent first; a dead worker's are due again later."""
    microseconds = Moment().process_bind_param(now, database.dialect)
    with database.read() as connection:
        due = driver(connection).execute(_ANY_DUE, [destination, microseconds])
        if due.fetchone() is None:
            return ()
    with database.write() as connection:
        candidates = (
            sa.select(deliveries.c.id)
            .where(
                sa.text(_DUE_OF_RANK).bindparams(
                    destination=destination, now=microseconds, most=limit
                )
            )
            .order_by(deliveries.c.urgency.desc(), deliveries.c.id)
        )
        chosen = _with_intact_objects(
            connection, choose_intact(connection, deliveries, candidates, now=now), now=now
        )
        claimed = connection.scalars(
            deliveries.update()
            .where(deliveries.c.id.in_(chosen))
            .values(
                attempts=deliveries.c.attempts + 1,
                next_attempt_at=now + lease,
                claimed_by=worker,
            )
            .returning(deliveries.c.id)
        ).all()
        rows = connection.execute(
            sa.select(deliveries, objects)
            .join(objects, objects.c.sop_instance_uid == deliveries.c.sop_instance_uid)
            .where(deliveries.c.id.in_(claimed))
            .order_by(deliveries.c.urgency.desc(), deliveries.c.id)
        ).all()
    return tuple(
        Parcel(
            id=row.id,
            destination=row.destination,
            attempts=row.attempts,
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            study_instance_uid=row.study_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            digest=row.digest,
            claimed_by=worker,
        )
        for row in rows
    )


def mark_delivered(
    database: Database, accepted: Sequence[tuple[Parcel, str]], *, now: datetime
) -> None:
    """The destination accepted these objects, each with the status beside it."""
    with database.write() as connection:
        _DELIVERED.run(
            connection,
            [
                {
                    "parcel": parcel.id,
                    "worker": parcel.claimed_by,
                    "status": status,
                    "accepted_at": now,
                }
                for parcel, status in accepted
            ],
        )
        record_transitions(
            connection,
            [(f"delivery {parcel.id}", status) for parcel, status in accepted],
            DeliveryState.DELIVERED,
            by="deliver",
            now=now,
        )


def retry_delivery_later(
    database: Database, parcel: Parcel, *, status: str, now: datetime, next_attempt_at: datetime
) -> None:
    """The same bytes may be accepted later."""
    _move(
        database,
        parcel,
        DeliveryState.WAITING,
        status=status,
        now=now,
        next_attempt_at=next_attempt_at,
    )


def park_delivery(database: Database, parcel: Parcel, *, status: str, now: datetime) -> None:
    """Repeating cannot help: an operator must look."""
    _move(database, parcel, DeliveryState.PARKED, status=status, now=now, next_attempt_at=None)


def return_parcels(database: Database, parcels: Sequence[Parcel], *, now: datetime) -> None:
    """Give back claimed objects that were not tried after all."""
    with database.write() as connection:
        connection.execute(
            deliveries.update()
            .where(
                deliveries.c.id.in_([parcel.id for parcel in parcels]),
                deliveries.c.state == DeliveryState.WAITING,
                deliveries.c.claimed_by.in_({parcel.claimed_by for parcel in parcels}),
            )
            .values(attempts=deliveries.c.attempts - 1, next_attempt_at=now, claimed_by="")
        )


def release_deliveries(database: Database, is_dead: Callable[[str], bool], *, now: datetime) -> int:
    """Make what a dead `deliver` had claimed due at once; returns how many.

    What was stored is sent again: whether commitment was asked for it nobody knows.
    """
    with database.write() as connection:
        workers = connection.scalars(
            sa.select(deliveries.c.claimed_by)
            .where(deliveries.c.claimed_by != "", is_intact(deliveries))
            .distinct()
        ).all()
        changed = connection.execute(
            deliveries.update()
            .where(deliveries.c.claimed_by.in_([each for each in workers if is_dead(each)]))
            .values(state=DeliveryState.WAITING, claimed_by="", next_attempt_at=now)
        )
    return changed.rowcount


def return_unfinished(
    database: Database, destination: str, *, worker: str, due_at: datetime
) -> None:
    """Send again what `worker` claimed and could not note the end of; it has no other claims."""
    with database.write() as connection:
        connection.execute(
            deliveries.update()
            .where(
                deliveries.c.destination == destination,
                deliveries.c.claimed_by == worker,
                deliveries.c.state.not_in((DeliveryState.DELIVERED, DeliveryState.PARKED)),
            )
            .values(state=DeliveryState.WAITING, claimed_by="", next_attempt_at=due_at)
        )


def requeue_delivery(database: Database, delivery_id: int, *, now: datetime) -> None:
    """Send a parked or waiting object again now.

    Raises:
        UnknownRecordError: There is no such delivery, or it was delivered.
        IntegrityError: Its row is damaged.
    """
    with database.write() as connection:
        require_intact(connection, deliveries, deliveries.c.id == delivery_id)
        if not _requeue(connection, delivery_id, now=now):
            raise UnknownRecordError(
                f"cannot requeue delivery {delivery_id}: it does not exist or was delivered;"
                " see `imaging-node deliveries`"
            )


def requeue_parked(database: Database, destination: str, *, now: datetime) -> int:
    """Send everything again that is parked for one destination; returns how many."""
    parked = sa.select(deliveries.c.id).where(
        deliveries.c.destination == destination, deliveries.c.state == DeliveryState.PARKED
    )
    with database.write() as connection:
        ids = choose_intact(connection, deliveries, parked, now=now)
        for each in ids:
            _requeue(connection, each, now=now)
    return len(ids)


def _requeue(connection: Connection, delivery_id: int, *, now: datetime) -> bool:
    """False when there is nothing to send again."""
    changed = connection.execute(
        deliveries.update()
        .where(deliveries.c.id == delivery_id, deliveries.c.state != DeliveryState.DELIVERED)
        .values(state=DeliveryState.WAITING, next_attempt_at=now, attempts=0, claimed_by="")
    )
    if not changed.rowcount:
        return False
    # It starts afresh with its commitment, too.
    connection.execute(
        commitment_items.update()
        .where(commitment_items.c.delivery_id == delivery_id)
        .values(has_failed=False)
    )
    record_transition(
        connection, f"delivery {delivery_id}", DeliveryState.WAITING, by="operator", now=now
    )
    return True


def _with_intact_objects(
    connection: Connection, chosen: Sequence[int], *, now: datetime
) -> Sequence[int]:
    """Those of the deliveries whose object is known for certain; the others are parked."""
    uids = sa.select(deliveries.c.sop_instance_uid).where(deliveries.c.id.in_(chosen))
    damaged = damaged_row_ids(connection, objects, objects.c.sop_instance_uid.in_(uids))
    known = connection.scalars(
        sa.select(deliveries.c.id)
        .join(objects, objects.c.sop_instance_uid == deliveries.c.sop_instance_uid)
        .where(deliveries.c.id.in_(chosen), row_id(objects).not_in(damaged))
    ).all()
    for each in set(chosen) - set(known):
        connection.execute(
            deliveries.update()
            .where(deliveries.c.id == each)
            .values(state=DeliveryState.PARKED, last_status=ROW_DAMAGED, next_attempt_at=None)
        )
        record_transition(
            connection,
            f"delivery {each}",
            DeliveryState.PARKED,
            by="deliver",
            now=now,
            reason=ROW_DAMAGED,
        )
    return known


def _move(
    database: Database,
    parcel: Parcel,
    state: DeliveryState,
    *,
    status: str,
    now: datetime,
    next_attempt_at: datetime | None,
) -> None:
    with database.write() as connection:
        connection.execute(
            deliveries.update()
            # What was delivered or taken over meanwhile is not this worker's to move.
            .where(
                deliveries.c.id == parcel.id,
                deliveries.c.state != DeliveryState.DELIVERED,
                deliveries.c.claimed_by == parcel.claimed_by,
            )
            .values(
                state=state,
                last_status=status,
                next_attempt_at=next_attempt_at,
                claimed_by="",
                delivered_at=None,
            )
        )
        record_transition(
            connection, f"delivery {parcel.id}", state, by="deliver", now=now, reason=status
        )
