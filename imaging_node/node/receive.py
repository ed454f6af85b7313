"""The `receive` role: the DICOM listener."""

from __future__ import annotations

import ctypes
import socket
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from imaging_node.dicom.connection_slots import ConnectionSlots
from imaging_node.dicom.intake_port import IncomingInstance, Intake
from imaging_node.dicom.listener import Listener
from imaging_node.dicom.listening_socket import bind
from imaging_node.dicom.tls import acceptor_context
from imaging_node.flow.commitment import (
    CommitmentRoom,
    note_commitment_report,
    note_commitment_request,
)
from imaging_node.flow.intake import ArrivingDataset, IntakeRoom, open_room
from imaging_node.flow.intake_gate import IntakeGate
from imaging_node.node.association_audit import AssociationAudit
from imaging_node.node.deliver import back_off
from imaging_node.node.recovery import recover_state
from imaging_node.node.role import DRAIN_LIMIT_S, EXIT_DURABILITY_LOST, Role
from imaging_node.node.wiring import now, open_state
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from imaging_node.settings import Settings

_SLOTS_NAME = "associations"
# mallopt(3): its number, and enough for threads that mostly wait for the network.
_M_ARENA_MAX, _HEAPS = -8, 2
# How long the associations have to send their last answer after an fsync failed.
_LAST_ANSWER_S = 2.0


def run_receive(
    settings: Settings,
    *,
    supervisor_pid: int | None,
    name: str = "receive",
    listening_descriptor: int | None = None,
) -> int:
    """Listen until told to stop, then let running associations finish.

    Args:
        name: Name of this process among several receivers.
        listening_descriptor: A socket that listens already and is shared with other receivers.

    Returns:
        Exit status: 0 after a drain, 3 when the disk did not take what was written.

    Raises:
        SettingsError: A certificate cannot be used.
        StorageError: The port or the state directory cannot be used.
    """
    _share_heaps()
    with Role(name, settings, supervisor_pid=supervisor_pid) as role:
        if supervisor_pid is None:
            recover_state(settings)
        database, spool, pseudonyms = open_state(settings)
        room = open_room(
            database,
            spool,
            pseudonyms,
            quiet_period=timedelta(seconds=settings.study.quiet_period_s),
            priority_by_calling_ae_title=settings.priority.calling_ae_titles,
            is_archive=False,
            clock=now,
        )
        gate = IntakeGate(
            database,
            spool,
            max_waiting_studies=settings.spool.max_waiting_studies,
            monotonic_s=time.monotonic,
        )
        commitments = CommitmentRoom(
            database=database,
            pseudonyms=pseudonyms,
            peers=settings.peers,
            back_off=back_off(settings),
            counters=role.counters,
            clock=now,
        )
        audit = AssociationAudit(role.audit, clock=now)
        has_lost = role.durability_lost
        if listening_descriptor is None:
            listening = bind(settings.dicom.host, settings.dicom.port)
        else:
            listening = socket.socket(fileno=listening_descriptor)
        listener = Listener(
            listening,
            settings.dicom,
            Intake(
                open_instance=partial(_open_instance, gate=gate, room=room),
                note_request=partial(note_commitment_request, room=commitments),
                note_report=partial(note_commitment_report, room=commitments),
                may_promise=lambda: not has_lost.is_set(),
                on_durability_lost=role.lose_durability,
            ),
            audit.watch(is_storage_low=lambda: bool(gate.shortage())),
            ConnectionSlots(
                settings.state_directory / _SLOTS_NAME,
                total=settings.dicom.max_associations,
                per_address=settings.dicom.max_associations_per_address,
            ),
            role.counters,
            None if settings.dicom.tls is None else acceptor_context(settings.dicom.tls),
        )
        role.start_heartbeat(database)
        role.stopping.wait()
        if has_lost.is_set():
            log(Event.DURABILITY_LOST, role=name)
            listener.cut()
            listener.await_end(_LAST_ANSWER_S)
            return EXIT_DURABILITY_LOST
        if role.is_orphan:
            # The port must be free for the next node at once.
            listener.stop_listening()
        listener.drain(DRAIN_LIMIT_S)
        database.close()
    return 0


def _share_heaps() -> None:
    """Let the threads of associations share two heaps.

    glibc makes one for each of many threads, eight times the number of cores, and each keeps
    the size that it once had: after thousands of associations that is all they ever needed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc alone
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)


def _open_instance(
    incoming: IncomingInstance, *, gate: IntakeGate, room: IntakeRoom
) -> ArrivingDataset:
    gate.require_room()
    return ArrivingDataset(incoming, room)
