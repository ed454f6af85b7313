"""What the bundle's own images look like to it: what a site's stream is compared with later."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from chest_xray.images import read_p_values
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.image import DecodedImage
from imaging_node.domain.observation import NOT_STATED, SCORED, ImageObservation
from imaging_node.inference.batching import Batcher
from imaging_node.inference.execution import Execution
from imaging_node.inference.input_statistics import input_statistics
from imaging_node.inference.lanes import ARCHIVE
from imaging_node.inference.opening import open_model
from imaging_node.inference.reference import build_reference
from imaging_node.inference.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from chest_xray.images import IndexedImage
    from imaging_node.inference.bundle import Bundle


def monitoring_reference(
    bundle: Bundle, data: Path, images: Sequence[IndexedImage]
) -> dict[str, Any]:
    """The key `monitoring`: one image of each patient, scored and gated as the node does it."""
    first_of_patient = {image.patient: image for image in reversed(images)}
    batcher = Batcher(launch_budget_ms=1000, in_flight=1)
    scorer = Scorer(
        bundle, open_model(bundle, Execution(), "f32"), batcher, site_operating_points={}
    )
    try:
        observed = [_observe(scorer, data, image) for image in first_of_patient.values()]
    finally:
        batcher.close()
    return build_reference(observed).model_dump(mode="json")


def _observe(scorer: Scorer, data: Path, image: IndexedImage) -> ImageObservation:
    p_values = read_p_values(data, image)
    decoded = DecodedImage(sop_instance_uid="2.25.1", p_values=p_values)
    identity = scorer.bundle.identity
    seen = ImageObservation(
        model=identity.name,
        model_digest=identity.digest,
        observed_at=datetime.fromtimestamp(0, UTC),
        scanner=NOT_STATED,
        view_position=image.view,
        outcome=NotAnalysedReason.SOFTWARE,
    )
    try:
        analysis = scorer.score(decoded, ARCHIVE)
    except NotAnalysedError as refusal:
        return replace(seen, outcome=refusal.reason.value)
    spreads = [score.spread for score in analysis.scores if score.spread is not None]
    return replace(
        seen,
        outcome=SCORED,
        probabilities={score.label: score.probability or 0.0 for score in analysis.scores},
        presences={score.label: score.presence.value for score in analysis.scores},
        disagreement=max(spreads, default=None),
        quantities={**analysis.verdict.quantities, **input_statistics(p_values)},
    )
