"""Statistics of a picture change with what they are named after, and with nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from imaging_node.inference.input_statistics import INPUT_STATISTICS, input_statistics
from tests.integration.films import picture


def test_each_statistic_moves_with_its_change() -> None:
    clean = picture(1, 512) * 0.8 + 0.1
    before = input_statistics(clean)
    noisy = clean + np.random.default_rng(0).normal(0, 0.05, clean.shape).astype(np.float32)
    assert set(before) == set(INPUT_STATISTICS)
    assert input_statistics(1 - clean)["input_mean"] == pytest.approx(1 - before["input_mean"])
    assert input_statistics(clean * 0.5)["input_deviation"] < before["input_deviation"]
    assert input_statistics(noisy)["input_gradient"] > 2 * before["input_gradient"]
    assert input_statistics(np.clip(clean * 3, 0, 1))["input_bright_share"] > 0.3
    assert input_statistics(clean * 0.05)["input_dark_share"] == pytest.approx(1)


def test_a_large_picture_has_about_the_statistics_of_all_its_pixels() -> None:
    large = picture(2, 1500)
    assert input_statistics(large)["input_mean"] == pytest.approx(float(large.mean()), abs=0.01)
    assert input_statistics(large)["input_deviation"] == pytest.approx(float(large.std()), abs=0.01)


@pytest.mark.parametrize(
    "image", [np.zeros((0, 5)), np.full((9, 9), np.nan), np.full((3, 3), np.inf)]
)
def test_what_is_no_picture_has_no_statistics(image: np.ndarray) -> None:
    assert input_statistics(image.astype(np.float32)) == {}


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 1), (129, 131)])
def test_any_shape_has_finite_statistics(shape: tuple[int, int]) -> None:
    found = input_statistics(np.random.default_rng(0).random(shape, np.float32))
    assert np.isfinite(list(found.values())).all()
