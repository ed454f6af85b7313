"""The thread of the score role that watches its models."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from imaging_node.domain.errors import DurabilityError, StorageError
from imaging_node.flow.stop_rule import apply_stop_rule
from imaging_node.flow.watching import WatchingRoom, forget_old, watch_models
from imaging_node.store.labels import count_labels, labelled_cases
from imaging_node.store.model_states import decided_at
from imaging_node.store.watches import list_alarms, list_watched
from imaging_node.telemetry import Event, log, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from imaging_node.domain.watching import LabelledCase
    from imaging_node.flow.scoring import ScoringRoom
    from imaging_node.flow.stop_rule import Demote
    from imaging_node.inference.declaration import DeclaredMonitoring
    from imaging_node.settings import Settings
    from imaging_node.settings.watching import WatchingSettings

# Of several score processes one watches for all.
WATCHING_PROCESS = "score"
# Looks at new studies between two removals of old ones.
_FORGET_EVERY = 360


class DriftThread:
    """Owns the thread; it only reads what models saw, and never holds up a study."""

    def __init__(
        self,
        settings: WatchingSettings,
        room: WatchingRoom,
        answering_since: Callable[[], Mapping[str, datetime | None]],
        demote: Demote,
        on_storage: Callable[[StorageError], None],
    ) -> None:
        """Take what the thread works with.

        Args:
            settings: The site's.
            room: Database and references.
            answering_since: When the state of each model that answers was decided, by digest;
                None of one that never was changed.
            demote: What the stop rule calls.
            on_storage: Called with what the database raised.
        """
        self._settings = settings
        self._room = room
        self._answering_since = answering_since
        self._demote = demote
        self._on_storage = on_storage
        self._is_over = threading.Event()
        self._judged_labels = -1
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(timeout=5)

    def look(self) -> None:
        """Judge what is new, and stop a model if the rule says so.

        Raises:
            StorageError: The database could not be used.
        """
        database, rule = self._room.database, self._settings.stop_rule
        watch_models(self._room)
        if not rule.is_on:
            return
        alarms = list_alarms(database, only_on=True)
        given = count_labels(database)
        if not alarms and given == self._judged_labels:
            return
        cases = self._cases() if rule.lowest_ppv is not None else []
        apply_stop_rule(rule, list_watched(database), cases, alarms, self._demote)
        self._judged_labels = given

    def _cases(self) -> list[LabelledCase]:
        """What labels say of each model that answers, since it does.

        A model that was stopped and is in service again is judged on what came after: whoever
        promoted it knew what was before.
        """
        cases: list[LabelledCase] = []
        for digest, since in self._answering_since().items():
            given = labelled_cases(self._room.database, since=since)
            cases += [each for each in given if each.model_digest == digest]
        return cases

    def _run(self) -> None:
        looks = 0
        while not self._is_over.wait(self._settings.every_s):
            try:
                self.look()
                if not looks % _FORGET_EVERY:
                    forget_old(
                        self._room.database,
                        now=self._room.clock(),
                        keep_days=self._settings.keep_days,
                        keep_images=self._settings.keep_images,
                    )
                looks += 1
            except StorageError as error:
                self._on_storage(error)
                if isinstance(error, DurabilityError):
                    return
            except Exception as error:  # noqa: BLE001 - top of the thread's loop
                log(
                    Event.THREAD_FAILED,
                    role="score",
                    error=type(error).__name__,
                    where=place_of(error.__traceback__),
                )


def open_drift_thread(
    settings: Settings,
    room: ScoringRoom,
    on_storage: Callable[[StorageError], None],
    *,
    demote: Demote,
) -> DriftThread:
    """The thread for the models of a scoring room that answer."""

    def references() -> dict[str, DeclaredMonitoring | None]:
        scorers = [each.model.scorer for each in room.lineup.models if each.state.may_answer]
        return {each.bundle.identity.digest: each.monitoring for each in scorers}

    def answering_since() -> dict[str, datetime | None]:
        decided = decided_at(room.database)
        return {
            each.model.bundle.identity.digest: decided.get(each.bundle)
            for each in room.lineup.models
            if each.state.may_answer
        }

    watching = WatchingRoom(
        database=room.database,
        references=references,
        baseline=settings.watching.reference_studies,
        clock=room.clock,
    )
    return DriftThread(settings.watching, watching, answering_since, demote, on_storage)
