"""Deliver what waits for one destination: each object until its peer has it, or will not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Self

from imaging_node.dicom.commitment import CommitmentRequest, new_transaction_uid
from imaging_node.dicom.sender import Caller, StorageAssociation, open_storage
from imaging_node.domain.audit import AuditEvent, AuditKind
from imaging_node.domain.errors import IntegrityError, PeerRefusedError, PeerUnavailableError
from imaging_node.domain.retrying import BackOff
from imaging_node.flow.commitment import CommitmentRoom, note_commitment_report, say_change
from imaging_node.settings import PeerSettings
from imaging_node.store.commitments import await_report, note_asked, return_unreported
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

PARCELS_AT_A_TIME = 16
"""Objects that share an association."""

# Long enough for a slow peer to take all parcels of one claim; a dead worker's parcels are
# released at the next start, not by this.
_LEASE = timedelta(minutes=10)
_NOTED_WITHIN = timedelta(seconds=1)
# A peer that reports on the association it was asked on does so at once, or never.
_REPORT_WAIT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRoom:
    """What delivering needs.

    Attributes:
        peers: From the settings, by name.
        back_off: Waits between attempts.
        commitment_timeout: Longest wait for a commitment report.
        worker: Name of this process in claims.
        is_stopping: Whether to leave the rest for the next start.
        record: Takes what an auditor must know.
    """

    database: Database
    spool: Spool
    pseudonyms: Pseudonyms
    caller: Caller
    peers: Mapping[str, PeerSettings]
    back_off: BackOff
    commitment_timeout: timedelta
    worker: str
    counters: Counters
    clock: Callable[[], datetime]
    is_stopping: Callable[[], bool]
    record: Callable[[AuditEvent], object]

    @property
    def commitment(self) -> CommitmentRoom:
        """What noting a peer's report needs."""
        return CommitmentRoom(
            database=self.database,
            pseudonyms=self.pseudonyms,
            peers=self.peers,
            back_off=self.back_off,
            counters=self.counters,
            clock=self.clock,
        )


def deliver_due(destination: str, peer: PeerSettings, room: DeliveryRoom) -> int:
    """Send what is due for one destination, over one association.

    With storage commitment an object is delivered once the peer vouches for it.

    Returns:
        How many objects were tried; 0 when none was due.

    Raises:
        StorageError: The database could not be written; the objects are tried again.
    """
    for change in return_unreported(room.database, destination, now=room.clock()):
        say_change(change, room.pseudonyms, room.counters)
    parcels = claim_deliveries(
        room.database,
        destination,
        worker=room.worker,
        now=room.clock(),
        lease=_LEASE,
        limit=PARCELS_AT_A_TIME,
    )
    if not parcels:
        return 0
    kinds = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in parcels})
    note = partial(note_commitment_report, room=room.commitment)
    try:
        with open_storage(
            peer, room.caller, kinds, note_report=note if peer.storage_commitment else None
        ) as association:
            _record(AuditKind.BEGIN_TRANSFERRING, peer, parcels, room)
            if peer.storage_commitment:
                stored: list[tuple[Parcel, str]] = []
                sent = _send_all(parcels, association, room, lambda *each: stored.append(each))
                _record(AuditKind.INSTANCES_TRANSFERRED, peer, sent, room)
                _ask_commitment(stored, association, room)
            else:
                with _Noting(room) as noting:
                    sent = _send_all(parcels, association, room, noting.note)
                _record(AuditKind.INSTANCES_TRANSFERRED, peer, sent, room)
    except PeerUnavailableError as error:
        # No association: none of them was tried, all wait alike.
        for parcel in parcels:
            _retry(parcel, room, status=error.status)
    except PeerRefusedError as error:
        # The peer will have none of us: what it says is true of every object.
        for parcel in parcels:
            _park(parcel, room, status=error.status, reason=str(error))
    return len(parcels)


def _send_all(
    parcels: Sequence[Parcel],
    association: StorageAssociation,
    room: DeliveryRoom,
    note_stored: Callable[[Parcel, str], None],
) -> Sequence[Parcel]:
    """Send one after the other; returns those that the peer has."""
    sent: list[Parcel] = []
    for position, parcel in enumerate(parcels):
        if room.is_stopping():
            return_parcels(room.database, parcels[position:], now=room.clock())
            break
        try:
            status = association.store(
                # The very bytes whose digest was verified.
                room.spool.read(parcel.digest),
                sop_class_uid=parcel.sop_class_uid,
                transfer_syntax_uid=parcel.transfer_syntax_uid,
            )
        except PeerUnavailableError as error:
            _retry(parcel, room, status=error.status)
            # The association may be gone: the rest is tried on a new one.
            return_parcels(room.database, parcels[position + 1 :], now=room.clock())
            break
        except PeerRefusedError as error:
            _park(parcel, room, status=error.status, reason=str(error))
        except IntegrityError as error:
            _park(parcel, room, status="stored object damaged", reason=str(error))
        else:
            sent.append(parcel)
            note_stored(parcel, status)
    return sent


