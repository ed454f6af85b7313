"""What carries no picture never gets a score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.quality import check_quality, median

if TYPE_CHECKING:
    from imaging_node.domain.image import DecodedImage
    from imaging_node.inference.bundle import Bundle

RANDOM = np.random.default_rng(5)
BLANK, QUALITY = NotAnalysedReason.BLANK, NotAnalysedReason.QUALITY


def with_letters(grey: float) -> npt.NDArray[np.float32]:
    image = np.full((2000, 1600), grey, np.float32)
    image[50:150, 50:250] = 1
    return image


@pytest.mark.parametrize(
    ("p_values", "reason"),
    [
        (np.zeros((300, 300), np.float32), BLANK),
        (np.ones((128, 128), np.float32), BLANK),
        (RANDOM.normal(0.5, 0.003, (300, 300)).astype(np.float32), BLANK),
        (with_letters(0.0), BLANK),
        (np.full((300, 300), np.nan, np.float32), QUALITY),
        (np.array([[0.1, np.inf], [0.5, 0.2]], np.float32), QUALITY),
        (np.zeros((0, 0), np.float32), QUALITY),
    ],
    ids=["black", "white", "faint noise", "letters only", "NaN", "infinite", "no pixels"],
)
def test_an_image_without_a_picture_is_refused_with_its_reason(
    bundle: Bundle, p_values: npt.NDArray[np.float32], reason: NotAnalysedReason
) -> None:
    with pytest.raises(NotAnalysedError) as refusal:
        check_quality(p_values, bundle.quality_gates)
    assert refusal.value.reason is reason


def test_a_picture_passes_even_with_wide_black_borders(
    bundle: Bundle, thorax: DecodedImage
) -> None:
    check_quality(thorax.p_values, bundle.quality_gates)
    check_quality(np.pad(thorax.p_values, 400), bundle.quality_gates)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 3), (300, 301), (411, 333)])
def test_the_grey_that_others_are_compared_with_is_the_median(shape: tuple[int, int]) -> None:
    for sample in (RANDOM.random(shape, np.float32), RANDOM.integers(0, 3, shape) / np.float32(2)):
        values = np.asarray(sample, np.float32)
        assert median(values) == np.median(values)
        assert median(values).dtype == np.median(values).dtype
