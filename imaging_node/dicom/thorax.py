"""A parametric chest of a small child: solids and bones of a synthetic radiograph.

Coordinates are in mm: x to the patient's left, y to the back, z to the feet, z = 0 at the
upper edge of the film. No patient was measured for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from imaging_node.dicom.projection import (
    PIXEL_SPACING_MM,
    Axis,
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

Field = npt.NDArray[np.float32]

_LUNG_DENSITY = 0.24  # relative to water, at full inspiration
_GRID_MM = 1.0
_DEPTH_STEP_MM = 2.0
_VERTEBRA_PITCH_MM = 13.4
_WIDTH_MM = 225.0
_DEPTH_MM = 150.0
_HEIGHT_MM = 256.0
_COLLIMATED = (slice(68, 968), slice(40, 860))  # rows, columns left by the shutters

# Half-width and half-depth of the rib cage over z.
_CAGE_Z = (50, 54, 60, 70, 84, 104, 130, 160, 190, 225, 260)
_CAGE_HALF_WIDTH = (2, 15, 29, 43, 54, 63, 70, 75, 78, 78, 77)
_CAGE_HALF_DEPTH = (4, 16, 25, 34, 41, 47, 51, 54, 55, 55, 55)
_BODY_Z = (0, 14, 26, 36, 44, 54, 70, 90, 120, 180, 260)
_BODY_HALF_WIDTH = (31, 31, 36, 52, 80, 98, 101, 93, 88, 89, 87)
_BODY_HALF_DEPTH = (36, 36, 38, 42, 46, 50, 54, 60, 64, 68, 68)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opacity:
    """Air space filled with fluid, inside a lung.

    Attributes:
        centre_mm: x, y, z; a positive x is the patient's left lung.
        radii_mm: Half-axes along x, y, z; > 0.
        density: Share of the air that is replaced, in [0, 1].
    """

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    density: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How one child differs from the next, drawn from the seed."""

    heart: float
    cage: float
    tilt: float
    diaphragm_mm: float

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> Build:
        """A plausible child."""
        return cls(
            heart=float(generator.uniform(0.92, 1.05)),
            cage=float(generator.uniform(0.95, 1.03)),
            tilt=float(generator.uniform(-0.03, 0.03)),
            diaphragm_mm=float(generator.uniform(-6, 6)),
        )


def render_chest(
    *, seed: int, opacities: tuple[Opacity, ...] = (), axis: Axis = "frontal"
) -> FloatImage:
    """P-Values in [0, 1], 1 is white; shape (900, 820) frontal, (900, 600) lateral.

    The same arguments give the same picture; an opacity changes it only where it lies.
    """
    generator = np.random.default_rng(seed)
    build = Build.drawn(generator)
    width_mm = _WIDTH_MM if axis == "frontal" else _DEPTH_MM
    frame = Frame(
        rows=int(_HEIGHT_MM / PIXEL_SPACING_MM), columns=int(width_mm / PIXEL_SPACING_MM), axis=axis
    )
    soft, lung = _soft_tissue(frame, build, opacities, seed)
    vessels = tube_thickness(_vessels(generator), frame)
    soft += vessels * np.clip(lung / 25.0, 0, 1) * (1 - _LUNG_DENSITY)
    soft += tube_thickness(_limbs(axis), frame) - tube_thickness(_airways(), frame)
    bones = tube_thickness(_skeleton(build, generator, axis), frame)
    bones += _spine(frame, build) + _scapulae(frame)
    picture = film(soft, np.maximum(bones, 0), generator=np.random.default_rng(seed + 1))
    picture = picture[_COLLIMATED[0]]
    return _marked(picture[:, _COLLIMATED[1]]) if axis == "frontal" else picture


def _along(z: Field, values: tuple[float, ...], at: tuple[float, ...] = _CAGE_Z) -> Field:
    return np.interp(z, at, values).astype(np.float32)


