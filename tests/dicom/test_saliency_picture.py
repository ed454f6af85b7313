"""A picture shows the whole image, with every corner where it was, at the size asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.dicom.saliency_overlay import (
    LOWEST_SHOWN,
    MAXIMUM_ALPHA,
    displayed_size,
    overlay,
    resized,
)
from imaging_node.dicom.saliency_picture import draw_saliency

if TYPE_CHECKING:
    from imaging_node.dicom.saliency_overlay import Picture
    from imaging_node.domain.finding import FloatImage

SHAPES = [(2500, 2048), (2991, 2443), (1024, 819), (300, 700), (64, 48), (2200, 300)]
GRIDS = [(224, 224), (7, 5), (1100, 900)]
CORNERS = [(0, 0), (0, -1), (-1, 0), (-1, -1)]


def _draw(image: FloatImage, evidence: FloatImage, *, long_side: int = 1024) -> Picture:
    return draw_saliency(
        image,
        evidence,
        peak=max(0.0, float(evidence.max())),
        row_to_column_spacing=1.0,
        patient_orientation=("L", "F"),
        headline="Pneumothorax: Present, p = 0.93 (operating point 0.50)",
        details=["chest_xray 1.2.0, weights abababababab", "Not an outline."],
        long_side=long_side,
    )


def _overlay(image: FloatImage, evidence: FloatImage, long_side: int = 1024) -> Picture:
    width, height = displayed_size(image.shape, 1.0, long_side)
    peak = max(0.0, float(evidence.max()))
    return overlay(image, evidence, peak=peak, width=width, height=height)


def _marked(shape: tuple[int, int], corner: tuple[int, int], share: float) -> FloatImage:
    """Ones in one corner, over a share of each side that is whole pixels."""
    marked = np.zeros(shape, np.float32)
    rows, columns = round(shape[0] * share), round(shape[1] * share)
    vertical = slice(rows) if corner[0] == 0 else slice(-rows, None)
    horizontal = slice(columns) if corner[1] == 0 else slice(-columns, None)
    marked[vertical, horizontal] = 1
    return marked


def _covered(strength: FloatImage) -> tuple[float, float]:
    """Height and width of what is marked, in pixels, from the profiles through its corner."""
    rows, columns = strength.max(axis=1), strength.max(axis=0)
    return float(rows.sum() / rows.max()), float(columns.sum() / columns.max())


@pytest.mark.parametrize("long_side", [256, 1024, 2048])
@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_marker_in_a_corner_of_the_image_stays_there_within_a_pixel(
    shape: tuple[int, int], corner: tuple[int, int], long_side: int
) -> None:
    image = _marked(shape, corner, 0.25)
    drawn = _overlay(image, np.zeros((8, 8), np.float32), long_side)[..., 0].astype(np.float32)
    assert max(drawn.shape) == long_side
    assert drawn[corner] == 255
    opposite = (-1 - corner[0], -1 - corner[1])
    assert drawn[opposite] == 0
    height, width = _covered(drawn)
    expected = [round(side * 0.25) / side for side in shape]
    assert height == pytest.approx(expected[0] * drawn.shape[0], abs=1)
    assert width == pytest.approx(expected[1] * drawn.shape[1], abs=1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_corner_of_the_map_lies_on_that_corner_of_the_image(
    shape: tuple[int, int], corner: tuple[int, int], grid: tuple[int, int]
) -> None:
    width, height = displayed_size(shape, 1.0, 1024)
    drawn = resized(_marked(grid, corner, 0.4), width, height)
    assert drawn[corner] == pytest.approx(1)
    assert drawn[-1 - corner[0], -1 - corner[1]] == 0
    covered = _covered(drawn)
    for length, side, cells in zip(covered, (height, width), grid, strict=True):
        assert length == pytest.approx(round(cells * 0.4) / cells * side, abs=1)
    coloured = _overlay(np.full(shape, 0.5, np.float32), _marked(grid, corner, 0.4))
    assert np.ptp(coloured[corner].astype(int)) > 50
    assert np.ptp(coloured[-1 - corner[0], -1 - corner[1]].astype(int)) == 0


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if max(shape) >= 512])
def test_fine_texture_becomes_grey_and_no_pattern(shape: tuple[int, int]) -> None:
    image = np.indices(shape).sum(axis=0).astype(np.float32) % 2
    width, height = displayed_size(shape, 1.0, 256)
    drawn = resized(image, width, height)
    assert np.abs(drawn - 0.5).max() < 0.26


@pytest.mark.parametrize("shape", SHAPES)
def test_an_even_image_stays_even(shape: tuple[int, int]) -> None:
    drawn = _overlay(np.full(shape, 0.6, np.float32), np.full((9, 9), -1, np.float32))
    assert (drawn == 153).all()


def test_the_blend_is_the_one_that_is_documented() -> None:
    image = np.linspace(0, 1, 512 * 512, dtype=np.float32).reshape(512, 512)
    evidence = np.linspace(-1, 2, 512 * 512, dtype=np.float32).reshape(512, 512).T.copy()
    drawn = overlay(image, evidence, peak=2.0, width=512, height=512).astype(np.float64)
    strength = np.clip((evidence / 2 - LOWEST_SHOWN) / (1 - LOWEST_SHOWN), 0, 1)[..., np.newaxis]
    alpha = MAXIMUM_ALPHA * strength
    grey = image[..., np.newaxis] * 255.0
    stops = [(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)]
    colour = np.concatenate(
        [np.interp(strength, np.linspace(0, 1, 5), each) for each in zip(*stops, strict=True)],
        axis=-1,
    )
    assert np.abs(drawn - (grey * (1 - alpha) + colour * alpha)).max() <= 2
    untouched = strength[..., 0] == 0
    assert np.abs(drawn[untouched] - grey[untouched]).max() <= 0.5


@pytest.mark.parametrize("peak", [1e-45, 1e-30, 1e30])
def test_how_large_evidence_is_does_not_matter(peak: float) -> None:
    image = np.full((50, 40), 0.5, np.float32)
    evidence = np.full((5, 4), -1.0, np.float32)
    evidence[2, 1] = 1.0
    plain = overlay(image, evidence, peak=1.0, width=400, height=500)
    scaled = evidence * np.float32(peak)
    assert np.ptp(plain, axis=2).max() > 50
    drawn = overlay(image, scaled, peak=float(scaled.max()), width=400, height=500)
    assert np.array_equal(drawn, plain)


@pytest.mark.parametrize("long_side", [256, 700, 1024, 4096])
@pytest.mark.parametrize("shape", [(100, 80), (80, 100), (300, 10)])
def test_words_are_whole_at_every_size(shape: tuple[int, int], long_side: int) -> None:
    image = np.full(shape, 0.5, np.float32)
    picture = _draw(image, image, long_side=long_side)
    scale = max(1.0, long_side / 1024)
    assert picture[:, -round(4 * scale) :].max() == 0
    assert picture[-round(4 * scale) :].max() == 0
    footer = picture[-round(100 * scale) :]
    assert footer.max() > 150, "there is text"
    assert picture[: round(44 * scale)].max() > 150, "there is a title"


def test_threads_draw_what_one_thread_draws() -> None:
    random = np.random.default_rng(3)
    images = [random.random((90 + each, 70), np.float32) for each in range(16)]
    evidence = random.random((12, 12), np.float32)
    alone = [_draw(image, evidence) for image in images]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda image: _draw(image, evidence), images))
    assert all(map(np.array_equal, alone, together))
