"""From the calibration split to curves and thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chest_xray.conformal import absent_threshold, present_threshold
from chest_xray.tables import by_member, calibrated
from imaging_node.inference.bundle import Finding
from imaging_node.inference.calibration import fit_beta_calibration

if TYPE_CHECKING:
    from chest_xray.bundles import BundlePlan
    from chest_xray.scoring import ScoredImages


def calibrate(plan: BundlePlan, scored: ScoredImages) -> dict[str, Finding]:
    """Curve, conformal thresholds and the limit of disagreement of every finding."""
    findings = {}
    for label in scored.labels:
        split = scored.split(label)
        curve = fit_beta_calibration(
            split.pooled, split.truth == 1, split=f"calibration split, {plan.people}"
        )
        probabilities = calibrated(curve, split.pooled)
        present = present_threshold(probabilities[split.truth == 0], plan.false_present)
        absent = absent_threshold(probabilities[split.truth == 1], plan.missed)
        # Where both calls would be allowed, as for a model that ranks nearly perfectly, what
        # lies between is left open: each promise then holds all the more.
        low, high = min(present, absent), max(present, absent)
        spread = np.quantile(by_member(curve, split.logits).std(0), plan.spread_quantile)
        findings[label] = Finding(
            label=label,
            calibration=curve,
            operating_point=high,
            undetermined_from=low,
            maximum_spread=round(float(spread), 4),
        )
    return findings


def declared_threshold(
    probability: float, finding: Finding, scored: ScoredImages
) -> dict[str, float]:
    """A threshold with what it gave on the calibration split."""
    split = scored.split(finding.label)
    called = calibrated(finding.calibration, split.pooled) >= probability
    return {
        "probability": probability,
        "sensitivity": round(float(called[split.truth == 1].mean()), 4),
        "specificity": round(float((~called[split.truth == 0]).mean()), 4),
    }
