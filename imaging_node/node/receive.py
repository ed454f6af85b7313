"""The `receive` role: the DICOM listener."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from imaging_node.dicom.receiver import Receiver
from imaging_node.flow.intake import Intake, accept_instance
from imaging_node.node.role import DRAIN_LIMIT_S, Role
from imaging_node.node.wiring import now, open_state

if TYPE_CHECKING:
    from imaging_node.settings import Settings


def run_receive(settings: Settings, *, supervisor_pid: int | None) -> None:
    """Listen until told to stop, then let running associations finish.

    Raises:
        StorageError: The port or the state directory cannot be used.
    """
    with Role("receive", settings, supervisor_pid=supervisor_pid) as role:
        database, spool, pseudonyms = open_state(settings)
        intake = Intake(
            database=database,
            spool=spool,
            pseudonyms=pseudonyms,
            quiet_period=timedelta(seconds=settings.study.quiet_period_s),
            priority_by_calling_ae_title=settings.priority.calling_ae_titles,
            is_archive=False,
            clock=now,
        )
        receiver = Receiver(settings.dicom, partial(accept_instance, intake=intake), role.counters)
        role.start_heartbeat(database)
        role.stopping.wait()
        receiver.drain(DRAIN_LIMIT_S)
        database.close()
