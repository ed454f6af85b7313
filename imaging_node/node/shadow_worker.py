"""The thread that scores with models in shadow, after and beside the answers."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from imaging_node.domain.errors import StorageError
from imaging_node.flow.shadowing import score_in_shadow
from imaging_node.telemetry import Event, Metric, log, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.flow.scoring import ScoringRoom
    from imaging_node.flow.shadowing import ShadowWork

# Studies, not pixels, wait: they are decoded again. What exceeds it is not compared.
MOST_WAITING = 256
_LOOK_S = 0.05
_STOP_LIMIT_S = 5.0


class ShadowWorker:
    """Owns one thread, so that shadows take at most one decoder and no study's thread.

    What waits when the node stops is not compared: nothing else depends on it.
    """

    def __init__(self, room: ScoringRoom, has_urgent: Callable[[], bool]) -> None:
        """Prepare the thread.

        Args:
            room: Whose models, decoders and database are used.
            has_urgent: Whether an urgent study is in work: then shadows wait.
        """
        self._room = room
        self._has_urgent = has_urgent
        self._waiting: queue.Queue[ShadowWork] = queue.Queue(MOST_WAITING)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Work from now on."""
        self._thread.start()

    def take(self, work: ShadowWork) -> None:
        """Queue work; returns at once, and skips the study when too many wait."""
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            work.hold.release()
            self._room.counters.add(Metric.SHADOW_SKIPPED)
            log(
                Event.SHADOW_SKIPPED,
                study=self._room.pseudonyms.token(work.claim.study_instance_uid),
            )

    def stop(self) -> None:
        """End after the model at work."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_LIMIT_S)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                work = self._waiting.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            while self._has_urgent() and not self._is_over.wait(_LOOK_S):
                pass
            try:
                if not self._is_over.is_set():
                    score_in_shadow(work, self._room)
            except StorageError as error:
                log(Event.DATABASE_FAILED, role="score", reason=str(error))
            except Exception as error:  # noqa: BLE001 - top of the shadow's thread
                log(
                    Event.THREAD_FAILED,
                    role="score",
                    study=self._room.pseudonyms.token(work.claim.study_instance_uid),
                    error=type(error).__name__,
                    where=place_of(error.__traceback__),
                )
            finally:
                work.hold.release()
