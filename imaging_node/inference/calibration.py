"""From a pooled logit to a probability, with the interval that its calibration supports.

Beta calibration (Kull, Silva Filho, Flach 2017) of s = sigmoid(logit):
log-odds = a * ln(s) - b * ln(1 - s) + c, with a, b >= 0 so that the order of scores stays.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

FloatArray = npt.NDArray[np.float64]

MINIMUM_IMAGES = 100
MINIMUM_PER_CLASS = 20
NORMAL_QUANTILE = 1.959963984540054
"""97.5 % quantile of the standard normal distribution: two-sided 95 %."""

_RIDGE = 1e-2
_NEWTON_STEPS = 100


class BetaCalibration(BaseModel):
    """A calibration curve of one finding, fitted after pooling.

    Attributes:
        coefficients: (a, b, c) of the module's formula; a, b >= 0.
        covariance: Of the coefficients, shape (3, 3); None when the interval is not
            estimated: fewer than 100 images, or fewer than 20 with or without the finding.
        images, positives: Of the split that it was fitted on.
        split: That split, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(default="beta", pattern="^beta$")
    coefficients: tuple[float, float, float]
    covariance: tuple[tuple[float, float, float], ...] | None
    images: int = Field(ge=1)
    positives: int = Field(ge=0)
    split: str

    def probability(self, logit: float) -> float:
        """Calibrated probability in [0, 1] of a pooled logit; NaN gives NaN."""
        return float(_sigmoid(_features(np.array([logit])) @ np.array(self.coefficients))[0])

    def interval(self, logit: float) -> tuple[float, float] | None:
        """95 % interval of the curve at `logit` by the delta method, None if not estimated."""
        if self.covariance is None:
            return None
        features = _features(np.array([logit]))[0]
        centre = float(features @ np.array(self.coefficients))
        variance = float(features @ np.array(self.covariance) @ features)
        half_width = NORMAL_QUANTILE * math.sqrt(max(variance, 0.0))
        low, high = _sigmoid(np.array([centre - half_width, centre + half_width]))
        return float(low), float(high)


def fit_beta_calibration(
    logits: FloatArray, truth: npt.NDArray[np.bool_], *, split: str
) -> BetaCalibration:
    """Fit by ridge-penalised maximum likelihood; the ridge keeps separable splits finite.

    Args:
        logits, truth: Pooled logits and whether the finding is there, both of shape (n,),
            with both classes present.
        split: Words that name the split, for the card.
    """
    features = _features(logits)
    free = [0, 1, 2]
    coefficients, covariance = _penalised_logistic(features, truth)
    # A falling term would put a higher score below a lower one: leave it out and fit again.
    while (steepest := int(np.argmin(coefficients[:2]))) in free and coefficients[steepest] < 0:
        free.remove(steepest)
        partial, partial_covariance = _penalised_logistic(features[:, free], truth)
        coefficients, covariance = np.zeros(3), np.zeros((3, 3))
        coefficients[free] = partial
        covariance[np.ix_(free, free)] = partial_covariance
    positives = int(truth.sum())
    enough = (
        len(truth) >= MINIMUM_IMAGES
        and MINIMUM_PER_CLASS <= positives <= len(truth) - MINIMUM_PER_CLASS
    )
    return BetaCalibration(
        coefficients=(float(coefficients[0]), float(coefficients[1]), float(coefficients[2])),
        covariance=tuple((float(a), float(b), float(c)) for a, b, c in covariance)
        if enough
        else None,
        images=len(truth),
        positives=positives,
        split=split,
    )


def _features(logits: FloatArray) -> FloatArray:
    """ln(s), -ln(1 - s) and 1 for each logit, without overflow; shape (n, 3)."""
    values = np.asarray(logits, np.float64)
    return np.stack(
        [-np.logaddexp(0, -values), np.logaddexp(0, values), np.ones_like(values)], axis=-1
    )


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.exp(-np.logaddexp(0, -values))


def _penalised_logistic(
    features: FloatArray, truth: npt.NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Coefficients and covariance on the raw features, whose last column is 1."""
    mean = np.append(features[:, :-1].mean(0), 0.0)
    scale = np.append(features[:, :-1].std(0), 1.0)
    standardised = (features - mean) / scale
    penalty = _RIDGE * np.eye(features.shape[1])
    coefficients = np.zeros(features.shape[1])
    hessian = penalty
    for _ in range(_NEWTON_STEPS):
        predicted = _sigmoid(standardised @ coefficients)
        weights = predicted * (1 - predicted) + 1e-9
        hessian = standardised.T @ (standardised * weights[:, None]) + penalty
        gradient = standardised.T @ (predicted - truth) + penalty @ coefficients
        step = np.linalg.solve(hessian, gradient)
        coefficients -= step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-10:  # noqa: PLR2004 - converged
            break
    back = np.diag(1 / scale)
    back[-1] = -mean / scale
    back[-1, -1] = 1.0
    return back @ coefficients, back @ np.linalg.inv(hessian) @ back.T
