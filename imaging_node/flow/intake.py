"""Accept one instance: check it, keep it, note it. Only then may the sender hear Success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from imaging_node.dicom.file_format import encode_part10
from imaging_node.dicom.headers import read_header, require_legal_uid
from imaging_node.domain.priority import ReadingPriority, most_urgent
from imaging_node.store.arrivals import Arrival, ArrivingInstance, note_arrival
from imaging_node.store.database import Database
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Event, Pseudonyms, log

if TYPE_CHECKING:
    from imaging_node.dicom.receiver import ReceivedInstance

_EVENTS = {
    Arrival.NEW: Event.INSTANCE_ACCEPTED,
    Arrival.AGAIN: Event.INSTANCE_DUPLICATE,
    Arrival.CHANGED: Event.INSTANCE_CHANGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What accepting an instance needs.

    Attributes:
        priority_by_calling_ae_title: From the settings.
        is_archive: True when the instances come from an archive, behind all else.
    """

    database: Database
    spool: Spool
    pseudonyms: Pseudonyms
    quiet_period: timedelta
    priority_by_calling_ae_title: Mapping[str, ReadingPriority]
    is_archive: bool
    clock: Callable[[], datetime]


def accept_instance(received: ReceivedInstance, intake: Intake) -> None:
    """Return once the instance is durable: bytes, folder and row; repeating it is safe.

    A result of our own that comes back is neither kept nor answered: the study has it.

    Raises:
        RejectedInstanceError: The sender must know; nothing was noted.
        StorageError: It could not be kept; the sender should try again.
    """
    require_legal_uid(received.sop_instance_uid)
    header = read_header(
        received.dataset,
        transfer_syntax_uid=received.transfer_syntax_uid,
        sop_class_uid=received.sop_class_uid,
        sop_instance_uid=received.sop_instance_uid,
    )
    if header.is_own_result:
        # A PACS that routes whole studies sends our captures back: an answer to them would be
        # routed back as well, for ever.
        log(
            Event.OWN_RESULT_RETURNED,
            study=intake.pseudonyms.token(header.image.study_instance_uid),
            instance=intake.pseudonyms.token(received.sop_instance_uid),
        )
        return
    digest = intake.spool.write(
        encode_part10(
            received.dataset,
            sop_class_uid=received.sop_class_uid,
            sop_instance_uid=received.sop_instance_uid,
            transfer_syntax_uid=received.transfer_syntax_uid,
        )
    )
    ordered = most_urgent(
        [
            header.ordered_priority,
            ReadingPriority.URGENT if received.is_high_priority else ReadingPriority.ROUTINE,
            intake.priority_by_calling_ae_title.get(
                received.calling_ae_title, ReadingPriority.ROUTINE
            ),
        ]
    )
    arrival = note_arrival(
        intake.database,
        ArrivingInstance(
            image=replace(header.image, path=intake.spool.path(digest), digest=digest),
            is_in_spool=True,
            patient_digest=header.patient_digest,
            accession_number=header.accession_number,
            study_at=header.study_at,
            ordered_priority=ordered,
            calling_ae_title=received.calling_ae_title,
            is_archive=intake.is_archive,
        ),
        now=intake.clock(),
        quiet_period=intake.quiet_period,
    )
    log(
        _EVENTS[arrival],
        study=intake.pseudonyms.token(header.image.study_instance_uid),
        instance=intake.pseudonyms.token(received.sop_instance_uid),
        bytes=len(received.dataset),
        priority=ordered,
    )
