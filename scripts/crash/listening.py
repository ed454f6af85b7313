"""Where the crash test touches the listener: the one place to change when its interface does."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from imaging_node.dicom.connection_slots import ConnectionSlots
from imaging_node.dicom.intake_port import Intake
from imaging_node.dicom.listener import Listener
from imaging_node.domain.errors import StorageError
from imaging_node.domain.retrying import BackOff
from imaging_node.flow.commitment import (
    CommitmentRoom,
    note_commitment_report,
    note_commitment_request,
)
from imaging_node.flow.intake import ArrivingDataset, open_room
from imaging_node.node.association_audit import AssociationAudit
from imaging_node.node.wiring import open_trail

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from imaging_node.dicom.intake_port import IncomingInstance, InstanceSink
    from imaging_node.flow.intake import IntakeRoom
    from imaging_node.settings import Settings
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool
    from imaging_node.telemetry import Counters, Pseudonyms

_DRAIN_S = 5.0
# Long enough for the sender to have its answer before anything was kept.
_ACKNOWLEDGED_FIRST_S = 0.05


class Listening:
    """Owns the node's own listener in this process, wired as the receive role wires it."""

    def __init__(
        self,
        settings: Settings,
        state: tuple[Database, Spool, Pseudonyms],
        counters: Counters,
        *,
        quiet_period: timedelta,
        clock: Callable[[], datetime],
        is_acknowledging_first: bool,
    ) -> None:
        """Begin to listen.

        Args:
            is_acknowledging_first: The deliberately wrong variant: answer, then keep.

        Raises:
            StorageError: The state directory cannot be used.
        """
        database, spool, pseudonyms = state
        self._has_lost_durability = threading.Event()
        room = open_room(
            database,
            spool,
            pseudonyms,
            quiet_period=quiet_period,
            priority_by_calling_ae_title={},
            is_archive=False,
            clock=clock,
        )
        commitments = CommitmentRoom(
            database=database,
            pseudonyms=pseudonyms,
            peers=settings.peers,
            back_off=BackOff(first_s=1, longest_s=1),
            counters=counters,
            clock=clock,
        )
        self._late: list[threading.Thread] = []
        open_instance = partial(_open_instance, room=room)
        self._trail = open_trail(settings, "receive")
        self._listener = Listener(
            socket.create_server((settings.dicom.host, settings.dicom.port)),
            settings.dicom,
            Intake(
                open_instance=partial(_open_late, opening=open_instance, late=self._late)
                if is_acknowledging_first
                else open_instance,
                note_request=partial(note_commitment_request, room=commitments),
                note_report=partial(note_commitment_report, room=commitments),
                may_promise=lambda: not self.has_lost_durability,
                on_durability_lost=self._has_lost_durability.set,
            ),
            AssociationAudit(self._trail, clock=clock).watch(is_storage_low=lambda: False),
            ConnectionSlots(
                settings.state_directory / "associations",
                total=settings.dicom.max_associations,
                per_address=settings.dicom.max_associations_per_address,
            ),
            counters,
        )

    @property
    def has_lost_durability(self) -> bool:
        """Whether the listener wants its process ended and begun anew."""
        return self._has_lost_durability.is_set()

    def drain(self) -> None:
        """Stop listening; associations finish."""
        self._listener.drain(_DRAIN_S)
        for thread in self._late:
            thread.join()
        self._trail.close()


def _open_instance(incoming: IncomingInstance, *, room: IntakeRoom) -> ArrivingDataset:
    return ArrivingDataset(incoming, room)


def _open_late(
    incoming: IncomingInstance,
    *,
    opening: Callable[[IncomingInstance], InstanceSink],
    late: list[threading.Thread],
) -> InstanceSink:
    return _LateSink(opening(incoming), late)


class _LateSink:
    """Says that an instance was accepted, and accepts it a little later."""

    def __init__(self, sink: InstanceSink, late: list[threading.Thread]) -> None:
        self._sink = sink
        self._late = late
        self._is_accepted = False

    def write(self, piece: memoryview) -> None:
        self._sink.write(piece)

    def accept(self) -> str:
        self._is_accepted = True
        thread = threading.Thread(target=self._accept_late, daemon=True)
        self._late.append(thread)
        thread.start()
        return ""

    def discard(self) -> None:
        if not self._is_accepted:
            self._sink.discard()

    def _accept_late(self) -> None:
        time.sleep(_ACKNOWLEDGED_FIRST_S)
        try:
            self._sink.accept()
        except StorageError:
            self._sink.discard()  # and nobody is told
