"""Storage commitment: note what peers ask of us and what they report, before they hear Success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from imaging_node.dicom.statuses import STATUS_PROCESSING_FAILURE, STATUS_RESOURCE_LIMITATION
from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.domain.retrying import BackOff
from imaging_node.settings import PeerSettings
from imaging_node.store.commitments import note_report
from imaging_node.store.database import Database
from imaging_node.store.owed_reports import note_wanted
from imaging_node.telemetry import Counters, Event, Metric, Pseudonyms, log

if TYPE_CHECKING:
    from imaging_node.dicom.commitment import CommitmentReport, CommitmentRequest
    from imaging_node.store.commitments import CommitmentChange

_EVENTS = {
    DeliveryState.DELIVERED: Event.DELIVERY_DONE,
    DeliveryState.WAITING: Event.DELIVERY_RETRY,
    DeliveryState.PARKED: Event.DELIVERY_PARKED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentRoom:
    """What noting requests and reports needs.

    Attributes:
        peers: From the settings, by name.
        back_off: When to send again what a peer does not vouch for.
    """

    database: Database
    pseudonyms: Pseudonyms
    peers: Mapping[str, PeerSettings]
    back_off: BackOff
    counters: Counters
    clock: Callable[[], datetime]


def note_commitment_request(request: CommitmentRequest, room: CommitmentRoom) -> None:
    """Return once it is durable that the caller is owed a report; repeating it is safe.

    What the report says is decided when it is made, by `flow/reporting.py`: looking at every
    file takes longer than a peer waits for its answer.

    Raises:
        RejectedInstanceError: 0x0110 no configured peer has the caller's AE title, so that a
            report would have nowhere to go; 0x0213 it is owed too many reports.
        StorageError: It could not be noted; the caller should try again.
    """
    if not _names(request.calling_ae_title, room):
        raise _refused(
            request,
            "no peer in the settings has the caller's AE title: add one with the address that"
            " reports shall go to",
            STATUS_PROCESSING_FAILURE,
        )
    is_noted = note_wanted(
        room.database,
        calling_ae_title=request.calling_ae_title,
        transaction_uid=request.transaction_uid,
        wanted=request.references,
        now=room.clock(),
    )
    if not is_noted:
        raise _refused(
            request,
            "the caller is owed too many reports: see that it can be reached",
            STATUS_RESOURCE_LIMITATION,
        )
    log(
        Event.COMMITMENT_WANTED,
        ae_title=request.calling_ae_title,
        objects=len(request.references),
    )


def note_commitment_report(report: CommitmentReport, room: CommitmentRoom) -> None:
    """Return once it is durable what the peer vouches for; repeating it changes nothing.

    Raises:
        RejectedInstanceError: 0x0110, this peer was never asked for such a transaction.
        StorageError: It could not be noted; the peer should report again.
    """
    changes = note_report(
        room.database,
        report.transaction_uid,
        destinations=_names(report.calling_ae_title, room),
        committed=set(report.committed),
        failed={(each[0], each[1]): each[2] for each in report.failed},
        back_off=room.back_off,
        now=room.clock(),
    )
    if changes is None:
        reason = "the peer was not asked for this transaction"
        log(Event.COMMITMENT_IGNORED, ae_title=report.calling_ae_title, reason=reason)
        raise RejectedInstanceError(reason, status=STATUS_PROCESSING_FAILURE)
    if not changes:
        log(
            Event.COMMITMENT_IGNORED,
            ae_title=report.calling_ae_title,
            reason="the transaction was reported before, or its objects were delivered",
        )
    for each in changes:
        say_change(each, room.pseudonyms, room.counters)


def say_change(change: CommitmentChange, pseudonyms: Pseudonyms, counters: Counters) -> None:
    """Log and count what a report, or its absence, did to one object."""
    event = _EVENTS[change.state]
    log(
        event,
        destination=change.destination,
        study=pseudonyms.token(change.study_instance_uid),
        instance=pseudonyms.token(change.sop_instance_uid),
        attempts=change.attempts,
        status=change.status,
        reason="storage commitment",
    )
    counters.add(Metric.DELIVERIES, destination=change.destination, outcome=event.name.lower())


def _names(ae_title: str, room: CommitmentRoom) -> list[str]:
    return [name for name, peer in room.peers.items() if peer.ae_title == ae_title]


def _refused(request: CommitmentRequest, reason: str, status: int) -> RejectedInstanceError:
    log(
        Event.COMMITMENT_REFUSED,
        ae_title=request.calling_ae_title,
        status=f"{status:04X}",
        reason=reason,
    )
    return RejectedInstanceError(reason, status=status)
