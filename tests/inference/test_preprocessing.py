"""The way to the model grid and the way back are each other's inverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.inference.preprocessing import draw_back, prepare, resize_to_grid

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle

CORNERS = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}


@pytest.mark.parametrize("shape", [(2500, 2048), (300, 180), (130, 640), (224, 224), (128, 128)])
@pytest.mark.parametrize("corner", CORNERS)
def test_a_marked_corner_comes_back_to_its_own_corner(shape: tuple[int, int], corner: str) -> None:
    rows, columns = shape
    down, across = CORNERS[corner]
    marked = np.zeros(shape, np.float32)
    height, width = rows // 8, columns // 8
    marked[
        down * (rows - height) : down * (rows - height) + height,
        across * (columns - width) : across * (columns - width) + width,
    ] = 1
    back = draw_back(resize_to_grid(marked, 224, 224), shape)
    assert back.shape == shape
    assert np.abs(back.mean() - marked.mean()) < 0.002
    weight = np.abs(back).sum()
    centre = (
        (back.sum(1) @ np.arange(rows)) / weight,
        (back.sum(0) @ np.arange(columns)) / weight,
    )
    expected = (
        down * (rows - height) + (height - 1) / 2,
        across * (columns - width) + (width - 1) / 2,
    )
    assert centre == pytest.approx(expected, abs=max(1.0, rows / 224, columns / 224))


def test_an_image_that_shrinks_along_one_axis_only_is_averaged_along_it() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (100, 1024))
    resized = resize_to_grid(stripes, 224, 256)
    np.testing.assert_allclose(resized, 0.5, atol=1e-6)


def test_input_on_the_model_grid_is_only_stretched_and_standardised(bundle: Bundle) -> None:
    image = np.linspace(0.2, 0.8, 128 * 128, dtype=np.float32).reshape(128, 128)
    prepared = prepare(image, bundle.preprocessing)
    assert prepared.shape == (1, 128, 128)
    assert prepared.dtype == np.float32
    assert (prepared.min(), prepared.max()) == pytest.approx((-2, 2))
    brighter = prepare((image * 0.5 + 0.3).astype(np.float32), bundle.preprocessing)
    np.testing.assert_allclose(prepared, brighter, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 0), (4, 4, 3), (7,)])
def test_what_is_no_image_is_refused(bundle: Bundle, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rows, columns"):
        prepare(np.zeros(shape, np.float32), bundle.preprocessing)