def _ellipsoid(
    x: Field, y: Field, z: Field, centre: tuple[float, float, float], radii: tuple[float, ...]
) -> Field:
    """Distance inside (positive) or outside (negative) of an ellipsoid, in mm, roughly."""
    squared = sum(
        ((axis - middle) / radius) ** 2
        for axis, middle, radius in zip((x, y, z), centre, radii, strict=True)
    )
    distance: Field = ((1 - np.sqrt(squared)) * min(radii)).astype(np.float32)
    return distance


def _inside(distance: Field, edge_mm: float = 1.6) -> Field:
    occupancy: Field = np.clip(distance / edge_mm + 0.5, 0, 1)
    return occupancy.astype(np.float32)


def _soft_tissue(
    frame: Frame, build: Build, opacities: tuple[Opacity, ...], seed: int
) -> tuple[FloatImage, FloatImage]:
    """Path lengths through tissue and through lung, in mm, at full resolution."""
    z = np.arange(0.5, _HEIGHT_MM, _GRID_MM, dtype=np.float32)[:, None, None]
    y = np.arange(-_DEPTH_MM / 2, _DEPTH_MM / 2, _DEPTH_STEP_MM, dtype=np.float32)[None, :, None]
    x = np.arange(-_WIDTH_MM / 2 + 0.5, _WIDTH_MM / 2, _GRID_MM, dtype=np.float32)[None, None, :]
    y = y + np.float32(_DEPTH_STEP_MM / 2)
    body = _tapered(x, y, z, (_BODY_HALF_WIDTH, _BODY_HALF_DEPTH, _BODY_Z), 1.0, power=2.6)
    lung = _lungs(x, y, z, build)
    air = lung * np.float32(1 - _LUNG_DENSITY)
    for number, opacity in enumerate(opacities):
        air *= 1 - _consolidation(x, y, z, opacity, seed + number)
    gas = _inside(_ellipsoid(x, y, z, (44, -24, 206), (20, 18, 9)), 3)
    for centre, radii in (((22, -30, 238), (16, 12, 8)), ((-30, -30, 246), (22, 12, 7))):
        gas = np.maximum(gas, 0.7 * _inside(_ellipsoid(x, y, z, centre, radii), 5))
    tissue = np.maximum(body - air - gas, 0)
    axis, step = (1, _DEPTH_STEP_MM) if frame.axis == "frontal" else (2, _GRID_MM)
    size = (frame.columns, frame.rows)
    thickness = [
        cv2.resize(
            (each.sum(axis=axis) * step).astype(np.float32), size, interpolation=cv2.INTER_CUBIC
        )
        for each in (tissue, lung)
    ]
    return blurred(thickness[0].astype(np.float32), 0.4), thickness[1].astype(np.float32)


def _tapered(
    x: Field,
    y: Field,
    z: Field,
    shape: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]],
    scale: float,
    *,
    power: float,
) -> Field:
    """Occupancy of a stack of superellipses whose half-axes change with z."""
    half_width = _along(z, shape[0], shape[2]) * np.float32(scale)
    half_depth = _along(z, shape[1], shape[2])
    ratio = (np.abs(x / half_width) ** power + np.abs(y / half_depth) ** power) ** (1 / power)
    return _inside((1 - ratio) * np.minimum(half_width, half_depth))


def _lungs(x: Field, y: Field, z: Field, build: Build) -> Field:
    """Occupancy of both lungs: the rib cage without mediastinum, heart and diaphragm."""
    cage = _tapered(x, y, z, (_CAGE_HALF_WIDTH, _CAGE_HALF_DEPTH, _CAGE_Z), build.cage, power=2.2)
    right = x < 0
    top = np.where(right, 172.0, 181.0) + build.diaphragm_mm
    middle = np.where(right, -36.0, 40.0)
    dome = top + 30 * np.abs((x - middle) / 44) ** 2.4 + 26 * np.abs((y + 12) / 52) ** 2.2 - z
    # Thymus and great vessels above, spine and oesophagus behind.
    half = np.interp(z, (50, 62, 82, 100, 118, 170, 230), (13, 17, 20, 18, 15, 16, 18))
    behind = np.clip((y + 30) / 60, 0, 1) * 3
    mediastinum = np.abs(x - 2) - half + behind
    heart = _heart(x, y, z, build)
    distance = np.minimum(np.minimum(dome, mediastinum), -heart)
    return np.minimum(cage, _inside(distance.astype(np.float32), 2.2))


