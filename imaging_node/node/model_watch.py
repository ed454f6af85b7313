"""Notices that somebody changed the models, and changes those that serve, between studies."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from imaging_node.domain.errors import ImagingNodeError
from imaging_node.node.foreign_models import serve_foreign
from imaging_node.node.serving import LOADED, serve_models
from imaging_node.store.model_states import model_revision, note_faults, read_decisions
from imaging_node.telemetry import Event, Metric, log, place_of

if TYPE_CHECKING:
    from imaging_node.flow.lineup import Lineup, ServedForeign, ServedModel
    from imaging_node.node.models import ModelLoader
    from imaging_node.settings import Settings
    from imaging_node.store.database import Database
    from imaging_node.telemetry import Counters

_LOOK_S = 1.0


class ModelWatch:
    """Owns the thread that looks at the revision of the decisions about models.

    Models are loaded beside the studies at work, and take over with the next one.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        loader: ModelLoader,
        lineup: Lineup,
        counters: Counters,
        *,
        revision: int,
    ) -> None:
        """Prepare the thread.

        Args:
            revision: Of the decisions that the lineup rests on.
        """
        self._settings = settings
        self._database = database
        self._loader = loader
        self._lineup = lineup
        self._counters = counters
        self._revision = revision
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="model-watch", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()

    def look(self) -> bool:
        """Do what was decided since the last look; returns whether there was anything.

        Raises:
            StorageError, IntegrityError: The decisions cannot be read; what serves serves on.
        """
        if model_revision(self._database) == self._revision:
            return False
        decisions = read_decisions(self._database)
        former = self._lineup.models
        models, faults = serve_models(self._settings, decisions, self._loader, former=former)
        foreign, foreign_faults = serve_foreign(self._settings, decisions, states=LOADED)
        known_foreign = {(each.bundle, each.state, each.share) for each in self._lineup.foreign}
        self._lineup.change(models, foreign)
        self._revision = decisions.revision
        loaded = {id(each.model) for each in former}
        known = {(each.bundle, each.state, each.share) for each in former}
        for each in models:
            if id(each.model) not in loaded:
                note_model(each, self._counters)
            elif (each.bundle, each.state, each.share) not in known:
                note_state(each)
        for served in foreign:
            if (served.bundle, served.state, served.share) not in known_foreign:
                note_state(served)
        note_faults(self._database, faults | foreign_faults)
        return True

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            try:
                self.look()
            except ImagingNodeError as error:
                log(Event.DATABASE_FAILED, role="score", reason=str(error))
            except Exception as error:  # noqa: BLE001 - top of the watch's thread
                log(
                    Event.THREAD_FAILED,
                    role="score",
                    error=type(error).__name__,
                    where=place_of(error.__traceback__),
                )


def note_model(served: ServedModel, counters: Counters) -> None:
    """Say that a model serves, where it runs, and why not in a faster precision."""
    identity, opened = served.model.bundle.identity, served.model.scorer.opened
    counters.add(
        Metric.MODELS,
        model=identity.name,
        provider=opened.execution.provider,
        precision=opened.execution.precision,
    )
    note_state(served)
    if opened.refusal:
        log(Event.PRECISION_REFUSED, model=identity.name, reason=opened.refusal)


def note_state(served: ServedModel | ServedForeign) -> None:
    """Say in which state a model serves from now on."""
    identity = served.model.bundle.identity
    log(Event.MODEL_SERVES, model=identity.name, version=identity.version, state=served.state)
