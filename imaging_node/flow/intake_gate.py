"""Whether intake has room: free space, inodes, and how much waits already."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from imaging_node.domain.errors import StorageError
from imaging_node.store.claims import count_waiting
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

_LOOK_AGAIN_S = 1.0


class IntakeGate:
    """Owns the last look at what is left, and says when that changes.

    Service comes back by itself: nobody has to open the gate.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        *,
        max_waiting_studies: int,
        monotonic_s: Callable[[], float],
    ) -> None:
        """Look for the first time.

        Args:
            max_waiting_studies: Studies without an ending; 0: no limit.
        """
        self._database = database
        self._spool = spool
        self._max_waiting_studies = max_waiting_studies
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._looked_at_s = float("-inf")
        self._shortage = ""

    def shortage(self) -> str:
        """Why nothing more may be taken, in words, at most a second old; "" while there is room."""
        with self._lock:
            now_s = self._monotonic_s()
            if now_s - self._looked_at_s >= _LOOK_AGAIN_S:
                self._looked_at_s = now_s
                self._note(self._look())
            return self._shortage

    def require_room(self) -> None:
        """Refuse before a byte is written.

        Raises:
            StorageError: There is no room.
        """
        shortage = self.shortage()
        if shortage:
            raise StorageError(f"cannot keep an instance: {shortage}; try again later")

    def _look(self) -> str:
        shortage = self._spool.shortage()
        if shortage or not self._max_waiting_studies:
            return shortage
        try:
            waiting = count_waiting(self._database)
        except StorageError as error:
            return str(error)
        if waiting >= self._max_waiting_studies:
            return (
                f"{waiting} studies wait already, {self._max_waiting_studies} may"
                " (spool.max_waiting_studies)"
            )
        return ""

    def _note(self, shortage: str) -> None:
        if shortage and not self._shortage:
            log(Event.STORAGE_LOW, reason=shortage)
        elif self._shortage and not shortage:
            log(Event.STORAGE_BACK)
        self._shortage = shortage
