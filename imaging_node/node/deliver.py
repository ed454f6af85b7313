"""The `deliver` role: one thread a destination, so that none waits for another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from imaging_node.dicom.sender import Caller
from imaging_node.domain.errors import StorageError
from imaging_node.flow.delivery import DeliveryRoom, deliver_due
from imaging_node.node.recovery import recover_state
from imaging_node.node.role import DRAIN_LIMIT_S, Role
from imaging_node.node.wiring import is_dead, now, open_state, worker_name
from imaging_node.store.deliveries import release_deliveries
from imaging_node.telemetry import Event, log, place_of

if TYPE_CHECKING:
    from imaging_node.settings import PeerSettings, Settings

_IDLE_S = 0.2


def run_deliver(settings: Settings, *, supervisor_pid: int | None) -> None:
    """Send what waits until told to stop, then finish the associations in use.

    Raises:
        StorageError: The state directory cannot be used.
    """
    with Role("deliver", supervisor_pid=supervisor_pid) as role:
        if supervisor_pid is None:
            recover_state(settings)
        database, spool, pseudonyms = open_state(settings)
        room = DeliveryRoom(
            database=database,
            spool=spool,
            pseudonyms=pseudonyms,
            caller=Caller(ae_title=settings.dicom.ae_title, timeout_s=settings.delivery.timeout_s),
            retry_first_s=settings.delivery.retry_first_s,
            retry_max_s=settings.delivery.retry_max_s,
            worker=worker_name("deliver"),
            counters=role.counters,
            clock=now,
        )
        released = release_deliveries(database, is_dead, now=now())
        if released:
            log(Event.CLAIMS_RELEASED, role="deliver", count=released)
        role.start_heartbeat(database)
        threads = [
            threading.Thread(
                target=_deliver_to, args=(name, settings.peers[name], room, role), daemon=True
            )
            for name in settings.destinations
        ]
        for thread in threads:
            thread.start()
        role.stopping.wait()
        for thread in threads:
            thread.join(timeout=DRAIN_LIMIT_S)
        database.close()


def _deliver_to(name: str, peer: PeerSettings, room: DeliveryRoom, role: Role) -> None:
    while not role.stopping.is_set():
        tried = 0
        try:
            tried = deliver_due(name, peer, room)
        except StorageError as error:
            log(Event.DATABASE_FAILED, role="deliver", reason=str(error))
        except Exception as error:  # noqa: BLE001 - top of a destination's loop
            log(
                Event.THREAD_FAILED,
                role="deliver",
                destination=name,
                error=type(error).__name__,
                where=place_of(error.__traceback__),
            )
        if not tried:
            role.stopping.wait(_IDLE_S)
