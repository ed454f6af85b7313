"""Score a study with the models in shadow, after its answer is recorded: compared, never sent."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaging_node.domain.errors import OperatorError, TemporaryError
from imaging_node.domain.finding import AnalysisStatus
from imaging_node.domain.priority import triage
from imaging_node.domain.study import Study
from imaging_node.flow.analysis import Effort, analyse
from imaging_node.flow.foreign_scoring import foreign_shadow_result
from imaging_node.flow.lineup import Hold, ServedForeign, ServedModel
from imaging_node.inference.lanes import ARCHIVE
from imaging_node.store.claims import Claim
from imaging_node.store.shadow_results import ShadowResult, record_shadow_results
from imaging_node.telemetry import Metric

if TYPE_CHECKING:
    from datetime import datetime

    from imaging_node.domain.finding import StudyResult
    from imaging_node.flow.analysis import ConfiguredModel
    from imaging_node.flow.scoring import ScoringRoom

_OWNER = "shadow "


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowWork:
    """An answered study that models in shadow are still to look at.

    Attributes:
        delivered: What was answered, to compare with.
        models: Those that did not answer.
        foreign: Foreign bundles whose answers do not leave the node; they come last.
        hold: Keeps them loaded; whoever ends the work releases it.
    """

    claim: Claim
    study: Study
    delivered: tuple[ShadowResult, ...]
    models: tuple[ServedModel, ...]
    hold: Hold
    foreign: tuple[ServedForeign, ...] = ()


def shadow_owner(bundle: str) -> str:
    """What a launch of a bundle in shadow calls its owner."""
    return f"{_OWNER}{bundle}"


def bundle_of_owner(owner: str) -> str:
    """The bundle in shadow behind an owner; "" for a claim's token."""
    return owner.removeprefix(_OWNER) if owner.startswith(_OWNER) else ""


def score_in_shadow(work: ShadowWork, room: ScoringRoom) -> None:
    """Score with every model of the work, and keep the results beside what was answered.

    Raises:
        StorageError: They could not be kept.
    """
    results = list(work.delivered)
    for served in work.models:
        _keep(results, _result(work, served, room), room)
    if len(results) > len(work.delivered):
        record_shadow_results(room.database, results)
    # One by one: each may take minutes, and nothing before it waits for it.
    for foreign in work.foreign:
        kept: list[ShadowResult] = []
        _keep(kept, foreign_shadow_result(work.claim, work.study, foreign, room), room)
        if kept:
            record_shadow_results(room.database, kept)


def _keep(results: list[ShadowResult], result: ShadowResult | None, room: ScoringRoom) -> None:
    if result is not None:
        results.append(result)
        room.counters.add(
            Metric.SHADOW_RESULTS, model=result.model, status=result.status.replace(" ", "_")
        )


def _result(work: ShadowWork, served: ServedModel, room: ScoringRoom) -> ShadowResult | None:
    """What one model says; None when it is not meant for the study."""
    begun_s = time.monotonic()
    now = room.clock()
    effort = Effort(lane=ARCHIVE, deadline_s=math.inf, owner=shadow_owner(served.bundle))
    try:
        answer = analyse(work.study, served.model, room.decoder, effort=effort, started_at=now)
    except (OperatorError, TemporaryError) as error:
        return shadow_result(work.claim, served.model, None, room, now=now, reason=str(error))
    if answer is None:
        return None
    return shadow_result(
        work.claim,
        served.model,
        answer.result,
        room,
        now=now,
        duration_ms=round((time.monotonic() - begun_s) * 1000),
    )


def shadow_result(
    claim: Claim,
    model: ConfiguredModel,
    result: StudyResult | None,
    room: ScoringRoom,
    *,
    now: datetime,
    reason: str = "",
    is_delivered: bool = False,
    duration_ms: int = 0,
) -> ShadowResult:
    """The row of one model's answer; `result` is None when there was none, for a `reason`."""
    identity = model.bundle.identity
    findings = () if result is None else result.findings
    rules = (*model.bundle.triage_rules, *room.site_rules)
    return ShadowResult(
        study_instance_uid=claim.study_instance_uid,
        generation=claim.generation,
        model=identity.name,
        version=identity.version,
        model_digest=identity.digest,
        settings_digest=model.settings_digest,
        is_delivered=is_delivered,
        status=AnalysisStatus.NOT_ANALYSED if result is None else result.status,
        reason=reason if result is None else "; ".join(result.reasons),
        findings=tuple(each for each in findings if each.probability is not None),
        priority=triage(claim.ordered_priority, findings, rules).priority,
        duration_ms=duration_ms,
        recorded_at=now,
    )