def _ask_commitment(
    stored: Sequence[tuple[Parcel, str]], association: StorageAssociation, room: DeliveryRoom
) -> None:
    transaction_uid = new_transaction_uid()
    now = room.clock()
    ours = note_asked(
        room.database,
        stored,
        transaction_uid=transaction_uid,
        now=now,
        due_at=now + room.commitment_timeout,
    )
    if not ours:
        return
    request = CommitmentRequest(
        transaction_uid=transaction_uid,
        calling_ae_title=room.caller.ae_title,
        references=tuple((each.sop_class_uid, each.sop_instance_uid) for each in ours),
    )
    try:
        association.ask_commitment(request)
    except PeerUnavailableError as error:
        for parcel in ours:
            _retry(parcel, room, status=f"commitment: {error.status}")
        return
    except PeerRefusedError as error:
        for parcel in ours:
            _park(parcel, room, status=f"commitment: {error.status}", reason=str(error))
        return
    await_report(room.database, ours)
    log(Event.COMMITMENT_ASKED, destination=ours[0].destination, objects=len(ours))
    if room.is_stopping():
        return
    try:
        association.await_report(_REPORT_WAIT_S)
    except PeerUnavailableError:
        return  # it ended the association: its report comes on one of its own


def _record(
    kind: AuditKind, peer: PeerSettings, parcels: Sequence[Parcel], room: DeliveryRoom
) -> None:
    """Tell the auditor what leaves the node (PS3.15 A.5.3.3 and A.5.3.7)."""
    if not parcels:
        return
    studies = {room.pseudonyms.token(each.study_instance_uid) for each in parcels}
    room.record(
        AuditEvent(
            kind=kind,
            occurred_at=room.clock(),
            role="deliver",
            peer_ae_title=peer.ae_title,
            peer_address=peer.host,
            is_outgoing=True,
            studies=tuple(sorted(studies)),
            instances=len(parcels),
        )
    )


class _Noting:
    """Notes what a peer accepted, several objects in one transaction.

    Those of an association are noted at its end, or after the first that is accepted more than a
    second later; what a killed node did not note is sent again, byte for byte.
    """

    def __init__(self, room: DeliveryRoom) -> None:
        self._room = room
        self._accepted: list[tuple[Parcel, str]] = []
        self._since = room.clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def note(self, parcel: Parcel, status: str) -> None:
        if not self._accepted:
            self._since = self._room.clock()
        self._accepted.append((parcel, status))
        if self._room.clock() - self._since >= _NOTED_WITHIN:
            self._write()

    def _write(self) -> None:
        if not self._accepted:
            return
        mark_delivered(self._room.database, self._accepted, now=self._room.clock())
        accepted, self._accepted = self._accepted, []
        for parcel, status in accepted:
            _say(Event.DELIVERY_DONE, parcel, self._room, status=status)


def _retry(parcel: Parcel, room: DeliveryRoom, *, status: str) -> None:
    now = room.clock()
    retry_delivery_later(
        room.database,
        parcel,
        status=status,
        now=now,
        next_attempt_at=now + room.back_off.after(parcel.attempts),
    )
    _say(Event.DELIVERY_RETRY, parcel, room, status=status)


def _park(parcel: Parcel, room: DeliveryRoom, *, status: str, reason: str) -> None:
    park_delivery(room.database, parcel, status=status, now=room.clock())
    _say(Event.DELIVERY_PARKED, parcel, room, status=status, reason=reason)


def _say(event: Event, parcel: Parcel, room: DeliveryRoom, **fields: str) -> None:
    log(
        event,
        destination=parcel.destination,
        study=room.pseudonyms.token(parcel.study_instance_uid),
        instance=room.pseudonyms.token(parcel.sop_instance_uid),
        attempts=parcel.attempts,
        **fields,
    )
    room.counters.add(Metric.DELIVERIES, destination=parcel.destination, outcome=event.name.lower())
