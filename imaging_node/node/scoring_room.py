"""Open and close what scoring needs: models, decoders, database and spool."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.decoding_budget import DecodingBudget
from imaging_node.domain.priority import TriageRule
from imaging_node.flow.group_commit import GroupCommit
from imaging_node.flow.lineup import Lineup
from imaging_node.flow.scoring import ScoringRoom
from imaging_node.node.foreign_models import serve_foreign
from imaging_node.node.installed import read_node_decisions
from imaging_node.node.model_watch import note_model, note_state
from imaging_node.node.models import ModelLoader, closed_on_failure, require_findings
from imaging_node.node.serving import LOADED, serve_models
from imaging_node.node.wiring import node_identity, now, open_state
from imaging_node.store.answers import finish_studies
from imaging_node.store.model_states import note_faults

if TYPE_CHECKING:
    from collections.abc import Container

    from imaging_node.domain.model_state import ModelState
    from imaging_node.settings import Settings
    from imaging_node.store.model_states import ModelDecisions
    from imaging_node.telemetry import Counters


def open_scoring_room(
    settings: Settings,
    counters: Counters,
    *,
    loader: ModelLoader | None = None,
    decisions: ModelDecisions | None = None,
    states: Container[ModelState] = LOADED,
    model_settings: Settings | None = None,
) -> ScoringRoom:
    """Load the models and start the decoders.

    Args:
        loader: Loads them, and is closed when that fails; None: one of its own.
        decisions: What was decided about models; None: what the node's database says.
        states: Of the models that are loaded.
        model_settings: Of the node that has the models; None: `settings`.

    Raises:
        BundleError: A primary bundle is not what its manifest says.
        SettingsError: A setting does not fit its bundle.
        StorageError: The state directory cannot be used.
    """
    if decisions is None:
        decisions = read_node_decisions(settings)
    if loader is None:
        loader = ModelLoader(settings, counters)
    with closed_on_failure(loader):
        models, faults = serve_models(model_settings or settings, decisions, loader, states=states)
        require_findings(settings, models)
    foreign, foreign_faults = serve_foreign(model_settings or settings, decisions, states=states)
    for model in models:
        note_model(model, counters)
    for each in foreign:
        note_state(each)
    database, spool, pseudonyms = open_state(settings)
    if decisions.rows and model_settings is None:
        note_faults(database, faults | foreign_faults)
    return ScoringRoom(
        database=database,
        spool=spool,
        pseudonyms=pseudonyms,
        lineup=Lineup(models, foreign),
        batcher=loader.batcher,
        decoder=open_decoders(settings),
        node=node_identity(settings),
        site_rules=site_rules(settings),
        finishing=GroupCommit(
            partial(finish_studies, database, destinations=settings.destinations)
        ),
        answer_not_applicable=settings.answer_not_applicable,
        counters=counters,
        clock=now,
        capture_long_side=settings.results.capture_long_side,
    )


def close_scoring_room(room: ScoringRoom) -> None:
    """Stop the decoders and the launches."""
    room.decoder.close()
    room.batcher.close()
    room.database.close()


def open_decoders(settings: Settings) -> DecodingPool:
    """Start the decoders as the settings say."""
    decoding = settings.decoding
    return DecodingPool(
        processes=settings.scoring.decoders,
        memory_limit_bytes=settings.scoring.decoder_memory_mib * 1024 * 1024,
        time_limit_s=settings.scoring.decode_limit_s,
        budget=DecodingBudget(
            frame_samples=decoding.max_frame_samples,
            object_samples=decoding.max_object_samples,
            header_bytes=decoding.max_header_mib * 1024 * 1024,
            elements=decoding.max_elements,
            nesting=decoding.max_nesting,
            inflated_bytes=decoding.max_inflated_mib * 1024 * 1024,
        ),
    )


def site_rules(settings: Settings) -> tuple[TriageRule, ...]:
    """The triage rules of the site."""
    return tuple(
        TriageRule(
            finding=rule.finding,
            minimum_probability=rule.minimum_probability,
            priority=rule.priority,
        )
        for rule in settings.priority.rules
    )
