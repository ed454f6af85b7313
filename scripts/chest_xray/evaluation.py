"""Figures for the model card: discrimination, thresholds, calibration, with patient bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray = npt.NDArray[np.float64]
BOOTSTRAP_DRAWS = 2000
BOOTSTRAP_SEED = 7
CALIBRATION_BINS = 10


def area_under_curve(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.float32]) -> float:
    """AUROC as the share of pairs in order; ties count a half."""
    positive, negative = np.sort(scores[truth == 1]), np.sort(scores[truth == 0])
    below = np.searchsorted(negative, positive, "left").sum()
    upto = np.searchsorted(negative, positive, "right").sum()
    return float((below + upto) / (2 * len(positive) * len(negative)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What the members said about one finding on some images.

    Attributes:
        truth: 0 or 1, shape (n,).
        patients: Patient of each image; the unit of the bootstrap.
        names: Of the images, in the index.
        logits: Shape (members, n).
        pooled: Shape (n,).
    """

    truth: npt.NDArray[np.float32]
    patients: Sequence[str]
    names: Sequence[str]
    logits: FloatArray
    pooled: FloatArray

    @property
    def positives(self) -> int:
        """Images with the finding."""
        return int(self.truth.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % patient-bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def by_patient(split: Split, figure: Callable[[npt.NDArray[np.intp]], float]) -> Estimate:
    """Estimate a figure of some images, drawing whole patients with replacement.

    Args:
        split: Whose patients are drawn.
        figure: Function of image indices; draws in which it is no number are left out.
    """
    order: dict[str, list[int]] = {}
    for index, patient in enumerate(split.patients):
        order.setdefault(patient, []).append(index)
    groups = [np.array(indices) for indices in order.values()]
    random = np.random.default_rng(BOOTSTRAP_SEED)
    draws = [
        figure(
            np.concatenate([groups[each] for each in random.integers(0, len(groups), len(groups))])
        )
        for _ in range(BOOTSTRAP_DRAWS)
    ]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return Estimate(value=figure(np.arange(len(split.truth))), low=float(low), high=float(high))


def discrimination(split: Split, scores: FloatArray) -> Estimate:
    """AUROC of `scores`, shape (n,)."""

    def figure(indices: npt.NDArray[np.intp]) -> float:
        truth = split.truth[indices]
        if truth.min() == truth.max():
            return float("nan")
        return area_under_curve(scores[indices], truth)

    return by_patient(split, figure)


def advantage(split: Split, scores: FloatArray, other: FloatArray) -> Estimate:
    """AUROC of `scores` minus that of `other`, both of shape (n,), on the same draws."""

    def figure(indices: npt.NDArray[np.intp]) -> float:
        truth = split.truth[indices]
        if truth.min() == truth.max():
            return float("nan")
        return area_under_curve(scores[indices], truth) - area_under_curve(other[indices], truth)

    return by_patient(split, figure)


def share_at_least(
    split: Split, probabilities: FloatArray, threshold: float, truth: int
) -> Estimate:
    """Share of the images of one class whose probability reaches a threshold."""

    def figure(indices: npt.NDArray[np.intp]) -> float:
        of_class = probabilities[indices][split.truth[indices] == truth]
        return float((of_class >= threshold).mean()) if len(of_class) else float("nan")

    return by_patient(split, figure)


def brier_score(probabilities: FloatArray, truth: npt.NDArray[np.float32]) -> float:
    """Mean squared difference of probability and truth, in [0, 1]."""
    return float(np.mean((probabilities - truth) ** 2))


def expected_calibration_error(probabilities: FloatArray, truth: npt.NDArray[np.float32]) -> float:
    """Mean distance of probability and frequency over ten equally filled bins, in [0, 1]."""
    bins = np.array_split(np.argsort(probabilities, kind="stable"), CALIBRATION_BINS)
    distances = [
        abs(float(probabilities[each].mean() - truth[each].mean())) * len(each) for each in bins
    ]
    return sum(distances) / len(probabilities)
