"""What one model says about one study: select images, decode, gate, score, combine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import (
    AnalysisStatus,
    FindingScore,
    NotAnalysedReason,
    StudyResult,
)
from imaging_node.domain.image import DecodedImage
from imaging_node.domain.priority import ReadingPriority, TriageRule
from imaging_node.domain.study import LOSSY_SYNTAXES, UNKNOWN_RATIO, ImageInstance, select_images
from imaging_node.flow.observing import Observed, observe_refused, observe_scored
from imaging_node.inference.input_statistics import input_statistics
from imaging_node.inference.lanes import ARCHIVE, ROUTINE, STAT
from imaging_node.inference.scorer import ImageAnalysis, Scorer
from imaging_node.store.spool import require_unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from imaging_node.dicom.decoding import DecodingPool
    from imaging_node.domain.study import Study
    from imaging_node.inference.bundle import Bundle
    from imaging_node.store.claims import Claim

# Refused images that leave no gap beside a scored one: another view or another body part. Any
# other refused image is one that somebody should have looked at.
_NO_GAPS = frozenset({NotAnalysedReason.VIEW, NotAnalysedReason.BODY_PART})
_TARGETS_S = {
    ReadingPriority.STAT: 60.0,
    ReadingPriority.ASAP: 300.0,
    ReadingPriority.URGENT: 900.0,
    ReadingPriority.ROUTINE: 3600.0,
}
_FOR_PROCESSING = "FOR PROCESSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """With what precedence a study's images are scored.

    Attributes:
        lane: The batcher's.
        deadline_s: On the monotonic clock: orders it inside its lane.
        owner: Whose work it is, should a launch hang.
    """

    lane: int
    deadline_s: float
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredModel:
    """A loaded bundle and what the site decided about it.

    Attributes:
        waived: Eligibility rules that the site waived.
        remarks: The site's own operating points, in words, for the SR and the page.
        settings_digest: "sha256:..." over the settings that can change its results.
    """

    scorer: Scorer
    waived: frozenset[str]
    remarks: tuple[str, ...]
    settings_digest: str

    @property
    def bundle(self) -> Bundle:
        """The bundle behind the scorer."""
        return self.scorer.bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """One model's answer, with what is needed to show it.

    Attributes:
        sources: Images that the report names, the first gives the patient's identity.
        decoded: Pixels of images that answer for a finding called present, by SOP Instance UID.
        analyses: By SOP Instance UID.
        is_meant: False when the answer only says that no model is meant for the study.
        observed: Every image that the model is meant for, for watching it.
    """

    model: ConfiguredModel
    result: StudyResult
    sources: tuple[ImageInstance, ...]
    triage_rules: tuple[TriageRule, ...]
    decoded: dict[str, DecodedImage] = field(default_factory=dict)
    analyses: dict[str, ImageAnalysis] = field(default_factory=dict)
    is_meant: bool = True
    observed: tuple[Observed, ...] = ()


def analyse(
    study: Study,
    model: ConfiguredModel,
    decoder: DecodingPool,
    *,
    effort: Effort,
    started_at: datetime,
) -> ModelAnswer | None:
    """Score the study's eligible images.

    Returns:
        None when the model is not meant for the study. Otherwise an answer, which says
        "not analysed" when no image could be scored.

    Raises:
        IntegrityError: A file is not what was received.
        TemporaryError: The scorer is closing.
    """
    selection = select_images(study, model.bundle.eligibility, model.waived)
    if not selection.applicable:
        return None
    decoded: dict[str, DecodedImage] = {}
    analyses: dict[str, ImageAnalysis] = {}
    gaps = [reason for image, reason in selection.refused if _leaves_gap(image, reason)]
    seen = partial(observe_refused, model=model.bundle.identity, observed_at=started_at)
    observed = [seen(image, reason, is_eligible=False) for image, reason in selection.refused]
    for image in selection.images:
        try:
            require_unchanged(image.path, image.digest)
            pixels = decoder.decode(image.path, image.sop_instance_uid)
            # Only now: a file that is cut off looks strongly compressed, and is not.
            require_faithful(image, model.bundle.eligibility.maximum_lossy_ratio)
            analysis = model.scorer.score(
                pixels, effort.lane, deadline_s=effort.deadline_s, owner=effort.owner
            )
        except NotAnalysedError as error:
            gaps.append(error.reason)
            observed.append(seen(image, error.reason, is_eligible=True))
            continue
        analyses[image.sop_instance_uid] = analysis
        observed.append(
            observe_scored(
                image,
                analysis,
                input_statistics(pixels.p_values),
                model=model.bundle.identity,
                observed_at=started_at,
            )
        )
        # Of a long study's pixels only those stay that a capture may show.
        decoded[image.sop_instance_uid] = pixels
        shown = _shown(model.scorer.combine(list(analyses.values())))
        decoded = {uid: each for uid, each in decoded.items() if uid in shown}
    if not analyses:
        reasons = [*gaps, *(reason for _, reason in selection.refused)]
        declined = _declined(
            study, model, reasons, started_at=started_at, remarks=selection.remarks
        )
        return replace(declined, observed=tuple(observed))
    findings = model.scorer.combine(list(analyses.values()))
    if gaps:
        findings = tuple(replace(score, absence_withheld=True) for score in findings)
    return ModelAnswer(
        model=model,
        result=StudyResult(
            model=model.bundle.identity,
            status=AnalysisStatus.PARTIAL if gaps else AnalysisStatus.COMPLETE,
            findings=findings,
            reasons=tuple(dict.fromkeys(gaps)),
            remarks=(*selection.remarks, *model.remarks, *_gate_remarks(analyses.values())),
            started_at=started_at,
        ),
        sources=tuple(each for each in selection.images if each.sop_instance_uid in analyses),
        triage_rules=model.bundle.triage_rules,
        decoded=decoded,
        analyses=analyses,
        observed=tuple(observed),
    )


def require_faithful(image: ImageInstance, maximum_ratio: float | None) -> None:
    """Refuse an image that lossy compression made smaller than a model can bear.

    The header states the ratio (0028,2112), also of a compression that was undone since; a file
    in a lossy syntax was compressed at least as far as its size says.

    Raises:
        NotAnalysedError: The reason is COMPRESSION.
    """
    if maximum_ratio is None:
        return
    ratio = image.lossy_compression_ratio
    if image.transfer_syntax_uid in LOSSY_SYNTAXES:
        size_bytes = image.rows * image.columns * max(1, math.ceil(image.bits_allocated / 8))
        ratio = max(ratio, size_bytes / max(1, image.path.stat().st_size))
    if ratio > maximum_ratio:
        known = "an unknown ratio" if ratio >= UNKNOWN_RATIO else f"{ratio:.0f}:1"
        raise NotAnalysedError(
            f"lossy compression to {known}, at most {maximum_ratio:g}:1 is accepted",
            reason=NotAnalysedReason.COMPRESSION,
        )


def _gate_remarks(analyses: Iterable[ImageAnalysis]) -> tuple[str, ...]:
    """What the gates would have refused, where the site lets them report only."""
    reasons = (each.reason for analysis in analyses for each in analysis.verdict.refusals)
    return tuple(f"An image gate would refuse: {reason}." for reason in dict.fromkeys(reasons))


def _shown(findings: Sequence[FindingScore]) -> set[str]:
    """Images that answer for a finding called present."""
    return {score.sop_instance_uid for score in findings if score.is_present}


def decline(
    study: Study,
    model: ConfiguredModel,
    reason: NotAnalysedReason,
    *,
    started_at: datetime,
    only_meant: bool,
) -> ModelAnswer | None:
    """Answer "not analysed" without looking at a pixel.

    Args:
        only_meant: Return None when the model is not meant for the study.

    Raises:
        IntegrityError, TemporaryError: As `analyse`.
    """
    is_meant = select_images(study, model.bundle.eligibility, model.waived).applicable
    if only_meant and not is_meant:
        return None
    answer = _declined(study, model, [reason], started_at=started_at, is_meant=is_meant)
    if not is_meant:
        return answer
    seen = partial(observe_refused, model=model.bundle.identity, observed_at=started_at)
    observed = tuple(seen(image, reason, is_eligible=True) for image in answer.sources)
    return replace(answer, observed=observed)


def lane(claim: Claim) -> int:
    """The batcher's lane for a claimed study."""
    if claim.is_archive:
        return ARCHIVE
    return ROUTINE if priority(claim) is ReadingPriority.ROUTINE else STAT


