"""An image with the evidence for one finding drawn over it, at the size of the display."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from imaging_node.domain.finding import FloatImage

Number = TypeVar("Number", np.float32, np.uint8)

Picture = npt.NDArray[np.uint8]
"""RGB, shape (rows, columns, 3)."""

MAXIMUM_ALPHA: Final = 0.55
LOWEST_SHOWN: Final = 0.15

_STEPS: Final = 256
_SLOPE: Final = (_STEPS - 1) / (1 - LOWEST_SHOWN)
_FLOOR: Final = 1000.0
# Blue over red to yellow, lightness rising all the way: readable without red-green vision.
_STOPS: Final = np.array(
    [(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], np.float64
)


def _ramp() -> npt.NDArray[np.float64]:
    """Colours of a strength of 0 to 1 in 256 steps, shape (256, 3)."""
    at = np.linspace(0, 1, _STEPS)
    stops = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(at, stops, _STOPS[:, each]) for each in range(3)], axis=-1)


RAMP: Final[Picture] = np.rint(_ramp()).astype(np.uint8)[:, np.newaxis]
"""The same as one column of a picture, weakest first; shape (256, 1, 3)."""

_ALPHA: Final = MAXIMUM_ALPHA * np.linspace(0, 1, _STEPS)
# What is added for each strength, and what is left of the grey below it.
_TINT: Final = np.rint(_ramp() * _ALPHA[:, np.newaxis]).astype(np.uint8)[:, np.newaxis]
_GREY_LEFT: Final = np.rint(255 * (1 - _ALPHA)).astype(np.uint8)


def displayed_size(shape: tuple[int, ...], aspect: float, long_side: int) -> tuple[int, int]:
    """Width and height with square pixels, the longer one `long_side`.

    Args:
        shape: Rows and columns.
        aspect: Height of a pixel over its width, > 0.
        long_side: In pixels.
    """
    height, width = shape[0] * aspect, float(shape[1])
    scale = long_side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def overlay(
    p_values: FloatImage, evidence: FloatImage, *, peak: float, width: int, height: int
) -> Picture:
    """Draw evidence over an image; corner lies on corner, whatever grids the two have.

    Args:
        p_values: The image, in [0, 1], shape (rows, columns).
        evidence: Over the same field on a grid of its own; positive raised the score.
        peak: Evidence that is drawn strongest, > 0, or 0 to draw none.
        width, height: Of the picture in pixels.

    Returns:
        Opacity at most `MAXIMUM_ALPHA`, nothing below `LOWEST_SHOWN` of `peak`.
    """
    # Rounds, and cuts off at 0 and 255. Grey levels first: they are resized faster.
    levels = cv2.convertScaleAbs(np.ascontiguousarray(p_values), alpha=255)
    grey = resized(np.asarray(levels, np.uint8), width, height)
    picture = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    if not peak > 0:
        return picture
    # Double precision and a floor, so that no faint map can overflow.
    relative = np.clip(evidence.astype(np.float64) / peak, -_FLOOR, 1).astype(np.float32)
    drawn = resized(relative, width, height)
    strength = cv2.addWeighted(drawn, _SLOPE, drawn, 0, -_SLOPE * LOWEST_SHOWN, dtype=cv2.CV_8U)
    # Colour only where there is some: most of a picture stays as it is.
    x, y, columns, rows = cv2.boundingRect(strength)
    if not rows:
        return picture
    part = np.s_[y : y + rows, x : x + columns]
    left = cv2.multiply(grey[part], cv2.LUT(strength[part], _GREY_LEFT), scale=1 / 255)
    tint = cv2.applyColorMap(strength[part], _TINT)
    picture[part] = cv2.add(cv2.cvtColor(left, cv2.COLOR_GRAY2RGB), tint)
    return picture


def resized(values: npt.NDArray[Number], width: int, height: int) -> npt.NDArray[Number]:
    """Resize float32 or uint8 values; the corners of the field stay its corners.

    An axis that shrinks is averaged over whole pixels, by the largest factor that leaves no less
    than is wanted, so that nothing aliases; what is left is interpolated.
    """
    rows, columns = values.shape
    fewer_rows, fewer_columns = max(1, rows // height), max(1, columns // width)
    means = _means(values, fewer_rows, fewer_columns)
    # Scales are given, not sizes: the last mean may stand for less than a whole block.
    drawn = cv2.resize(
        means,
        None,
        fx=width * fewer_columns / columns,
        fy=height * fewer_rows / rows,
        interpolation=cv2.INTER_LINEAR,
    )
    return np.asarray(drawn[:height, :width], values.dtype)


def _means(values: npt.NDArray[Number], block_rows: int, block_columns: int) -> npt.NDArray[Number]:
    """Means of blocks; those at the lower and right edge are of what is left."""
    rows, columns = values.shape
    over_rows, over_columns = rows % block_rows, columns % block_columns
    if over_rows:
        lower = _means(values[rows - over_rows :], over_rows, block_columns)
        upper = _means(values[: rows - over_rows], block_rows, block_columns)
        return np.vstack([upper, lower])
    if over_columns:
        right = _means(values[:, columns - over_columns :], block_rows, over_columns)
        left = _means(values[:, : columns - over_columns], block_rows, block_columns)
        return np.hstack([left, right])
    if block_rows == block_columns == 1:
        return values
    size = (columns // block_columns, rows // block_rows)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), values.dtype)
