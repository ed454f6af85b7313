"""The audit trail of one process: events in at once, durable lines out of a thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from imaging_node.domain.audit import SERIOUS_FAILURE, AlertKind, AuditEvent, AuditKind
from imaging_node.domain.errors import StorageError
from imaging_node.store.audit_log import AuditEntry, AuditLog
from imaging_node.store.audit_message import AuditSource, audit_xml
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Equal refusals within this time are one message with a count.
FOLD_S = 1.0
# Different refusals within it; what exceeds them shares one message. An attacker who varies
# everything it can writes some 16 kB a second.
DIFFERENT_REFUSALS = 16
# Events that wait while the log cannot be written; later ones are counted.
WAITING_EVENTS = 10_000
_LINES_AT_A_TIME = 500
_RETRY_S = 1.0
_CLOSE_LIMIT_S = 5.0

_Key = tuple[AuditKind, int, AlertKind, str, str]
_ALL_OTHERS = "too many different refusals at a time to name each"


@dataclass(slots=True)
class _Fold:
    """Repeats of one refusal since its last message."""

    latest: AuditEvent
    ends_at_s: float
    count: int = 0


class AuditTrail:
    """Owns the thread that writes events to the log; a full disk or a flood never holds it up.

    A process that is killed loses what it recorded within the last commit, some milliseconds,
    and the count of the repeats of the last second. Events recorded with `is_durable` and all
    events of a process that closes its trail are in the log.
    """

    def __init__(self, audit_log: AuditLog, source: AuditSource, *, role: str) -> None:
        """Start the thread.

        Args:
            audit_log: The log that all roles share.
            source: What the messages call this process.
            role: Name of the role in the log and in lines about lost events.
        """
        self._log = audit_log
        self._source = source
        self._role = role
        self._changed = threading.Condition()
        self._waiting: deque[AuditEvent] = deque()
        self._folds: dict[_Key, _Fold] = {}
        self._taken = 0
        self._written = 0
        self._lost = 0
        self._is_closing = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    def record(self, event: AuditEvent, *, is_durable: bool = False, limit_s: float = 5) -> bool:
        """Take one event; returns at once unless `is_durable`.

        Args:
            is_durable: Return when the event is on the disk, after `limit_s` at the latest.

        Returns:
            Whether the event is known to be on the disk.
        """
        with self._changed:
            if not (event.is_refusal and self._is_folded(event)):
                self._enqueue(event)
            self._changed.notify_all()
        return self.flush(limit_s) if is_durable else False

    def flush(self, limit_s: float) -> bool:
        """Wait until all events so far are on the disk, for `limit_s` at the longest.

        Returns:
            Whether they are.
        """
        with self._changed:
            self._end_folds(float("inf"))
            self._changed.notify_all()
            target = self._taken
            return self._changed.wait_for(lambda: self._written >= target, timeout=limit_s)

    def close(self) -> None:
        """Write what waits, then end the thread; events are lost only when the disk fails."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout=_CLOSE_LIMIT_S)
        with self._changed:
            lost = len(self._waiting) + self._lost
        if lost:
            log(Event.AUDIT_LOST, role=self._role, count=lost)

    def _is_folded(self, event: AuditEvent) -> bool:
        """Count a repeat; False when it is the first of its kind and must be written."""
        key = (event.kind, event.outcome, event.alert, event.peer_address, event.reason)
        if key not in self._folds and len(self._folds) >= DIFFERENT_REFUSALS:
            event = replace(event, peer_address="", peer_ae_title="", reason=_ALL_OTHERS)
            key = (event.kind, event.outcome, event.alert, "", _ALL_OTHERS)
        fold = self._folds.get(key)
        if fold is None:
            self._folds[key] = _Fold(latest=event, ends_at_s=time.monotonic() + FOLD_S)
            if event.reason != _ALL_OTHERS:
                return False
            fold = self._folds[key]
        fold.latest = event
        fold.count += event.count
        return True

    def _end_folds(self, now_s: float) -> None:
        """Enqueue the repeats of each time that is over."""
        for key, fold in list(self._folds.items()):
            if fold.ends_at_s > now_s:
                continue
            if not fold.count:
                del self._folds[key]
                continue
            self._enqueue(replace(fold.latest, count=fold.count))
            fold.count = 0
            fold.ends_at_s = time.monotonic() + FOLD_S

    def _enqueue(self, event: AuditEvent) -> None:
        if len(self._waiting) >= WAITING_EVENTS:
            self._lost += event.count
            return
        self._waiting.append(event)
        self._taken += 1

    def _write_all(self) -> None:
        for batch, lost in self._batches():
            events = [*([self._loss(lost)] if lost else []), *batch]
            try:
                self._log.append([self._entry(event) for event in events])
            except StorageError as error:
                self._say_failing(error)
                with self._changed:
                    self._changed.wait(timeout=_RETRY_S)
                    if self._is_closing:
                        return
                continue
            if self._is_failing:
                self._is_failing = False
                log(Event.AUDIT_WRITTEN, role=self._role, count=len(batch))
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
                self._written += len(batch)
                self._lost -= lost
                self._changed.notify_all()

    def _batches(self) -> Iterator[tuple[Sequence[AuditEvent], int]]:
        """What is to be written next, again until it was taken off; ends with the trail."""
        while True:
            with self._changed:
                while not self._waiting and not self._is_closing:
                    self._changed.wait(timeout=self._until_next_fold())
                    self._end_folds(time.monotonic())
                self._end_folds(float("inf") if self._is_closing else time.monotonic())
                if not self._waiting:
                    return
                batch = [
                    self._waiting[index]
                    for index in range(min(len(self._waiting), _LINES_AT_A_TIME))
                ]
                lost = self._lost
            yield batch, lost

    def _until_next_fold(self) -> float | None:
        ends = [fold.ends_at_s for fold in self._folds.values()]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _say_failing(self, error: StorageError) -> None:
        if not self._is_failing:
            self._is_failing = True
            log(Event.AUDIT_NOT_WRITTEN, role=self._role, reason=str(error))

    def _loss(self, lost: int) -> AuditEvent:
        return AuditEvent(
            kind=AuditKind.SECURITY_ALERT,
            alert=AlertKind.RECORDING_STOPPED,
            occurred_at=datetime.now(UTC),
            outcome=SERIOUS_FAILURE,
            role=self._role,
            reason="events lost while the audit log could not be written",
            count=lost,
        )

    def _entry(self, event: AuditEvent) -> AuditEntry:
        return AuditEntry(
            occurred_at=event.occurred_at.astimezone(UTC).isoformat(timespec="microseconds"),
            role=self._role,
            pid=self._source.pid,
            xml=audit_xml(event, self._source),
        )