def _heart(x: Field, y: Field, z: Field, build: Build) -> Field:
    """Distance inside the heart: a tilted left ventricle, the right atrium, the aortic knob."""
    angle = 0.62 + build.tilt
    along = (x - 16) * np.cos(angle) + (z - 150) * np.sin(angle)
    across = -(x - 16) * np.sin(angle) + (z - 150) * np.cos(angle)
    size = build.heart
    ventricle = _ellipsoid(along, y, across, (0, -18, 0), (47 * size, 34 * size, 33 * size))
    atrium = _ellipsoid(x, y, z, (-10, -14, 146), (21 * size, 26, 31 * size))
    knob = _ellipsoid(x, y, z, (19, 6, 86), (12, 13, 12))
    trunk = _ellipsoid(x, y, z, (18, -8, 112), (16, 16, 22))
    return np.maximum(np.maximum(ventricle, atrium), np.maximum(knob, trunk))


def _consolidation(x: Field, y: Field, z: Field, opacity: Opacity, seed: int) -> Field:
    """Share of air that one opacity takes, patchy as alveoli fill."""
    generator = np.random.default_rng(seed + 1000)
    centre, radii = np.array(opacity.centre_mm), np.array(opacity.radii_mm)
    cloud = np.zeros((z.size, y.size, x.size), dtype=np.float32)
    # Only the box around it: the chest has millions of cells.
    near = [
        np.abs(axis.ravel() - middle) < 2 * radius + 6
        for axis, middle, radius in zip((z, y, x), centre[::-1], radii[::-1], strict=True)
    ]
    z, y, x = z[near[0]], y[:, near[1]], x[:, :, near[2]]
    sum_of_clumps = np.zeros((z.size, y.size, x.size), dtype=np.float32)
    for _ in range(40):
        middle = centre + np.clip(generator.normal(0, 0.5, 3), -1, 1) * radii
        radius = float(generator.uniform(0.18, 0.5)) * float(radii.mean())
        squared = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2
        sum_of_clumps += np.exp(-squared / np.float32(radius**2))
    cloud[np.ix_(*near)] = np.float32(opacity.density) * (1 - np.exp(-sum_of_clumps))
    return cloud


def _vessels(generator: np.random.Generator) -> list[Tube]:
    """Pulmonary vessels that fork from the hila to the edge of the lungs."""
    tubes: list[Tube] = []
    for side in (-1.0, 1.0):
        hilum = np.array([side * 17.0, 2.0, 110.0 if side < 0 else 105.0])
        for angle in np.linspace(-1.25, 1.35, 9):
            heading = np.array(
                [side * np.cos(angle), generator.uniform(-0.7, 0.7), np.sin(angle) * 1.1]
            )
            start = hilum + np.array([0, 0, angle * 9])
            _branch(tubes, start, heading, float(generator.uniform(2.0, 2.9)), generator)
    return tubes


def _branch(
    tubes: list[Tube],
    start: npt.NDArray[np.float64],
    heading: npt.NDArray[np.float64],
    radius_mm: float,
    generator: np.random.Generator,
) -> None:
    if radius_mm < 0.3:  # noqa: PLR2004 - thinner than a pixel
        return
    heading = heading / np.linalg.norm(heading)
    bend = generator.normal(0, 0.16, 3)
    length = 9.0 + 4.5 * radius_mm
    points = [start + heading * length * t + bend * length * t * t for t in (0, 0.25, 0.5, 0.75, 1)]
    tubes.append(Tube(points_mm=np.array(points), radius_mm=radius_mm))
    for share in (0.80, 0.62):
        turn = generator.normal(0, 0.42, 3)
        _branch(tubes, points[-1], heading + bend + turn, radius_mm * share, generator)