def effort_for(claim: Claim, *, started_at: datetime) -> Effort:
    """One deadline for all images of a claimed study, so that studies end one after the other."""
    waited_s = (started_at - claim.received_at).total_seconds()
    return Effort(
        lane=lane(claim),
        deadline_s=time.monotonic() - waited_s + target_s(claim),
        owner=claim.token,
    )


def priority(claim: Claim) -> ReadingPriority:
    """How urgent a claimed study is: as ordered, or more after an earlier answer."""
    return max(claim.ordered_priority, claim.shown_priority, key=lambda each: each.urgency)


def target_s(claim: Claim) -> float:
    """Seconds from its arrival in which a study should be scored: orders it inside its lane."""
    return math.inf if claim.is_archive else _TARGETS_S[priority(claim)]


def settings_digest(
    operating_points: dict[str, float],
    waived: frozenset[str],
    *,
    precision: str = "f32",
    gates: str = "refuse",
) -> str:
    """Digest of the settings that can change a model's results."""
    text = f"operating_points={sorted(operating_points.items())};waive={sorted(waived)}"
    if precision != "f32":
        text += f";precision={precision}"
    if gates != "refuse":
        text += f";gates={gates}"
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def _leaves_gap(image: ImageInstance, reason: NotAnalysedReason) -> bool:
    """Whether a refused image may show what the scored ones do not.

    An image for processing has its twin for presentation, PS3.3 A.26.1.
    """
    return reason not in _NO_GAPS and image.presentation_intent != _FOR_PROCESSING


def _declined(
    study: Study,
    model: ConfiguredModel,
    reasons: list[NotAnalysedReason],
    *,
    started_at: datetime,
    remarks: tuple[str, ...] = (),
    is_meant: bool = True,
) -> ModelAnswer:
    meant = [
        each for each in study.instances if each.modality in model.bundle.eligibility.modalities
    ]
    sources = tuple(sorted(meant or study.instances, key=lambda each: each.sop_instance_uid))
    # The report takes the patient from their headers.
    for each in sources:
        require_unchanged(each.path, each.digest)
    return ModelAnswer(
        model=model,
        result=StudyResult(
            model=model.bundle.identity,
            status=AnalysisStatus.NOT_ANALYSED,
            findings=tuple(
                FindingScore(
                    label=label,
                    probability=None,
                    undetermined_from=undetermined_from,
                    operating_point=operating_point,
                )
                for label, (undetermined_from, operating_point) in model.scorer.thresholds.items()
            ),
            reasons=tuple(dict.fromkeys(reasons)),
            remarks=(*remarks, *model.remarks),
            started_at=started_at,
        ),
        sources=sources,
        triage_rules=(),
        is_meant=is_meant,
    )
