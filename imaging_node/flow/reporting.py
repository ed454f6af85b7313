"""Report to a peer what the node vouches for: decided once, sent until it is answered."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from imaging_node.dicom.commitment import (
    FAILURE_OTHER_CLASS,
    FAILURE_PROCESSING,
    FAILURE_UNKNOWN_INSTANCE,
    CommitmentReport,
)
from imaging_node.dicom.commitment_exchange import send_report
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.store.content_digest import is_digest_of_file
from imaging_node.store.owed_reports import (
    claim_owed,
    close_owed,
    kept_instances,
    note_decided,
)
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.flow.delivery import DeliveryRoom
    from imaging_node.settings import PeerSettings
    from imaging_node.store.owed_reports import FailedReference, OwedReport

_LEASE = timedelta(minutes=10)


def report_due(peer: PeerSettings, room: DeliveryRoom) -> int:
    """Send one report that is due to `peer`, on an association of its own.

    Returns:
        How many were tried: 0 or 1.

    Raises:
        StorageError: The database could not be written; the report is tried again.
    """
    owed = claim_owed(
        room.database, peer.ae_title, worker=room.worker, now=room.clock(), lease=_LEASE
    )
    if owed is None:
        return 0
    failed = owed.failed
    if failed is None:
        failed = _decide(owed, room)
        note_decided(room.database, owed, failed)
    not_kept = {each[:2] for each in failed}
    report = CommitmentReport(
        transaction_uid=owed.transaction_uid,
        calling_ae_title=room.caller.ae_title,
        committed=tuple(each for each in owed.wanted if each not in not_kept),
        failed=failed,
    )
    try:
        status = send_report(peer, room.caller, report)
    except PeerUnavailableError as error:
        next_attempt_at = room.clock() + room.back_off.after(owed.attempts)
        close_owed(
            room.database,
            owed,
            DeliveryState.WAITING,
            status=error.status,
            next_attempt_at=next_attempt_at,
        )
        _say(Event.COMMITMENT_REPORT_RETRY, owed, status=error.status, reason=str(error))
    except PeerRefusedError as error:
        close_owed(room.database, owed, DeliveryState.PARKED, status=error.status)
        _say(Event.COMMITMENT_REPORT_PARKED, owed, status=error.status, reason=str(error))
    else:
        close_owed(room.database, owed, DeliveryState.DELIVERED, status=status)
        _say(
            Event.COMMITMENT_REPORTED,
            owed,
            status=status,
            reason=f"{len(report.committed)} kept, {len(report.failed)} not",
        )
    return 1


def _decide(owed: OwedReport, room: DeliveryRoom) -> tuple[FailedReference, ...]:
    """What the node does not vouch for.

    It vouches for an instance of the class named, received and never refused, whose file is
    whole: every byte is read again.
    """
    kept = kept_instances(room.database, (uid for _, uid in owed.wanted))
    failed = []
    for sop_class_uid, sop_instance_uid in owed.wanted:
        instance = kept.get(sop_instance_uid)
        if instance is None:
            failed.append((sop_class_uid, sop_instance_uid, FAILURE_UNKNOWN_INSTANCE))
        elif instance.sop_class_uid != sop_class_uid:
            failed.append((sop_class_uid, sop_instance_uid, FAILURE_OTHER_CLASS))
        elif not _is_whole(room.spool.path(instance.digest), instance.digest):
            failed.append((sop_class_uid, sop_instance_uid, FAILURE_PROCESSING))
    return tuple(failed)


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return is_digest_of_file(path, digest)
    except OSError:
        return False


def _say(event: Event, owed: OwedReport, *, status: str, reason: str) -> None:
    log(
        event,
        ae_title=owed.calling_ae_title,
        objects=len(owed.wanted),
        attempts=owed.attempts,
        status=status,
        reason=reason,
    )
