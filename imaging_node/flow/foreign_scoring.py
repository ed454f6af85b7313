"""Foreign bundles beside the node's own models: they come last, and fail alone."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imaging_node.domain.errors import (
    BundleError,
    IdentityHeldError,
    IntegrityError,
    TemporaryError,
)
from imaging_node.domain.finding import AnalysisStatus, NotAnalysedReason
from imaging_node.domain.foreign_result import LabelSummary, summarise
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.model_state import ModelState
from imaging_node.flow.answering import BuiltAnswer
from imaging_node.flow.foreign_analysis import ForeignAnswer, analyse_foreign, decline_foreign
from imaging_node.flow.foreign_answering import build_foreign_answer
from imaging_node.store.shadow_results import ShadowResult
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from imaging_node.domain.study import Study
    from imaging_node.flow.lineup import ServedForeign
    from imaging_node.flow.scoring import ScoringRoom
    from imaging_node.store.answers import Ending
    from imaging_node.store.claims import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltForeign:
    """A foreign bundle's answer that leaves the node."""

    answer: ForeignAnswer
    built: BuiltAnswer


def build_foreign_answers(
    study: Study,
    room: ScoringRoom,
    models: Sequence[ServedForeign],
    *,
    started_at: datetime,
    is_suspect: bool,
    is_alone: bool,
) -> list[BuiltForeign]:
    """What every foreign bundle that answers says of a study, as objects.

    A bundle that fails, hangs or is refused gives a report "not analysed" of its own.

    Args:
        is_suspect: Workers died over the study: nothing of it is run.
        is_alone: No model of the node has an answer that a fault of the study could be kept from.

    Raises:
        IdentityHeldError, IntegrityError: The study is at fault, and there is no other answer.
        StorageError: The database cannot be used.
    """
    found = []
    for served in models:
        if not served.answers(study.study_instance_uid):
            continue
        try:
            answer = _answer(study, room, served, started_at, is_suspect=is_suspect)
            if answer is None:
                continue
            built = build_foreign_answer(answer, study, room.database, room.node, clock=room.clock)
        except (IdentityHeldError, IntegrityError) as error:
            if is_alone:
                raise
            # Headers that cannot be believed give no report; the others' are of other images.
            _note(served, room, study, str(error))
            continue
        found.append(BuiltForeign(answer=answer, built=built))
    return found


def with_foreign(ending: Ending, found: Sequence[BuiltForeign]) -> Ending:
    """The ending of a study that foreign bundles answered, too: no finding and no priority."""
    if not found:
        return ending
    results = [each.answer.result for each in found]
    state = ending.state
    if state is StudyState.NOT_APPLICABLE:
        is_analysed = any(each.status is not AnalysisStatus.NOT_ANALYSED for each in results)
        state = StudyState.DONE if is_analysed else StudyState.NOT_ANALYSED
    said = [
        f"{each.model.name} {each.model.version}, from elsewhere: {each.status}; it calls nothing"
        " present or absent."
        for each in results
    ]
    reasons = [f"{each.model.name}: {reason}" for each in results for reason in each.reasons]
    return replace(
        ending,
        state=state,
        reason="; ".join(dict.fromkeys([*([ending.reason] if ending.reason else []), *reasons])),
        remarks=tuple(dict.fromkeys([*ending.remarks, *said])),
    )


def foreign_shadow_result(
    claim: Claim, study: Study, served: ServedForeign, room: ScoringRoom
) -> ShadowResult | None:
    """What a foreign bundle in shadow says, kept as sums; None when it is not meant for the study.

    Its masks are not kept.
    """
    begun_s = time.monotonic()
    now = room.clock()
    status, reason = AnalysisStatus.NOT_ANALYSED, ""
    labels: tuple[LabelSummary, ...] = ()
    try:
        answer = _answer(study, room, served, now, is_suspect=False)
        if answer is None:
            return None
        status, reason = answer.result.status, "; ".join(answer.result.reasons)
        labels = summarise(answer.result)
    except (IdentityHeldError, IntegrityError) as error:
        reason = str(error)
    identity = served.model.bundle.identity
    return ShadowResult(
        study_instance_uid=claim.study_instance_uid,
        generation=claim.generation,
        model=identity.name,
        version=identity.version,
        model_digest=identity.digest,
        settings_digest=served.model.settings_digest,
        is_delivered=False,
        status=status,
        reason=reason,
        findings=(),
        labels=labels,
        priority=claim.ordered_priority,
        duration_ms=round((time.monotonic() - begun_s) * 1000),
        recorded_at=now,
    )


def _answer(
    study: Study,
    room: ScoringRoom,
    served: ServedForeign,
    started_at: datetime,
    *,
    is_suspect: bool,
) -> ForeignAnswer | None:
    """The bundle's answer, "not analysed" when it is at fault."""
    if is_suspect:
        return decline_foreign(
            study, served.model, NotAnalysedReason.SOFTWARE, started_at=started_at
        )
    try:
        answer = analyse_foreign(study, served.model, room.decoder, started_at=started_at)
    except (BundleError, TemporaryError) as error:
        # Not tried again: the answers of the others would wait for it.
        _note(served, room, study, str(error))
        answer = decline_foreign(
            study, served.model, NotAnalysedReason.SOFTWARE, started_at=started_at
        )
    if answer is None or served.state is not ModelState.CANARY:
        return answer
    version, share = answer.result.model.version, served.share
    remark = f"Version {version} on trial: it answers {share:.3g} of all studies."
    result = replace(answer.result, remarks=(*answer.result.remarks, remark))
    return replace(answer, result=result)


def _note(served: ServedForeign, room: ScoringRoom, study: Study, reason: str) -> None:
    log(
        Event.FOREIGN_FAILED,
        model=served.bundle,
        study=room.pseudonyms.token(study.study_instance_uid),
        reason=reason,
    )