def _airways() -> list[Tube]:
    """Trachea and main bronchi, as tissue that is not there."""
    fork = (1.0, 8.0, 92.0)
    return [
        Tube(points_mm=polyline((0, -6, -20), (-1, 0, 40), fork), radius_mm=4.6, weight=0.9),
        Tube(points_mm=polyline(fork, (-9, 9, 103), (-19, 10, 114)), radius_mm=3.4, weight=0.8),
        Tube(points_mm=polyline(fork, (11, 9, 102), (24, 10, 111)), radius_mm=3.1, weight=0.8),
    ]


def _limbs(axis: Axis) -> list[Tube]:
    """Soft tissue of the upper arms; raised out of the way for a lateral film."""
    if axis == "lateral":
        return []
    return [
        Tube(
            points_mm=polyline((s * 100, 0, 74), (s * 116, 0, 130), (s * 138, 0, 210)), radius_mm=19
        )
        for s in (-1.0, 1.0)
    ]


def _skeleton(build: Build, generator: np.random.Generator, axis: Axis) -> list[Tube]:
    tubes: list[Tube] = []
    for side in (-1.0, 1.0):
        for number in range(11):
            tubes += _rib(number, side, build, generator)
        clavicle = polyline(
            (side * 9, -44, 66), (side * 24, -46, 61), (side * 44, -38, 59),
            (side * 62, -22, 55), (side * 84, -6, 54),
        )  # fmt: skip
        tubes += hollow(_smooth(clavicle), 3.1, cortex_mm=0.9, marrow=0.4)
        if axis == "frontal":
            arm = polyline((side * 97, 0, 68), (side * 103, 0, 86), (side * 134, 0, 215))
            tubes += hollow(arm, 6.2, cortex_mm=1.5, marrow=0.35)
            tubes.append(
                Tube(
                    points_mm=polyline((side * 95, 0, 64), (side * 97, 0, 69)),
                    radius_mm=9,
                    weight=0.5,
                )
            )
    for number in range(5):
        z = 76.0 + 14 * number
        tubes.append(
            Tube(
                points_mm=polyline((0, -47 - number, z), (0, -48 - number, z + 9)),
                radius_mm=4,
                weight=0.35,
            )
        )
    return tubes


def _rib(number: int, side: float, build: Build, generator: np.random.Generator) -> list[Tube]:
    """One rib from its vertebra round to where its cartilage begins."""
    last = (2.15, 2.35, 2.45, 2.5, 2.5, 2.45, 2.35, 2.2, 2.0, 1.75, 1.5)[number]
    drop = (14, 22, 29, 35, 40, 44, 47, 50, 52, 50, 44)[number] * float(
        generator.uniform(0.96, 1.04)
    )
    angle = np.linspace(0.12, last, 60)
    z = 60.0 + _VERTEBRA_PITCH_MM * number + drop * ((1 - np.cos(angle)) / 2) ** 1.15
    z -= 5.0 * np.sin(np.minimum(angle * 2.2, np.pi))
    half_width = np.interp(z, _CAGE_Z, _CAGE_HALF_WIDTH) * build.cage + 2.5
    half_depth = np.interp(z, _CAGE_Z, _CAGE_HALF_DEPTH) + 2
    x = side * (np.sin(angle) ** 0.82 * half_width + 6 * np.exp(-angle * 3))
    points = np.stack([x, half_depth * np.cos(angle), z], axis=1)
    radius = 2.5 if 0 < number < 10 else 2.1  # noqa: PLR2004 - first and last are thinner
    return hollow(points, radius, cortex_mm=0.75, marrow=0.3)


