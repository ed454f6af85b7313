"""The picture of a capture: an image, where the score came from, and words around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.finding import FloatImage

Picture = npt.NDArray[np.uint8]
"""RGB, shape (rows, columns, 3)."""

LONG_SIDE: Final = 1024
MAXIMUM_ALPHA: Final = 0.55
LOWEST_SHOWN: Final = 0.15
TITLE: Final = "AI SALIENCY - NOT FOR DIAGNOSIS"

_MARGIN: Final = 12
_HEADER_HEIGHT: Final = 48
_LEGEND_WIDTH: Final = 132
_LEGEND_BAR_WIDTH: Final = 26
_MINIMUM_WIDTH: Final = 480  # of the image area, so that words have room
_MINIMUM_HEIGHT: Final = 240  # of the image area, so that the legend has room
_LINE_GAP: Final = 8
_YELLOW: Final = (255, 214, 10)
_WHITE: Final = (255, 255, 255)
_GREY: Final = (200, 200, 200)
_OPPOSITE: Final = str.maketrans("LRAPHF", "RLPAFH")
# Blue over red to yellow, lightness rising all the way: readable without red-green vision.
_RAMP: Final = np.array(
    [(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], np.float32
)


def draw_saliency(
    p_values: FloatImage,
    relative: FloatImage,
    *,
    row_to_column_spacing: float,
    patient_orientation: tuple[str, str] | None,
    headline: str,
    details: Sequence[str],
) -> Picture:
    """Picture of one finding; never flipped or cropped, square pixels.

    Args:
        p_values: The image, in [0, 1], shape (rows, columns).
        relative: Evidence in [0, 1], same shape.
        row_to_column_spacing: Height of a pixel over its width.
        patient_orientation: Directions of rows and columns; None draws no letters.
        headline: Finding, call and probability.
        details: Sentences below it, wrapped to the width of the picture.

    Raises:
        ValueError: The shapes differ.
    """
    if p_values.shape != relative.shape:
        raise ValueError(f"map {relative.shape} does not lie on the image {p_values.shape}")
    width, height = _displayed_size(p_values.shape, row_to_column_spacing)
    body = _overlay(_resized(p_values, width, height), _resized(relative, width, height))
    area_width, area_height = max(width, _MINIMUM_WIDTH), max(height, _MINIMUM_HEIGHT)
    canvas_width = area_width + _LEGEND_WIDTH
    text_width = canvas_width - 2 * _MARGIN
    lines = [(line, _font(24), _WHITE) for line in _wrapped(headline, _font(24), text_width)]
    for detail in details:
        lines += [(line, _font(17), _GREY) for line in _wrapped(detail, _font(17), text_width)]
    footer_height = sum(_height(font) + _LINE_GAP for _, font, _ in lines) + 2 * _MARGIN
    canvas = Image.new("RGB", (canvas_width, _HEADER_HEIGHT + area_height + footer_height))
    left = (area_width - width) // 2
    top = _HEADER_HEIGHT + (area_height - height) // 2
    canvas.paste(Image.fromarray(body), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), TITLE, font=_font(24), fill=_YELLOW)
    if patient_orientation is not None:
        _draw_sides(draw, patient_orientation[0], (left, top, left + width, top + height))
    _draw_legend(canvas, draw, area_width, _HEADER_HEIGHT, area_height)
    y = _HEADER_HEIGHT + area_height + _MARGIN
    for line, font, colour in lines:
        draw.text((_MARGIN, y), line, font=font, fill=colour)
        y += _height(font) + _LINE_GAP
    return np.asarray(canvas, np.uint8)


def _displayed_size(shape: tuple[int, ...], aspect: float) -> tuple[int, int]:
    """Width and height with square pixels, the longer one `LONG_SIDE`."""
    height, width = shape[0] * aspect, float(shape[1])
    scale = LONG_SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(values: FloatImage, width: int, height: int) -> FloatImage:
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    resized: FloatImage = np.asarray(
        picture.resize((width, height), Image.Resampling.BILINEAR), np.float32
    )
    return np.clip(resized, 0, 1)


def _overlay(grey: FloatImage, evidence: FloatImage) -> Picture:
    strength = np.clip((evidence - LOWEST_SHOWN) / (1 - LOWEST_SHOWN), 0, 1)
    alpha = (MAXIMUM_ALPHA * strength)[..., np.newaxis]
    mixed = grey[..., np.newaxis] * 255 * (1 - alpha) + _colours(strength) * alpha
    picture: Picture = np.rint(mixed).astype(np.uint8)
    return picture


def _colours(strength: FloatImage) -> FloatImage:
    """Ramp colours of values in [0, 1]; adds an axis of 3."""
    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(strength, stops, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _draw_legend(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, height: int
) -> None:
    """Colour bar with its meaning, right of the image."""
    x = left + _MARGIN
    y = top + _MARGIN
    for line in ("relative", "evidence"):
        draw.text((x, y), line, font=_font(17), fill=_GREY)
        y += _height(_font(17)) + 4
    bar_top, bar_bottom = y + _MARGIN, top + height - _MARGIN
    ramp = np.linspace(1, 0, bar_bottom - bar_top, dtype=np.float32)[:, np.newaxis]
    bar = _colours(np.repeat(ramp, _LEGEND_BAR_WIDTH, axis=1)).astype(np.uint8)
    canvas.paste(Image.fromarray(bar), (x, bar_top))
    beside = x + _LEGEND_BAR_WIDTH + 10
    draw.text((beside, bar_top), "high", font=_font(17), fill=_GREY)
    draw.text((beside, bar_bottom), "low", font=_font(17), fill=_GREY, anchor="ls")


def _draw_sides(
    draw: ImageDraw.ImageDraw, row_direction: str, box: tuple[int, int, int, int]
) -> None:
    """Letters of the patient's right and left at the edges, only where the header says so."""
    if row_direction[0] not in "LR":
        return
    left, top, right, bottom = box
    middle = (top + bottom) // 2
    opposite = row_direction[0].translate(_OPPOSITE)
    for x, letter, anchor in ((left + 8, opposite, "lm"), (right - 8, row_direction[0], "rm")):
        draw.text(
            (x, middle),
            letter,
            font=_font(34),
            fill=_WHITE,
            anchor=anchor,
            stroke_width=3,
            stroke_fill=(0, 0, 0),
        )


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, the same on every machine."""
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def _height(font: ImageFont.FreeTypeFont) -> int:
    ascent, descent = font.getmetrics()
    return ascent + descent


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that fit; a word wider than the picture is broken."""
    lines = [""]
    for word in text.split():
        rest = word
        joined = f"{lines[-1]} {rest}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while font.getlength(rest) > width:
            fitting = next(
                count for count in range(len(rest), 0, -1) if font.getlength(rest[:count]) <= width
            )
            lines[-1], rest = rest[:fitting], rest[fitting:]
            lines.append("")
        lines[-1] = rest
    return lines
