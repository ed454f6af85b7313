"""What can be read off a film alone refuses what no model should see."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imaging_node.domain.finding import FloatImage, NotAnalysedReason
from imaging_node.inference.film_measures import FilmLimits, check_film, measure_film
from imaging_node.inference.golden import synthetic_thorax

LIMITS = FilmLimits(maximum_clipped_share=0.5, minimum_field_share=0.3, maximum_stroke_share=0.03)


def film() -> FloatImage:
    return synthetic_thorax(224, 224, opacity=0.4, seed=2) * 0.9 + 0.05


def written(image: FloatImage, lines: int) -> FloatImage:
    grey = np.round(image * 255).astype(np.uint8)
    for line in range(lines):
        cv2.putText(
            grey, "AP 82 kV WARD 7 PORTABLE", (2, 14 + 14 * line),
            cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1,
        )  # fmt: skip
    return (grey / 255).astype(np.float32)


def collimated(image: FloatImage) -> FloatImage:
    flat = np.full_like(image, 0.02)
    flat[80:150, 80:150] = image[80:150, 80:150]
    return flat


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.clip((film() - 0.4) * 40, 0, 1), NotAnalysedReason.SATURATED),
        (collimated(film()), NotAnalysedReason.COLLIMATION),
        (written(film(), 15), NotAnalysedReason.TEXT),
    ],
    ids=["saturated", "collimated", "written over"],
)
def test_a_film_that_shows_too_little_is_refused_with_its_reason(
    image: FloatImage, reason: NotAnalysedReason
) -> None:
    refusals = check_film(measure_film(image), LIMITS)
    assert [refusal.reason for refusal in refusals] == [reason]


@pytest.mark.parametrize("lines", [0, 1])
def test_a_film_with_a_line_of_letters_passes(lines: int) -> None:
    assert check_film(measure_film(written(film(), lines)), LIMITS) == []


def test_a_bundle_without_limits_refuses_nothing() -> None:
    assert check_film(measure_film(written(film(), 15)), FilmLimits()) == []
