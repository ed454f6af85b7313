"""Accept one instance: check it, keep it, note it. Only then may the sender hear Success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from imaging_node.dicom.file_format import encode_beginning
from imaging_node.dicom.header_scan import TruncatedHeaderError
from imaging_node.dicom.headers import read_header, require_legal_uid
from imaging_node.domain.errors import StorageError
from imaging_node.domain.priority import ReadingPriority, most_urgent
from imaging_node.flow.group_commit import GroupCommit
from imaging_node.store.answers import has_object
from imaging_node.store.arrivals import (
    Arrival,
    ArrivingInstance,
    IdentityConflictError,
    Outcome,
    ReadyArrival,
    make_ready,
    note_arrivals,
)
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Event, Pseudonyms, log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from imaging_node.dicom.headers import ReceivedHeader
    from imaging_node.dicom.intake_port import IncomingInstance
    from imaging_node.store.database import Database

_EVENTS = {
    Arrival.NEW: Event.INSTANCE_ACCEPTED,
    Arrival.AGAIN: Event.INSTANCE_DUPLICATE,
    Arrival.CHANGED: Event.INSTANCE_CHANGED,
    Arrival.SET_ASIDE: Event.INSTANCE_QUARANTINED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRoom:
    """What accepting instances needs.

    Attributes:
        commit: Notes instances whose files are durable, those of all associations together.
        priority_by_calling_ae_title: From the settings.
        is_archive: True when the instances come from an archive, behind all else.
        is_own_object: Whether this node has made the object with this SOP Instance UID.
    """

    spool: Spool
    pseudonyms: Pseudonyms
    commit: GroupCommit[ReadyArrival, Outcome]
    priority_by_calling_ae_title: Mapping[str, ReadingPriority]
    is_archive: bool
    is_own_object: Callable[[str], bool]
    clock: Callable[[], datetime]


def open_room(
    database: Database,
    spool: Spool,
    pseudonyms: Pseudonyms,
    *,
    quiet_period: timedelta,
    priority_by_calling_ae_title: Mapping[str, ReadingPriority],
    is_archive: bool,
    clock: Callable[[], datetime],
) -> IntakeRoom:
    """A room whose instances share transactions."""

    def note(ready: Sequence[ReadyArrival]) -> Sequence[Outcome]:
        return note_arrivals(database, ready, now=clock(), quiet_period=quiet_period)

    return IntakeRoom(
        spool=spool,
        pseudonyms=pseudonyms,
        commit=GroupCommit(note),
        priority_by_calling_ae_title=priority_by_calling_ae_title,
        is_archive=is_archive,
        is_own_object=partial(has_object, database),
        clock=clock,
    )


class ArrivingDataset:
    """Owns the spool file of one instance until it is accepted or discarded."""

    def __init__(self, incoming: IncomingInstance, room: IntakeRoom) -> None:
        """Begin the file.

        Raises:
            RejectedInstanceError: 0x0117, the instance is named by what is no UID.
            StorageError: There is no room for it.
        """
        require_legal_uid(incoming.sop_instance_uid)
        self._incoming = incoming
        self._room = room
        beginning = encode_beginning(
            sop_class_uid=incoming.sop_class_uid,
            sop_instance_uid=incoming.sop_instance_uid,
            transfer_syntax_uid=incoming.transfer_syntax_uid,
        )
        self._dataset_begin = len(beginning)
        self._part = room.spool.begin()
        self._part.write(beginning)

    def write(self, piece: memoryview) -> None:
        """Keep the next bytes of the dataset.

        Raises:
            StorageError: They could not be kept.
        """
        self._part.write(piece)

    def discard(self) -> None:
        """Forget the instance, unless it has been accepted."""
        self._part.discard()

    def accept(self) -> str:
        """Return the token of its study once the instance is durable: bytes, folder and row.

        A result of our own that comes back is neither kept nor answered: the study has it. One
        of another node is kept, set aside.

        Raises:
            RejectedInstanceError: The sender must know; nothing will be scored.
            StorageError: It could not be kept; the sender should try again.
        """
        header = self._read_header()
        room = self._room
        study = room.pseudonyms.token(header.image.study_instance_uid)
        instance = room.pseudonyms.token(header.image.sop_instance_uid)
        if header.is_own_result and room.is_own_object(header.image.sop_instance_uid):
            # A PACS that routes whole studies sends our captures back: an answer to them would
            # be routed back as well, for ever.
            log(Event.OWN_RESULT_RETURNED, study=study, instance=instance)
            return study
        priority = self._ordered_priority(header)
        arrival = room.commit.submit(lambda: self._made_durable(header, priority))
        if isinstance(arrival, IdentityConflictError):
            log(
                Event.INSTANCE_QUARANTINED,
                study=study,
                instance=instance,
                ae_title=self._incoming.calling_ae_title,
                reason=str(arrival),
            )
            raise arrival
        if isinstance(arrival, StorageError):
            raise arrival
        log(
            _EVENTS[arrival],
            study=study,
            instance=instance,
            bytes=self._part.size_bytes - self._dataset_begin,
            priority=priority,
        )
        return study

    def _read_header(self) -> ReceivedHeader:
        incoming = self._incoming
        beginning = self._part.beginning
        try:
            return read_header(
                beginning,
                transfer_syntax_uid=incoming.transfer_syntax_uid,
                sop_class_uid=incoming.sop_class_uid,
                sop_instance_uid=incoming.sop_instance_uid,
                begin=self._dataset_begin,
            )
        except TruncatedHeaderError:
            if len(beginning) == self._part.size_bytes:
                raise
        # A header longer than that: looked at where it lies, so that memory does not grow.
        with self._part.mapped() as whole:
            return read_header(
                whole,
                transfer_syntax_uid=incoming.transfer_syntax_uid,
                sop_class_uid=incoming.sop_class_uid,
                sop_instance_uid=incoming.sop_instance_uid,
                begin=self._dataset_begin,
            )

    def _ordered_priority(self, header: ReceivedHeader) -> ReadingPriority:
        incoming = self._incoming
        return most_urgent(
            [
                header.ordered_priority,
                ReadingPriority.URGENT if incoming.is_high_priority else ReadingPriority.ROUTINE,
                self._room.priority_by_calling_ae_title.get(
                    incoming.calling_ae_title, ReadingPriority.ROUTINE
                ),
            ]
        )

    def _made_durable(self, header: ReceivedHeader, priority: ReadingPriority) -> ReadyArrival:
        """The instance as it will be noted; its bytes are durable already."""
        room = self._room
        digest = room.spool.settle(self._part)
        arriving = ArrivingInstance(
            image=replace(header.image, digest=digest),
            is_in_spool=True,
            patient_digest=header.patient_digest,
            accession_number=header.accession_number,
            study_at=header.study_at,
            ordered_priority=priority,
            calling_ae_title=self._incoming.calling_ae_title,
            is_archive=room.is_archive,
            # An answer to another node's answer would be answered there, for ever.
            set_aside="a result of another imaging-node, or derived from one: kept, not scored"
            if header.is_own_result
            else "",
        )
        return make_ready(arriving, now=room.clock())


def accept_instance(incoming: IncomingInstance, dataset: bytes, room: IntakeRoom) -> None:
    """Accept an instance that lies in memory whole; repeating it is safe.

    Raises:
        RejectedInstanceError: The sender must know; nothing will be scored.
        StorageError: It could not be kept; the sender should try again.
    """
    shortage = room.spool.shortage(len(dataset))
    if shortage:
        raise StorageError(f"cannot keep an instance: {shortage}; free space")
    arriving = ArrivingDataset(incoming, room)
    try:
        arriving.write(memoryview(dataset))
        arriving.accept()
    finally:
        arriving.discard()
