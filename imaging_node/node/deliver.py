"""The `deliver` role: one thread a peer, so that none waits for another."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from imaging_node.dicom.sender import Caller
from imaging_node.domain.errors import DurabilityError, StorageError
from imaging_node.domain.retrying import BackOff
from imaging_node.flow.delivery import PARCELS_AT_A_TIME, DeliveryRoom, deliver_due
from imaging_node.flow.reporting import report_due
from imaging_node.node.audit_shipping import AuditShipper
from imaging_node.node.certificates import require_valid_certificates, warn_of_expiry
from imaging_node.node.recovery import recover_state
from imaging_node.node.role import DRAIN_LIMIT_S, Role
from imaging_node.node.wiring import is_dead, now, open_audit_log, open_state, worker_name
from imaging_node.store.deliveries import release_deliveries, return_unfinished
from imaging_node.store.owed_reports import release_owed
from imaging_node.telemetry import Event, log, place_of

if TYPE_CHECKING:
    from imaging_node.settings import Settings

_IDLE_S = 0.2
_DAY_S = 86400.0


def run_deliver(settings: Settings, *, supervisor_pid: int | None) -> None:
    """Send what waits until told to stop, then finish the objects under way.

    Raises:
        SettingsError: A certificate cannot be used or has expired.
        StorageError: The state directory cannot be used.
    """
    with Role("deliver", settings, supervisor_pid=supervisor_pid) as role:
        require_valid_certificates(settings, now())
        if supervisor_pid is None:
            recover_state(settings)
        database, spool, pseudonyms = open_state(settings)
        room = DeliveryRoom(
            database=database,
            spool=spool,
            pseudonyms=pseudonyms,
            caller=Caller(ae_title=settings.dicom.ae_title, timeout_s=settings.delivery.timeout_s),
            peers=settings.peers,
            back_off=back_off(settings),
            commitment_timeout=timedelta(seconds=settings.delivery.commitment_timeout_s),
            worker=worker_name("deliver"),
            counters=role.counters,
            clock=now,
            is_stopping=role.stopping.is_set,
            record=role.audit.record,
        )
        released = release_deliveries(database, is_dead, now=now())
        released += release_owed(database, is_dead, now=now())
        if released:
            log(Event.CLAIMS_RELEASED, role="deliver", count=released)
        role.start_heartbeat(database)
        threads = [
            threading.Thread(target=_serve_peer, args=(name, settings, room, role), daemon=True)
            for name in settings.peers
        ]
        for thread in threads:
            thread.start()
        shipper = _start_shipping(settings)
        while True:
            warn_of_expiry(settings, now())
            if role.stopping.wait(_DAY_S):
                break
        for thread in threads:
            thread.join(timeout=DRAIN_LIMIT_S)
        if shipper is not None:
            shipper.close()
        database.close()


def _start_shipping(settings: Settings) -> AuditShipper | None:
    """Ship the audit messages of all roles, when the site names a syslog server."""
    if settings.audit.syslog is None:
        return None
    return AuditShipper(open_audit_log(settings), settings.audit.syslog, host=socket.gethostname())


def back_off(settings: Settings) -> BackOff:
    """Waits between attempts, as the settings say."""
    return BackOff(first_s=settings.delivery.retry_first_s, longest_s=settings.delivery.retry_max_s)


def _serve_peer(name: str, settings: Settings, room: DeliveryRoom, role: Role) -> None:
    peer = settings.peers[name]
    # Of several peers with one AE title the first gets the reports: there is one of each.
    same = [each for each, other in settings.peers.items() if other.ae_title == peer.ae_title]
    is_unfinished = False
    while not role.stopping.is_set():
        tried = 0
        try:
            if is_unfinished:
                due_at = room.clock() + room.back_off.after(1)
                return_unfinished(room.database, name, worker=room.worker, due_at=due_at)
                is_unfinished = False
            if name in settings.destinations:
                tried += deliver_due(name, peer, room)
            if name == same[0]:
                tried += report_due(peer, room)
        except StorageError as error:
            is_unfinished = True
            log(Event.DATABASE_FAILED, role="deliver", reason=str(error))
            if isinstance(error, DurabilityError):
                role.lose_durability()
        except Exception as error:  # noqa: BLE001 - top of a peer's loop
            log(
                Event.THREAD_FAILED,
                role="deliver",
                destination=name,
                error=type(error).__name__,
                where=place_of(error.__traceback__),
            )
        if tried < PARCELS_AT_A_TIME:
            # Also after some were sent: what comes meanwhile shares the next association.
            role.stopping.wait(_IDLE_S)
