"""A parametric hand of a small child: the body part that a chest model must refuse.

Coordinates as in `imaging_node.dicom.projection`: x to the right of the film, z down, in mm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imaging_node.dicom.projection import (
    PIXEL_SPACING_MM,
    Frame,
    Tube,
    blurred,
    film,
    hollow,
    polyline,
    tube_thickness,
)

if TYPE_CHECKING:
    from imaging_node.domain.finding import FloatImage

Point = npt.NDArray[np.float64]
"""x, y, z in mm, shape (3,)."""

_WRIST_Z_MM = 128.0
# Metacarpal base (x, z), direction in degrees from straight up, then the bone lengths in mm.
_RAYS = (
    ((-17.0, 114.0), -42.0, (23.0, 17.0, 12.0)),
    ((-9.0, 108.0), -10.0, (37.0, 22.0, 13.0, 10.0)),
    ((-1.0, 107.0), -1.0, (36.0, 25.0, 16.0, 11.0)),
    ((7.0, 108.0), 8.0, (32.0, 23.0, 15.0, 11.0)),
    ((14.0, 111.0), 17.0, (29.0, 18.0, 11.0, 10.0)),
)
_CARPALS = ((-3.0, 118.0, 4.6), (6.0, 117.0, 4.1), (9.0, 122.5, 2.6), (-10.0, 116.0, 2.0))


def render_hand(*, seed: int) -> FloatImage:
    """P-Values in [0, 1], 1 is white; shape (720, 600)."""
    frame = Frame(rows=720, columns=600, axis="frontal")
    bones: list[Tube] = []
    flesh: list[Tube] = []
    for (x, z), degrees, lengths in _RAYS:
        heading = np.array([np.sin(np.radians(degrees)), 0.0, -np.cos(np.radians(degrees))])
        start = np.array([x, 0.0, z])
        flesh_from = start
        for number, length in enumerate(lengths):
            end = start + heading * length
            bones += _long_bone(start, end, 2.9 - 0.35 * number)
            start = end + heading * 2.2  # the growth plate and the joint
        flesh.append(Tube(points_mm=np.array([flesh_from, start]), radius_mm=6.4))
    for x, z, radius in _CARPALS:
        bones.append(Tube(points_mm=polyline((x, 0, z), (x, 0, z + 1)), radius_mm=radius))
    for x, width in ((-6.0, 5.2), (8.0, 3.6)):
        bones += _long_bone(np.array([x, 0.0, _WRIST_Z_MM]), np.array([x * 0.9, 0.0, 190.0]), width)
    palm = np.minimum(tube_thickness(flesh, frame), 13.0) + _palm_and_wrist(frame)
    tissue = blurred(np.minimum(palm, 24.0).astype(np.float32), 0.9)
    return film(
        tissue, np.maximum(tube_thickness(bones, frame), 0), generator=np.random.default_rng(seed)
    )


def _long_bone(start: Point, end: Point, radius_mm: float) -> list[Tube]:
    """A shaft with wider ends."""
    step = (end - start) / np.linalg.norm(end - start)
    shaft = hollow(np.array([start, end]), radius_mm * 0.78, cortex_mm=0.9, marrow=0.3)
    ends = [
        Tube(points_mm=np.array([at, at + step * sign * 1.6]), radius_mm=radius_mm, weight=0.6)
        for at, sign in ((start, 1), (end, -1))
    ]
    return shaft + ends


def _palm_and_wrist(frame: Frame) -> FloatImage:
    """Soft tissue between the metacarpals and around the forearm, in mm."""
    z = ((np.arange(frame.rows) + 0.5) * PIXEL_SPACING_MM)[:, None]
    x = ((np.arange(frame.columns) + 0.5 - frame.columns / 2) * PIXEL_SPACING_MM)[None, :]
    half = np.interp(z, (70, 70.1, 90, 110, 128, 180), (0, 20, 23, 23, 17, 21))
    middle = np.interp(z, (70, 120), (3.0, 0.0))
    depth: FloatImage = 17 * np.sqrt(
        np.maximum(1 - ((x - middle) / np.maximum(half, 0.01)) ** 2, 0)
    )
    return depth.astype(np.float32)
