"""What is kept of each image that a model looked at, for watching the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.domain.observation import (
    NOT_STATED,
    SCORED,
    ImageObservation,
    age_band,
    sex_word,
    view_word,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from imaging_node.domain.finding import ModelIdentity, NotAnalysedReason
    from imaging_node.domain.study import ImageInstance
    from imaging_node.inference.scorer import ImageAnalysis

Observed = tuple[str, ImageObservation]
"""SOP Instance UID of an image, and what was seen of it."""


def observe_scored(
    image: ImageInstance,
    analysis: ImageAnalysis,
    quantities: Mapping[str, float],
    *,
    model: ModelIdentity,
    observed_at: datetime,
) -> Observed:
    """An image that has scores.

    Args:
        quantities: Statistics of its pixels, beside what the gates measured.
    """
    scores = [score for score in analysis.scores if score.probability is not None]
    spreads = [score.spread for score in scores if score.spread is not None]
    seen = ImageObservation(
        model=model.name,
        model_digest=model.digest,
        observed_at=observed_at,
        scanner=image.scanner or NOT_STATED,
        view_position=view_word(image.view_position),
        sex=sex_word(image.patient_sex),
        age_band=age_band(image.patient_age_years),
        outcome=SCORED,
        probabilities={score.label: score.probability or 0.0 for score in scores},
        presences={score.label: score.presence.value for score in scores},
        disagreement=max(spreads, default=None),
        quantities={**analysis.verdict.quantities, **quantities},
    )
    return image.sop_instance_uid, seen


def observe_refused(
    image: ImageInstance,
    reason: NotAnalysedReason,
    *,
    is_eligible: bool,
    model: ModelIdentity,
    observed_at: datetime,
) -> Observed:
    """An image that the model was meant for and that has no scores.

    Args:
        is_eligible: False when its header alone excluded it.
    """
    seen = ImageObservation(
        model=model.name,
        model_digest=model.digest,
        observed_at=observed_at,
        scanner=image.scanner or NOT_STATED,
        view_position=view_word(image.view_position),
        sex=sex_word(image.patient_sex),
        age_band=age_band(image.patient_age_years),
        outcome=reason.value,
        is_eligible=is_eligible,
    )
    return image.sop_instance_uid, seen
