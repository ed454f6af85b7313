"""What can be read off a film without knowing what it shows: clipping, collimation, writing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from imaging_node.domain.finding import FloatImage, NotAnalysedReason

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLACK, _WHITE = 0.004, 0.996
_STROKE_PIXELS = 7
_STROKE_CONTRAST = 0.3
_FLAT_DEVIATION = 0.012


class FilmLimits(BaseModel):
    """Limits of one bundle, each on a share of the model grid in [0, 1]; None: not checked.

    Attributes:
        maximum_clipped_share: Of pixels that are black or white beyond any detail.
        minimum_field_share: Of what lies inside flat borders: the collimated field.
        maximum_stroke_share: Of thin strokes much brighter or darker than what is around
            them: burned-in writing and graphics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_clipped_share: float | None = Field(default=None, ge=0, le=1)
    minimum_field_share: float | None = Field(default=None, ge=0, le=1)
    maximum_stroke_share: float | None = Field(default=None, ge=0, le=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a gate would not let an image through, with the measured value in `detail`."""

    reason: NotAnalysedReason
    detail: str


def measure_film(grid: FloatImage) -> dict[str, float]:
    """Shares of a film on the model grid, each in [0, 1].

    Args:
        grid: P-Values in [0, 1], shape (rows, columns), before any stretching.
    """
    clipped = float(((grid <= _BLACK) | (grid >= _WHITE)).mean())
    kernel = np.ones((_STROKE_PIXELS, _STROKE_PIXELS), np.uint8)
    image = np.ascontiguousarray(grid, np.float32)
    bright = cv2.morphologyEx(image, cv2.MORPH_TOPHAT, kernel) > _STROKE_CONTRAST
    dark = cv2.morphologyEx(image, cv2.MORPH_BLACKHAT, kernel) > _STROKE_CONTRAST
    return {
        "clipped_share": clipped,
        "field_share": _field_share(image),
        "stroke_share": float((bright | dark).mean()),
    }


def check_film(measures: Mapping[str, float], limits: FilmLimits) -> list[Refusal]:
    """The limits that a film breaks, the plainest first.

    Args:
        measures: As from `measure_film`.
        limits: The bundle's.
    """
    refusals = []
    clipped, field = measures["clipped_share"], measures["field_share"]
    strokes = measures["stroke_share"]
    if limits.maximum_clipped_share is not None and clipped > limits.maximum_clipped_share:
        refusals.append(
            Refusal(reason=NotAnalysedReason.SATURATED, detail=f"{clipped:.0%} black or white")
        )
    if limits.minimum_field_share is not None and field < limits.minimum_field_share:
        refusals.append(
            Refusal(reason=NotAnalysedReason.COLLIMATION, detail=f"{field:.0%} within the borders")
        )
    if limits.maximum_stroke_share is not None and strokes > limits.maximum_stroke_share:
        refusals.append(Refusal(reason=NotAnalysedReason.TEXT, detail=f"{strokes:.1%} in strokes"))
    return refusals


def _field_share(image: FloatImage) -> float:
    """Area within the outermost rows and columns that carry any detail."""
    rows, columns = (image.std(axis) > _FLAT_DEVIATION for axis in (1, 0))
    if not rows.any() or not columns.any():
        return 0.0
    height = len(rows) - int(rows.argmax()) - int(rows[::-1].argmax())
    width = len(columns) - int(columns.argmax()) - int(columns[::-1].argmax())
    return height * width / image.size
