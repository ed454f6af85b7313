"""Score one claimed study: read it, analyse it, record the answer in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.report_writer import ReportWriter
from imaging_node.domain.errors import (
    DurabilityError,
    OperatorError,
    StorageError,
    TemporaryError,
)
from imaging_node.domain.finding import AnalysisStatus, NotAnalysedReason
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import TriageDecision, TriageRule, triage
from imaging_node.domain.result_object import NodeIdentity
from imaging_node.flow.analysis import ModelAnswer, analyse, decline, effort_for
from imaging_node.flow.answering import build_answer
from imaging_node.flow.foreign_scoring import build_foreign_answers, with_foreign
from imaging_node.flow.group_commit import GroupCommit
from imaging_node.flow.lineup import Hold, Lineup, candidates
from imaging_node.flow.shadowing import ShadowWork, shadow_result
from imaging_node.inference.batching import Batcher
from imaging_node.store.answers import Ending, Finished
from imaging_node.store.arrivals import read_study
from imaging_node.store.claims import Claim, retry_study_later
from imaging_node.store.database import Database
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Counters, Event, Metric, Pseudonyms, log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.result_object import ResultObject
    from imaging_node.domain.study import Study
    from imaging_node.flow.lineup import ServedModel

# A study that was in work each time its worker died is answered without being analysed ...
ATTEMPTS_BEFORE_DECLINING = 3
# ... and when even that kills the worker, it ends as failed.
ATTEMPTS_BEFORE_FAILING = 5
# With these it is not the image: a canary that meets one leaves the answer to the primary.
_MODELS_OWN_FAULT = frozenset({NotAnalysedReason.SOFTWARE, NotAnalysedReason.MODEL_OUTPUT})
_LONGEST_BACKOFF_S = 60.0
_STORAGE_WAIT_S = 10.0
_OTHERS_FAULT_WAIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRoom:
    """What scoring a study needs.

    Attributes:
        site_rules: Triage rules of the settings, beside the bundles' own.
        finishing: Records the endings of all studies that are done at the same moment.
        lineup: The models that serve, and in which state.
        batcher: Runs the launches of all of them.
        on_answer: Called with each answer before it is encoded, e.g. to keep its maps.
        on_recorded: Called once an answer is recorded while models are in shadow: takes the work
            that is left, and releases its hold.
        capture_long_side: Of the image in a capture, in pixels.
        reports: Encodes the reports of all studies.
    """

    database: Database
    spool: Spool
    pseudonyms: Pseudonyms
    lineup: Lineup
    batcher: Batcher
    decoder: DecodingPool
    node: NodeIdentity
    site_rules: tuple[TriageRule, ...]
    finishing: GroupCommit[Finished, bool]
    answer_not_applicable: bool
    counters: Counters
    clock: Callable[[], datetime]
    on_answer: Callable[[ModelAnswer], None] | None = None
    on_recorded: Callable[[ShadowWork], None] | None = None
    capture_long_side: int = 1024
    reports: ReportWriter = field(default_factory=ReportWriter)


def score_study(claim: Claim, room: ScoringRoom) -> None:
    """Bring one claimed study to an end, or give it back to the queue.

    Every foreseen failure is an answer, a visible state or a later attempt; what is not
    foreseen is the caller's, who tries again until the attempts are spent.

    Raises:
        StorageError: The database could not be written; the lease will end by itself.
    """
    started_at = room.clock()
    log(
        Event.STUDY_CLAIMED,
        study=room.pseudonyms.token(claim.study_instance_uid),
        generation=claim.generation,
        attempts=claim.attempts,
    )
    with room.lineup.hold() as hold:
        _answer_study(claim, room, hold, started_at)


def _answer_study(claim: Claim, room: ScoringRoom, hold: Hold, started_at: datetime) -> None:
    shadow: ShadowWork | None = None
    try:
        ending, shadow = _ending(claim, room, hold, started_at)
    except TemporaryError as error:
        give_back(
            claim,
            room,
            reason=str(error),
            wait_s=None if error.is_counted else _OTHERS_FAULT_WAIT_S,
        )
        return
    except DurabilityError:
        raise  # the process must end: what it wrote may not be what the disk holds
    except StorageError as error:
        # A full disk is no fault of the study: it waits, and no attempt is counted.
        give_back(claim, room, reason=str(error), wait_s=_STORAGE_WAIT_S)
        return
    except OperatorError as error:
        ending = _without_answer(claim, StudyState.FAILED, str(error))
    finished_at = room.clock()
    finished = Finished(claim=claim, ending=ending, finished_at=finished_at)
    is_recorded = room.finishing.submit(lambda: finished)
    log(
        Event.STUDY_ENDED if is_recorded else Event.STUDY_RESULT_DROPPED,
        study=room.pseudonyms.token(claim.study_instance_uid),
        generation=claim.generation,
        state=ending.state,
        priority=ending.decision.priority,
        objects=len(ending.objects),
        seconds=round((finished_at - started_at).total_seconds(), 3),
    )
    if not is_recorded:
        return
    room.counters.add(Metric.STUDIES, state=ending.state)
    if shadow is not None and room.on_recorded is not None:
        room.on_recorded(replace(shadow, hold=hold.again()))


def give_back(claim: Claim, room: ScoringRoom, *, reason: str, wait_s: float | None = None) -> None:
    """Queue a claimed study again.

    Args:
        wait_s: When it is due; its attempt does not count then. None: the attempt counts, and it
            is due later with each.
    """
    is_counted = wait_s is None
    if wait_s is None:
        wait_s = min(_LONGEST_BACKOFF_S, 2.0**claim.attempts)
    now = room.clock()
    retry_study_later(
        room.database,
        claim,
        reason=reason,
        now=now,
        due_at=now + timedelta(seconds=wait_s),
        attempts=claim.attempts if is_counted else claim.attempts - 1,
    )
    log(
        Event.STUDY_RETRY,
        study=room.pseudonyms.token(claim.study_instance_uid),
        attempts=claim.attempts,
        wait_s=wait_s,
        reason=reason,
    )


def _ending(
    claim: Claim, room: ScoringRoom, hold: Hold, started_at: datetime
) -> tuple[Ending, ShadowWork | None]:
    """How the study ends, and what is left for models in shadow."""
    if claim.attempts > ATTEMPTS_BEFORE_FAILING:
        reason = "its worker failed each time, even while declining it"
        return _without_answer(claim, StudyState.FAILED, reason), None
    study = read_study(room.database, room.spool, claim.study_instance_uid)
    answered = _answers(claim, study, room, hold.models, started_at)
    answers = [answer for _, answer in answered]
    # A study over which workers died is not looked at again.
    is_suspect = claim.attempts > ATTEMPTS_BEFORE_DECLINING
    shadow = None if is_suspect else _shadow_work(claim, study, room, hold, answered)
    kept: list[tuple[ResultObject, str]] = []
    reports: list[tuple[str, str, ResultObject]] = []
    starts: dict[str, datetime] = {}
    for answer in answers:
        if room.on_answer is not None:
            room.on_answer(answer)
        built = build_answer(
            answer,
            study,
            room.database,
            room.node,
            reports=room.reports,
            capture_long_side=room.capture_long_side,
            clock=room.clock,
        )
        kept += [(each, room.spool.write(each.payload)) for each in built.objects]
        starts |= built.series_started_at
        identity = answer.result.model
        reports.append((identity.name, identity.digest, built.objects[-1]))
    foreign = build_foreign_answers(
        study,
        room,
        hold.foreign,
        started_at=started_at,
        is_suspect=is_suspect,
        is_alone=not answers,
    )
    for each in foreign:
        objects = each.built.objects
        kept += [(item, room.spool.write(item.payload)) for item in objects]
        starts |= each.built.series_started_at
        identity = each.answer.result.model
        reports.append((identity.name, identity.digest, objects[-1]))
    if answers:
        ending = _with_answers(claim, answers, room)
    else:
        reason = "" if foreign else f"no model is meant for it ({_modalities(study)})"
        ending = _without_answer(claim, StudyState.NOT_APPLICABLE, reason)
    ending = replace(
        with_foreign(ending, foreign),
        objects=tuple(kept),
        answers=tuple(reports),
        series_started_at=starts,
        observed=tuple(each for answer in answers for each in answer.observed),
    )
    return ending, shadow


def _answers(
    claim: Claim,
    study: Study,
    room: ScoringRoom,
    models: Sequence[ServedModel],
    started_at: datetime,
) -> list[tuple[ServedModel, ModelAnswer]]:
    """One answer for every model name that is meant for the study, and who gave it."""
    answers: list[tuple[ServedModel, ModelAnswer]] = []
    turns = candidates(models, study.study_instance_uid, attempts=claim.attempts)
    for turn in turns:
        answered = _first_answer(claim, study, room, turn, started_at)
        if answered is not None:
            answers.append(answered)
            served, answer = answered
            room.counters.add(Metric.SCORED_IMAGES, len(answer.analyses), model=served.name)
    if answers or not turns or not room.answer_not_applicable:
        return answers
    first = turns[0][-1]
    reason = NotAnalysedReason.NO_ELIGIBLE_IMAGE
    declined = decline(study, first.model, reason, started_at=started_at, only_meant=False)
    return [(first, declined)] if declined else []


def _first_answer(
    claim: Claim,
    study: Study,
    room: ScoringRoom,
    turn: Sequence[ServedModel],
    started_at: datetime,
) -> tuple[ServedModel, ModelAnswer] | None:
    """The answer of the first model in turn that works, or of the last."""
    answered: tuple[ServedModel, ModelAnswer] | None = None
    for served in turn:
        if claim.attempts > ATTEMPTS_BEFORE_DECLINING:
            reason = NotAnalysedReason.SOFTWARE
            answer = decline(study, served.model, reason, started_at=started_at, only_meant=True)
        else:
            effort = effort_for(claim, started_at=started_at)
            answer = analyse(
                study, served.model, room.decoder, effort=effort, started_at=started_at
            )
        if answer is None:
            continue
        answered = (served, answer)
        if not _MODELS_OWN_FAULT.intersection(answer.result.reasons):
            break
    return answered


def _shadow_work(
    claim: Claim,
    study: Study,
    room: ScoringRoom,
    hold: Hold,
    answered: Sequence[tuple[ServedModel, ModelAnswer]],
) -> ShadowWork | None:
    """What models that did not answer have still to look at."""
    bundles = {served.bundle for served, _ in answered}
    others = tuple(each for each in hold.models if each.bundle not in bundles)
    foreign = tuple(each for each in hold.foreign if not each.answers(study.study_instance_uid))
    if not (others or foreign) or room.on_recorded is None:
        return None
    return ShadowWork(
        claim=claim,
        study=study,
        delivered=tuple(
            shadow_result(
                claim, served.model, answer.result, room, now=room.clock(), is_delivered=True
            )
            for served, answer in answered
        ),
        models=others,
        foreign=foreign,
        hold=hold,
    )


def _with_answers(claim: Claim, answers: Sequence[ModelAnswer], room: ScoringRoom) -> Ending:
    results = [answer.result for answer in answers]
    analysed = [each for each in results if each.status is not AnalysisStatus.NOT_ANALYSED]
    findings = tuple(
        # Two models may have a finding of the same name.
        replace(score, model=result.model.name, model_digest=result.model.digest)
        for result in results
        for score in result.findings
    )
    rules = (*(rule for answer in answers for rule in answer.triage_rules), *room.site_rules)
    reasons = [reason for result in results for reason in result.reasons]
    if analysed:
        state = StudyState.DONE
    elif any(answer.is_meant for answer in answers):
        state = StudyState.NOT_ANALYSED
    else:
        state = StudyState.NOT_APPLICABLE
    return Ending(
        state=state,
        reason="; ".join(dict.fromkeys(reasons)),
        decision=_never_lower(claim, triage(claim.ordered_priority, findings, rules)),
        findings=findings if analysed else (),
        remarks=tuple(dict.fromkeys(remark for result in results for remark in result.remarks)),
    )


def _without_answer(claim: Claim, state: StudyState, reason: str) -> Ending:
    return Ending(
        state=state,
        reason=reason,
        decision=_never_lower(
            claim, TriageDecision(priority=claim.ordered_priority, reason="as ordered")
        ),
    )


def _never_lower(claim: Claim, decision: TriageDecision) -> TriageDecision:
    """Keep what an earlier answer has raised: a later one may only add to it."""
    if claim.shown_priority.urgency > decision.priority.urgency:
        return TriageDecision(priority=claim.shown_priority, reason=claim.priority_reason)
    return decision


def _modalities(study: Study) -> str:
    return ", ".join(sorted({each.modality or "no modality" for each in study.instances}))
