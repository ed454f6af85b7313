"""Words on a picture: lines of text as strips of pixels, wrapped to a width."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from imaging_node.dicom.saliency_overlay import Picture

Colour = tuple[int, int, int]

WHITE: Final = (255, 255, 255)
GREY: Final = (200, 200, 200)
YELLOW: Final = (255, 214, 10)


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, the same on every machine; `size` in pixels."""
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def line_height(size: int) -> int:
    """Ascent and descent of a font size, in pixels."""
    ascent, descent = font(size).getmetrics()
    return ascent + descent


@lru_cache(maxsize=64)
def text_strip(text: str, size: int, colour: Colour, width: int) -> tuple[Picture, ...]:
    """Lines of `text` on black, each of the height of a line and as wide as `width`.

    Most words are the same in every picture of a model, so what was drawn is kept.
    """
    strips = []
    for line in wrapped(text, size, width):
        strip = Image.new("RGB", (width, line_height(size)))
        ImageDraw.Draw(strip).text((0, 0), line, font=font(size), fill=colour)
        pixels = np.array(strip, np.uint8)
        pixels.flags.writeable = False
        strips.append(pixels)
    return tuple(strips)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines that fit `width` pixels; a word wider than that is broken."""
    drawn = font(size)
    lines = [""]
    for word in text.split():
        rest = word
        joined = f"{lines[-1]} {rest}".strip()
        if drawn.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while drawn.getlength(rest) > width:
            fitting = next(
                count for count in range(len(rest), 0, -1) if drawn.getlength(rest[:count]) <= width
            )
            lines[-1], rest = rest[:fitting], rest[fitting:]
            lines.append("")
        lines[-1] = rest
    return lines
