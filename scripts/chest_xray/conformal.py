"""Thresholds with a promise that holds for any number of images: split conformal prediction.

A film is called present when so few calibration films *without* the finding scored as high that
"no finding" can be excluded at its error rate; absent when so few films *with* it scored as low;
else it is left open. For films exchangeable with the calibration split at most the stated share
of films without the finding is called present, and of films with it absent, on average over
calibration splits (Vovk; class-conditional, after Angelopoulos & Bates 2023, section 4.3).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def present_threshold(negatives: FloatArray, false_present: float) -> float:
    """Lowest probability, rounded up to a ten-thousandth, that may be called present.

    Args:
        negatives: Probabilities of the calibration films without the finding.
        false_present: Largest share of films without it that may be called present, in (0, 1).

    Returns:
        1.0 when the films are too few to allow any call.
    """
    allowed = math.floor(false_present * (len(negatives) + 1) + 1e-9) - 1
    if allowed < 0:
        return 1.0
    last_refused = np.sort(negatives)[len(negatives) - 1 - allowed]
    return float(min(np.floor(last_refused * 10_000 + 1) / 10_000, 1.0))


def absent_threshold(positives: FloatArray, missed: float) -> float:
    """Highest probability, rounded down to a ten-thousandth, below which it is called absent.

    Args:
        positives: Probabilities of the calibration films with the finding.
        missed: Largest share of films with it that may be called absent, in (0, 1).

    Returns:
        0.0 when the films are too few to allow any call.
    """
    allowed = math.floor(missed * (len(positives) + 1) + 1e-9) - 1
    if allowed < 0:
        return 0.0
    return float(np.floor(np.sort(positives)[allowed] * 10_000) / 10_000)
