"""The picture of a capture: an image, where the score came from, and words around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from PIL import Image, ImageDraw

from imaging_node.dicom.picture_text import (
    GREY,
    WHITE,
    YELLOW,
    font,
    line_height,
    text_strip,
)
from imaging_node.dicom.saliency_overlay import RAMP, Picture, displayed_size, overlay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.finding import FloatImage

LONG_SIDE: Final = 1024
"""Longer side of the image area unless a setting says otherwise, in pixels."""

TITLE: Final = "AI SALIENCY - NOT FOR DIAGNOSIS"

_OPPOSITE: Final = str.maketrans("LRAPHF", "RLPAFH")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Lengths in pixels: those of a picture of 1024, larger for a larger one.

    Attributes:
        scale: 1 up to 1024, for below it words would be too small to read.
    """

    scale: float

    @property
    def margin(self) -> int:
        return round(12 * self.scale)

    @property
    def header_height(self) -> int:
        return round(48 * self.scale)

    @property
    def legend_width(self) -> int:
        return round(132 * self.scale)

    @property
    def legend_bar_width(self) -> int:
        return round(26 * self.scale)

    @property
    def smallest_area(self) -> tuple[int, int]:
        """Width and height of the image area, so that words and legend have room."""
        return round(480 * self.scale), round(240 * self.scale)

    @property
    def line_gap(self) -> int:
        return round(8 * self.scale)

    @property
    def large_text(self) -> int:
        return round(24 * self.scale)

    @property
    def small_text(self) -> int:
        return round(17 * self.scale)

    @property
    def side_letter(self) -> int:
        return round(34 * self.scale)


def draw_saliency(
    p_values: FloatImage,
    evidence: FloatImage,
    *,
    peak: float,
    row_to_column_spacing: float,
    patient_orientation: tuple[str, str] | None,
    headline: str,
    details: Sequence[str],
    long_side: int = LONG_SIDE,
) -> Picture:
    """Picture of one finding; never flipped or cropped, square pixels.

    Args:
        p_values: The image, in [0, 1], shape (rows, columns).
        evidence: Over the whole image, corner to corner, on any grid of its own; positive
            raised the score.
        peak: Evidence that is drawn strongest; 0 draws none.
        row_to_column_spacing: Height of a pixel over its width.
        patient_orientation: Directions of rows and columns; None draws no letters.
        headline: Finding, call and probability.
        details: Sentences below it, wrapped to the width of the picture.
        long_side: Longer side of the image in the picture, in pixels.
    """
    layout = _Layout(max(1.0, long_side / LONG_SIDE))
    width, height = displayed_size(p_values.shape, row_to_column_spacing, long_side)
    area_width = max(width, layout.smallest_area[0])
    area_height = max(height, layout.smallest_area[1])
    canvas_width = area_width + layout.legend_width
    text_width = canvas_width - 2 * layout.margin
    lines = list(text_strip(headline, layout.large_text, WHITE, text_width))
    for detail in details:
        lines.extend(text_strip(detail, layout.small_text, GREY, text_width))
    footer_height = sum(len(line) + layout.line_gap for line in lines) + 2 * layout.margin
    body_end = layout.header_height + area_height
    canvas = np.zeros((body_end + footer_height, canvas_width, 3), np.uint8)
    left = (area_width - width) // 2
    top = layout.header_height + (area_height - height) // 2
    area = canvas[top : top + height, left : left + width]
    area[:] = overlay(p_values, evidence, peak=peak, width=width, height=height)
    if patient_orientation is not None:
        _draw_sides(area, patient_orientation[0], layout)
    for title in text_strip(TITLE, layout.large_text, YELLOW, text_width)[:1]:
        _put(canvas, title, layout.margin, layout.margin)
    _put(canvas, _legend(layout, area_height), layout.header_height, area_width)
    y = body_end + layout.margin
    for line in lines:
        _put(canvas, line, y, layout.margin)
        y += len(line) + layout.line_gap
    return canvas


def _put(canvas: Picture, strip: Picture, y: int, x: int) -> None:
    rows, columns = strip.shape[:2]
    canvas[y : y + rows, x : x + columns] = strip


@lru_cache(maxsize=32)
def _legend(layout: _Layout, height: int) -> Picture:
    """Colour bar with its meaning, as it stands right of the image."""
    strip = Image.new("RGB", (layout.legend_width, height))
    draw = ImageDraw.Draw(strip)
    letters = font(layout.small_text)
    x = y = layout.margin
    for line in ("relative", "evidence"):
        draw.text((x, y), line, font=letters, fill=GREY)
        y += line_height(layout.small_text) + round(4 * layout.scale)
    bar_top, bar_bottom = y + layout.margin, height - layout.margin
    size = (layout.legend_bar_width, bar_bottom - bar_top)
    bar = cv2.resize(RAMP[::-1], size, interpolation=cv2.INTER_LINEAR)
    strip.paste(Image.fromarray(np.asarray(bar, np.uint8)), (x, bar_top))
    beside = x + layout.legend_bar_width + round(10 * layout.scale)
    draw.text((beside, bar_top), "high", font=letters, fill=GREY)
    draw.text((beside, bar_bottom), "low", font=letters, fill=GREY, anchor="ls")
    drawn = np.array(strip, np.uint8)
    drawn.flags.writeable = False
    return drawn


def _draw_sides(area: Picture, row_direction: str, layout: _Layout) -> None:
    """Letters of the patient's right and left at the edges, only where the header says so."""
    if row_direction[0] not in "LR":
        return
    edge = round(8 * layout.scale)
    # Of the letters' own height, so that only so much is copied to Pillow and back.
    half = layout.side_letter
    middle = area.shape[0] // 2
    band = area[max(0, middle - half) : middle + half]
    image = Image.fromarray(band)
    draw = ImageDraw.Draw(image)
    opposite = row_direction[0].translate(_OPPOSITE)
    right = area.shape[1] - edge
    for x, letter, anchor in ((edge, opposite, "lm"), (right, row_direction[0], "rm")):
        draw.text(
            (x, middle - max(0, middle - half)),
            letter,
            font=font(layout.side_letter),
            fill=WHITE,
            anchor=anchor,
            stroke_width=round(3 * layout.scale),
            stroke_fill=(0, 0, 0),
        )
    band[:] = np.asarray(image, np.uint8)
