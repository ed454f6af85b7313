"""One more look at one finding of a study: by a method of Captum, on demand, never delivered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaging_node.dicom.saliency_capture import picture_png
from imaging_node.dicom.saliency_picture import draw_saliency
from imaging_node.dicom.source import read_source
from imaging_node.dicom.terminology import PRESENCE, term
from imaging_node.domain.errors import BundleError, UnknownRecordError
from imaging_node.domain.finding import ModelIdentity
from imaging_node.inference.captum_methods import Explanation, explain, open_twins
from imaging_node.inference.preprocessing import prepare
from imaging_node.store.arrivals import read_study
from imaging_node.store.spool import require_unchanged

if TYPE_CHECKING:
    from imaging_node.dicom.decoding import DecodingPool
    from imaging_node.domain.explanation import ExplanationMethod
    from imaging_node.domain.finding import FindingScore
    from imaging_node.inference.bundle import Bundle
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

# Further apart than precisions and providers are by their golden cases.
_SAME_PROBABILITY = 0.02
_NOT_AN_OUTLINE = (
    "Shows what this method holds responsible for the score; not a lesion outline."
    " Made on demand, not part of the report."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedFinding:
    """A picture, and what the method says of itself.

    Attributes:
        model: The one whose score is explained.
        png: The film with the evidence drawn over it.
    """

    model: ModelIdentity
    explanation: Explanation
    png: bytes


def explain_finding(
    study_instance_uid: str,
    score: FindingScore,
    method: ExplanationMethod,
    *,
    bundle: Bundle,
    database: Database,
    spool: Spool,
    decoder: DecodingPool,
) -> ExplainedFinding:
    """Explain the score of the image that answered for a finding.

    Args:
        study_instance_uid: Of a scored study.
        score: The finding as it was answered.
        bundle: The one that answered.
        decoder: Decodes the image anew.

    Raises:
        BundleError: The bundle cannot be explained by Captum, or does not give the answer that
            it should explain.
        IntegrityError: The image is not what was received.
        NotAnalysedError: The image cannot be decoded any more.
        UnknownRecordError: The finding was not evaluated, or the study has changed since.
    """
    study = read_study(database, spool, study_instance_uid)
    image = next(
        (each for each in study.instances if each.sop_instance_uid == score.sop_instance_uid), None
    )
    if image is None or score.probability is None:
        raise UnknownRecordError(f"{score.label} was not evaluated on an image of this study")
    require_unchanged(image.path, image.digest)
    decoded = decoder.decode(image.path, image.sop_instance_uid)
    named = f"{bundle.identity.name} {bundle.identity.version}"
    place = [finding.label for finding in bundle.findings].index(score.label)
    image_input = prepare(decoded.p_values, bundle.preprocessing)
    explanation = explain(bundle, open_twins(bundle), image_input, place, method)
    require_same_answer(bundle, score, explanation.logit)
    picture = draw_saliency(
        decoded.p_values,
        explanation.values,
        peak=max(0.0, float(explanation.values.max())),
        row_to_column_spacing=decoded.row_to_column_spacing,
        patient_orientation=read_source(image.path).patient_orientation,
        headline=(
            f"{term(score.label).concept.meaning}: {PRESENCE[score.presence].meaning},"
            f" p = {score.probability:.2f}"
        ),
        details=[
            f"Method: {method.replace('_', ' ')} by Captum, {named}",
            *_completeness(explanation),
            _NOT_AN_OUTLINE,
        ],
    )
    return ExplainedFinding(
        model=bundle.identity, explanation=explanation, png=picture_png(picture)
    )


def require_same_answer(bundle: Bundle, score: FindingScore, logit: float) -> None:
    """Refuse to explain an answer by a network that does not give it.

    Args:
        score: An evaluated finding of the bundle, as it was answered.
        logit: What the bundle's networks give for its image now.

    Raises:
        BundleError: They say something else.
    """
    [calibration] = [each.calibration for each in bundle.findings if each.label == score.label]
    answered = score.probability
    again = calibration.probability(logit)
    # Written so that NaN is refused too.
    if answered is None or not abs(again - answered) <= _SAME_PROBABILITY:
        raise BundleError(
            f"cannot explain {score.label!r} by bundle {bundle.identity.name}: it gives"
            f" p = {again:.2f} where p = {answered} was answered; score the study again"
        )


def _completeness(explanation: Explanation) -> list[str]:
    if explanation.baseline_logit is None:
        return []
    sentence = (
        f"Logit {explanation.logit:.2f}, of what it was compared with"
        f" {explanation.baseline_logit:.2f}"
    )
    if explanation.incompleteness is not None:
        sentence += f"; the evidence misses their difference by {explanation.incompleteness:.2f}"
    return [f"{sentence}."]
