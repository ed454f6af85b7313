"""What the thresholds promise holds for films that are like the calibration films."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from chest_xray.conformal import absent_threshold, present_threshold

FALSE_PRESENT, MISSED = 0.05, 0.02


def probabilities(count: int, mean: float, seed: int) -> npt.NDArray[np.float64]:
    logits = np.random.default_rng(seed).normal(mean, 1.5, count)
    return np.asarray(1 / (1 + np.exp(-logits)))


def test_no_more_films_without_the_finding_are_flagged_than_promised() -> None:
    shares = [
        (
            probabilities(2_000, -1, 10_000 + draw)
            >= present_threshold(probabilities(133, -1, draw), FALSE_PRESENT)
        ).mean()
        for draw in range(300)
    ]
    assert 0.6 * FALSE_PRESENT <= np.mean(shares) <= FALSE_PRESENT * 1.04


def test_no_more_films_with_the_finding_are_cleared_than_promised() -> None:
    shares = [
        (
            probabilities(2_000, 1, 10_000 + draw)
            < absent_threshold(probabilities(476, 1, draw), MISSED)
        ).mean()
        for draw in range(300)
    ]
    assert 0.6 * MISSED <= np.mean(shares) <= MISSED * 1.05


def test_the_threshold_that_only_fits_the_calibration_films_breaks_the_promise() -> None:
    """The empirical quantile without the +1: what the conformal rule is there for."""
    shares = []
    for draw in range(300):
        calibration = np.sort(probabilities(30, -1, draw))
        naive = calibration[int(np.ceil((1 - FALSE_PRESENT) * len(calibration))) - 1]
        shares.append((probabilities(2_000, -1, 10_000 + draw) >= naive).mean())
    assert np.mean(shares) > FALSE_PRESENT * 1.2


@pytest.mark.parametrize("count", [1, 10, 18])
def test_too_few_films_allow_no_call(count: int) -> None:
    few = probabilities(count, 0, 1)
    assert present_threshold(few, FALSE_PRESENT) == 1.0
    assert absent_threshold(few, FALSE_PRESENT) == 0.0
