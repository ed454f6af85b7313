"""Where the crash test touches the listener: the one place to change when its interface does."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from imaging_node.dicom.receiver import ReceivedInstance, Receiver
from imaging_node.flow.intake import Intake, accept_instance

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from imaging_node.settings import Settings
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool
    from imaging_node.telemetry import Counters, Pseudonyms

_DRAIN_S = 5.0
# Long enough for the sender to have its answer before anything was kept.
_ACKNOWLEDGED_FIRST_S = 0.05


class Listener:
    """The node's own listener, in this process.

    Attributes:
        has_lost_durability: True once the listener wants its process ended and begun anew.
    """

    def __init__(
        self,
        settings: Settings,
        state: tuple[Database, Spool, Pseudonyms],
        counters: Counters,
        *,
        clock: Callable[[], datetime],
        is_acknowledging_first: bool,
    ) -> None:
        """Begin to listen.

        Args:
            is_acknowledging_first: The deliberately wrong variant: answer, then keep.
        """
        database, spool, pseudonyms = state
        accept: Callable[[ReceivedInstance], None] = partial(
            accept_instance,
            intake=Intake(
                database=database,
                spool=spool,
                pseudonyms=pseudonyms,
                quiet_period=timedelta(seconds=settings.study.quiet_period_s),
                priority_by_calling_ae_title={},
                is_archive=False,
                clock=clock,
            ),
        )
        self._late: list[threading.Thread] = []
        if is_acknowledging_first:
            accept = partial(self._accept_late, accept)
        self.has_lost_durability = False
        self._receiver = Receiver(settings.dicom, accept, counters)

    def drain(self) -> None:
        """Stop listening; associations finish."""
        self._receiver.drain(_DRAIN_S)
        for thread in self._late:
            thread.join()

    def _accept_late(
        self, accept: Callable[[ReceivedInstance], None], received: ReceivedInstance
    ) -> None:
        def keep() -> None:
            time.sleep(_ACKNOWLEDGED_FIRST_S)
            accept(received)

        thread = threading.Thread(target=keep, daemon=True)
        self._late.append(thread)
        thread.start()
