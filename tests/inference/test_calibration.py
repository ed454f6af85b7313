"""A probability is a frequency, and its interval says how well that is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_node.inference.calibration import fit_beta_calibration

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle

TRUE_CURVE = (0.6, 1.2, -0.4)


def truth_at(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Frequencies of the finding in a world whose scores are off by a known beta curve."""
    a, b, c = TRUE_CURVE
    return 1 / (1 + np.exp(a * np.logaddexp(0, -logits) - b * np.logaddexp(0, logits) - c))


def draw(
    count: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    logits = random.normal(0.5, 2.5, count)
    return logits, random.random(count) < truth_at(logits)


def test_a_known_curve_is_found_again() -> None:
    logits, truth = draw(40_000, np.random.default_rng(1))
    fitted = fit_beta_calibration(logits, truth, split="simulated")
    assert fitted.coefficients == pytest.approx(TRUE_CURVE, abs=0.1)
    for logit in (-3.0, 0.0, 3.0):
        expected = float(truth_at(np.array([logit]))[0])
        assert fitted.probability(logit) == pytest.approx(expected, abs=0.02)


GRID = np.array([-4.0, -2.0, -0.5, 0.5, 2.0, 4.0])


def test_the_interval_holds_the_true_frequency_in_about_95_of_100_draws() -> None:
    random = np.random.default_rng(2)
    expected = truth_at(GRID)
    covered = []
    for _ in range(250):
        fitted = fit_beta_calibration(*draw(600, random), split="simulated")
        for logit, frequency in zip(GRID, expected, strict=True):
            interval = fitted.interval(float(logit))
            assert interval is not None
            covered.append(interval[0] <= frequency <= interval[1])
    assert 0.93 <= np.mean(covered) <= 0.99


def test_the_members_range_is_no_interval_of_the_frequency() -> None:
    """Mean and 1.96 standard deviations of the members: what is often shown, and holds nothing."""
    random = np.random.default_rng(2)
    expected = truth_at(GRID)
    covered = []
    for _ in range(250):
        fitted = fit_beta_calibration(*draw(600, random), split="simulated")
        for logit, frequency in zip(GRID, expected, strict=True):
            members = [fitted.probability(logit + noise) for noise in random.normal(0, 0.15, 2)]
            half_width = 1.96 * float(np.std(members))
            covered.append(abs(float(np.mean(members)) - frequency) <= half_width)
    assert np.mean(covered) < 0.6


@pytest.mark.parametrize(
    ("images", "positives"), [(99, 50), (200, 19), (200, 181)], ids=["few", "no finding", "all"]
)
def test_too_few_images_give_a_curve_but_no_interval(images: int, positives: int) -> None:
    truth = np.arange(images) < positives
    logits = np.random.default_rng(3).normal(np.where(truth, 1, -1), 1)
    fitted = fit_beta_calibration(logits, truth, split="simulated")
    assert fitted.interval(0.3) is None
    assert 0 <= fitted.probability(0.3) <= 1


def test_a_separable_split_stays_finite() -> None:
    truth = np.arange(300) < 200
    fitted = fit_beta_calibration(np.where(truth, 4.0, -4.0), truth, split="simulated")
    assert all(math.isfinite(each) for each in fitted.coefficients)
    assert fitted.probability(-4) < 0.05
    assert fitted.probability(4) > 0.95


def test_scores_that_point_the_wrong_way_never_turn_the_order_round() -> None:
    logits, truth = draw(2_000, np.random.default_rng(4))
    fitted = fit_beta_calibration(logits, ~truth, split="simulated")
    assert fitted.coefficients[0] >= 0
    assert fitted.coefficients[1] >= 0


@given(st.floats(-60, 60), st.floats(0, 20))
def test_a_higher_score_is_never_a_lower_probability(
    bundle: Bundle, logit: float, more: float
) -> None:
    curve = bundle.findings[0].calibration
    assert 0 <= curve.probability(logit) <= curve.probability(logit + more) <= 1
    interval = curve.interval(logit)
    assert interval is not None
    assert 0 <= interval[0] <= curve.probability(logit) <= interval[1] <= 1
