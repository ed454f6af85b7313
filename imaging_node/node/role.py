"""What every role process does besides its work: title, signals, heartbeat, audit, its end."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Self

from setproctitle import setproctitle

from imaging_node.domain.audit import SERIOUS_FAILURE, SUCCESS, AuditEvent, AuditKind
from imaging_node.domain.errors import DurabilityError, StorageError
from imaging_node.domain.records import RoleStatus
from imaging_node.node.wiring import now, open_trail
from imaging_node.store.role_reports import beat, retire
from imaging_node.telemetry import Counters, Event, configure_logging, log

if TYPE_CHECKING:
    from datetime import datetime
    from types import FrameType, TracebackType

    from imaging_node.settings import Settings
    from imaging_node.store.database import Database

HEARTBEAT_S = 2.0
# After a failed fsync: `serve` starts the role again, which then recovers.
EXIT_DURABILITY_LOST = 3
_PARENT_CHECK_S = 1.0
# A drain that takes longer is cut: `serve` promises to be gone within 30 s of SIGTERM.
DRAIN_LIMIT_S = 20.0
# Without `serve` the role must be gone within 20 s, so that a new one finds the port free.
_ORPHAN_LIMIT_S = 15.0


class Role:
    """Owns a role process's title, signals, heartbeat and audit trail; a context manager.

    Attributes:
        stopping: Set when the role must drain and end.
        counters: What the role counted.
        audit: Where the role records what an auditor must know.
        durability_lost: Set when an fsync failed: the role must end and recover.
        is_orphan: True when `serve` is gone.
    """

    def __init__(self, name: str, settings: Settings, *, supervisor_pid: int | None) -> None:
        """Take over the process.

        Args:
            name: "receive", "score", "deliver" or "web".
            supervisor_pid: Process of `serve` that started this one; the role ends with it.

        Raises:
            StorageError: The state directory cannot be used.
        """
        self.name = name
        self.stopping = threading.Event()
        self.counters = Counters()
        self.durability_lost = threading.Event()
        self.is_orphan = False
        self._supervisor_pid = supervisor_pid
        self._started_at: datetime = now()
        self._threads: list[threading.Thread] = []
        setproctitle(f"imaging-node: {name}")
        configure_logging(name)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if supervisor_pid is not None:
            threading.Thread(target=self._follow_supervisor, daemon=True).start()
        self.audit = open_trail(settings, name)

    def __enter__(self) -> Self:
        log(Event.ROLE_STARTED, role=self.name, pid=os.getpid())
        self._record(AuditKind.APPLICATION_START, SUCCESS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(timeout=HEARTBEAT_S)
        self._record(AuditKind.APPLICATION_STOP, SUCCESS if kind is None else SERIOUS_FAILURE)
        self.audit.close()
        log(Event.ROLE_STOPPED, role=self.name, pid=os.getpid())

    def lose_durability(self) -> None:
        """End the role after a failed fsync: nothing may be promised any more."""
        self.durability_lost.set()
        self.stopping.set()

    def start_heartbeat(self, database: Database) -> None:
        """Tell the database every two seconds that the role is alive, once it really is."""
        thread = threading.Thread(target=self._beat, args=(database,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _record(self, kind: AuditKind, outcome: int) -> None:
        self.audit.record(AuditEvent(kind=kind, occurred_at=now(), outcome=outcome, role=self.name))

    def _beat(self, database: Database) -> None:
        while True:
            try:
                beat(
                    database,
                    RoleStatus(
                        role=self.name,
                        pid=os.getpid(),
                        started_at=self._started_at,
                        heartbeat_at=now(),
                        counters=self.counters.snapshot(),
                    ),
                )
            except StorageError as error:
                log(Event.DATABASE_FAILED, role=self.name, reason=str(error))
                if isinstance(error, DurabilityError):
                    self.lose_durability()
            if self.stopping.wait(HEARTBEAT_S):
                break
        try:
            retire(database, self.name, pid=os.getpid())
        except StorageError as error:
            log(Event.DATABASE_FAILED, role=self.name, reason=str(error))

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping.set()

    def _follow_supervisor(self) -> None:
        """End when `serve` is gone, however it went: orphans would keep the port and the claims."""
        limit_s = DRAIN_LIMIT_S + HEARTBEAT_S
        while not self.stopping.wait(_PARENT_CHECK_S):
            if os.getppid() != self._supervisor_pid:
                limit_s = _ORPHAN_LIMIT_S
                self.is_orphan = True
                self.stopping.set()
        # Whatever hangs in a library after that is cut off.
        threading.Event().wait(limit_s)
        os._exit(1)
