"""Deliver what waits for one destination: each object until its peer has it, or will not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from imaging_node.dicom.sender import Caller, StorageAssociation, open_storage
from imaging_node.domain.errors import IntegrityError, PeerRefusedError, PeerUnavailableError
from imaging_node.store.database import Database
from imaging_node.store.deliveries import (
    Parcel,
    claim_deliveries,
    mark_delivered,
    park_delivery,
    retry_delivery_later,
    return_parcels,
)
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Counters, Event, Metric, Pseudonyms, log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.settings import PeerSettings

_PARCELS_AT_A_TIME = 16
# Long enough for a slow peer to take all parcels of one claim; a dead worker's parcels are
# released at the next start, not by this.
_LEASE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRoom:
    """What delivering needs.

    Attributes:
        retry_first_s, retry_max_s: Waits double from one to the other.
        worker: Name of this process in claims.
    """

    database: Database
    spool: Spool
    pseudonyms: Pseudonyms
    caller: Caller
    retry_first_s: float
    retry_max_s: float
    worker: str
    counters: Counters
    clock: Callable[[], datetime]


def deliver_due(destination: str, peer: PeerSettings, room: DeliveryRoom) -> int:
    """Send what is due for one destination, over one association.

    Returns:
        How many objects were tried; 0 when none was due.

    Raises:
        StorageError: The database could not be written; the objects are tried again.
    """
    parcels = claim_deliveries(
        room.database,
        destination,
        worker=room.worker,
        now=room.clock(),
        lease=_LEASE,
        limit=_PARCELS_AT_A_TIME,
    )
    if not parcels:
        return 0
    kinds = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in parcels})
    try:
        with open_storage(peer, room.caller, kinds) as association:
            _send_all(parcels, association, room)
    except PeerUnavailableError as error:
        # No association: none of them was tried, all wait alike.
        for parcel in parcels:
            _retry(parcel, room, status=error.status)
    return len(parcels)


def _send_all(
    parcels: Sequence[Parcel], association: StorageAssociation, room: DeliveryRoom
) -> None:
    for position, parcel in enumerate(parcels):
        try:
            room.spool.read(parcel.digest)
            status = association.store(
                room.spool.path(parcel.digest),
                sop_class_uid=parcel.sop_class_uid,
                transfer_syntax_uid=parcel.transfer_syntax_uid,
            )
        except PeerUnavailableError as error:
            _retry(parcel, room, status=error.status)
            # The association may be gone: the rest is tried on a new one.
            return_parcels(room.database, parcels[position + 1 :], now=room.clock())
            return
        except PeerRefusedError as error:
            _park(parcel, room, status=error.status)
        except IntegrityError:
            _park(parcel, room, status="stored object damaged")
        else:
            mark_delivered(room.database, parcel, status=status, now=room.clock())
            _say(Event.DELIVERY_DONE, parcel, room, status=status)


def _retry(parcel: Parcel, room: DeliveryRoom, *, status: str) -> None:
    wait_s = min(room.retry_max_s, room.retry_first_s * 2.0 ** min(parcel.attempts - 1, 20))
    now = room.clock()
    retry_delivery_later(
        room.database,
        parcel,
        status=status,
        now=now,
        next_attempt_at=now + timedelta(seconds=wait_s),
    )
    _say(Event.DELIVERY_RETRY, parcel, room, status=status)


def _park(parcel: Parcel, room: DeliveryRoom, *, status: str) -> None:
    park_delivery(room.database, parcel, status=status, now=room.clock())
    _say(Event.DELIVERY_PARKED, parcel, room, status=status)


def _say(event: Event, parcel: Parcel, room: DeliveryRoom, *, status: str) -> None:
    log(
        event,
        destination=parcel.destination,
        study=room.pseudonyms.token(parcel.study_instance_uid),
        instance=room.pseudonyms.token(parcel.sop_instance_uid),
        attempts=parcel.attempts,
        status=status,
    )
    room.counters.add(Metric.DELIVERIES, destination=parcel.destination, outcome=event.name.lower())