def _smooth(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    at = np.linspace(0, len(corners) - 1, 40)
    dense = np.stack([np.interp(at, np.arange(len(corners)), corners[:, k]) for k in range(3)], 1)
    padded = np.pad(dense, ((4, 4), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, k], np.full(9, 1 / 9), "valid") for k in range(3)], 1)


def _spine(frame: Frame, build: Build) -> FloatImage:
    """Path length through the vertebrae, in mm."""
    rows = (np.arange(frame.rows) + 0.5)[:, None] * PIXEL_SPACING_MM
    across = ((np.arange(frame.columns) + 0.5)[None, :] - frame.columns / 2) * PIXEL_SPACING_MM
    middle = 40 * build.tilt if frame.axis == "frontal" else 38 + 8 * np.sin((rows - 60) / 70)
    offset = across - middle
    half = np.interp(rows, (0, 60, 250), (7.5, 8.5, 11.5))
    phase = (rows - 57) % _VERTEBRA_PITCH_MM - _VERTEBRA_PITCH_MM / 2
    body = np.clip((5.4 - np.abs(phase)) / 1.2 + 0.5, 0, 1)
    plate = np.exp(-(((np.abs(phase) - 5.0) / 0.7) ** 2))
    waist = half * (0.90 + 0.10 * (np.abs(phase) / 5.4) ** 2)
    chord = 2 * half * np.maximum(1 - (offset / waist) ** 2, 0) ** 0.55
    thickness = chord * (0.20 * body + 0.12 * plate)
    if frame.axis == "frontal":
        for side in (-1, 1):
            radius = np.hypot((offset - side * half * 0.68) / 1.5, (phase + 1.2) / 2.3)
            thickness += 2.6 * np.exp(-(((radius - 0.9) / 0.35) ** 2))
        process = np.hypot(offset / 1.7, (phase - 3.6) / 3.2)
        thickness += 2.4 * np.exp(-(process**4))
        wing = np.exp(-(((phase + 2.0) / 1.9) ** 4)) * np.clip(
            (half + 7 - np.abs(offset)) / 3, 0, 1
        )
        thickness += 1.5 * wing
    return blurred(thickness.astype(np.float32), 0.45)


def _scapulae(frame: Frame) -> FloatImage:
    """Path length through the blades and their borders, in mm."""
    image = np.zeros((frame.rows, frame.columns), dtype=np.float32)
    borders: list[Tube] = []
    for side in (-1.0, 1.0):
        blade = polyline(
            (side * 88, 32, 66), (side * 86, 38, 84), (side * 78, 50, 122),
            (side * 69, 50, 104), (side * 60, 46, 74), (side * 68, 42, 62),
        )  # fmt: skip
        corners = np.round(frame.pixels(blade)).astype(np.int32)
        cv2.fillPoly(image, [corners], [1.2])
        borders += hollow(_smooth(blade[:3]), 1.9, cortex_mm=0.6, marrow=0.4)
        borders.append(Tube(points_mm=_smooth(blade[2:5]), radius_mm=0.7))
        spine = polyline((side * 62, 47, 78), (side * 76, 42, 66), (side * 92, 28, 54))
        borders += hollow(_smooth(spine), 2.2, cortex_mm=0.5, marrow=0.3)
    return blurred(image, 0.6) + tube_thickness(borders, frame)


def _marked(picture: FloatImage) -> FloatImage:
    """Put the lead letter beside the patient's left shoulder, as a radiographer does."""
    letter = np.zeros(picture.shape, dtype=np.uint8)
    at = (picture.shape[1] - 70, 60)
    cv2.putText(letter, "L", at, cv2.FONT_HERSHEY_SIMPLEX, 1.9, 255, 7, cv2.LINE_AA)
    marked: FloatImage = np.maximum(picture, letter.astype(np.float32) * np.float32(0.97 / 255))
    return marked
