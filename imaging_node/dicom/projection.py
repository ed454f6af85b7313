"""Absorption along parallel rays, and what a film makes of it: the physics of the phantoms."""

from __future__ import annotations

from collections.abc import Iterable  # noqa: TC003 - dataclass fields are read at run time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from imaging_node.domain.finding import FloatImage

Axis = Literal["frontal", "lateral"]
"""Direction of the rays: front to back, or side to side."""

PIXEL_SPACING_MM = 0.25
SOFT_TISSUE_PER_MM = 0.0205  # water at about 60 keV, as a paediatric chest film uses
BONE_PER_MM = 0.042  # what bone adds to the tissue it displaces; children's bone is thin

_SCATTER_SIGMA_MM = 22.0
_SCATTER_FRACTION = 0.35
_PHOTONS = 9000.0  # per pixel in the open field
_BODY_SHARE = 0.12  # of the thickest ray: what is thinner does not set the window
_OPEN_FIELD = 0.0  # density of unattenuated rays
_UNSHARPNESS_MM = 0.22  # focal spot and motion


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The plane of the detector.

    Attributes:
        rows, columns: Size in pixels of `PIXEL_SPACING_MM`.
        axis: Which way the rays go.
    """

    rows: int
    columns: int
    axis: Axis

    def pixels(self, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Project points (n, 3) of x (to the left), y (to the back), z (to the feet), in mm.

        Returns:
            Column and row, shape (n, 2); x = y = 0 lies on the middle column, z = 0 on row 0.
        """
        across = points_mm[:, 0 if self.axis == "frontal" else 1]
        return np.stack(
            [across / PIXEL_SPACING_MM + self.columns / 2, points_mm[:, 2] / PIXEL_SPACING_MM],
            axis=1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tube:
    """A solid tube along a polyline.

    Attributes:
        points_mm: Corners, shape (n, 3), as in `Frame.pixels`.
        radius_mm: Radius of the tube.
        weight: Density relative to its material; negative for a hollow.
    """

    points_mm: npt.NDArray[np.float64]
    radius_mm: float
    weight: float = 1.0


def polyline(*corners_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Corners as an array of shape (n, 3)."""
    return np.array(corners_mm, dtype=np.float64)


def hollow(
    points_mm: npt.NDArray[np.float64], radius_mm: float, *, cortex_mm: float, marrow: float
) -> list[Tube]:
    """A long bone: a dense wall of `cortex_mm` around marrow of relative density `marrow`."""
    return [
        Tube(points_mm=points_mm, radius_mm=radius_mm),
        Tube(points_mm=points_mm, radius_mm=radius_mm - cortex_mm, weight=marrow - 1),
    ]


def tube_thickness(tubes: Iterable[Tube], frame: Frame) -> FloatImage:
    """Path length in mm through all `tubes`, shape (rows, columns).

    Each tube is a row of overlapping spheres with the mass of the tube: where it runs along
    the rays it is as bright as it should be, which draws the edges of the rib cage.
    """
    image = np.zeros((frame.rows, frame.columns), dtype=np.float32)
    by_radius: dict[float, list[Tube]] = {}
    for tube in tubes:
        by_radius.setdefault(round(tube.radius_mm, 1), []).append(tube)
    for radius_mm, group in by_radius.items():
        if radius_mm <= 0:
            continue
        mass = np.zeros_like(image)
        for tube in group:
            _deposit(mass, tube, frame)
        image += cv2.filter2D(mass, -1, _sphere_kernel(radius_mm), borderType=cv2.BORDER_CONSTANT)
    return image


def _deposit(mass: FloatImage, tube: Tube, frame: Frame) -> None:
    """Spread the tube's length, in mm, over the pixels that its axis passes."""
    lengths = np.linalg.norm(np.diff(tube.points_mm, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    count = max(2, int(along[-1] / PIXEL_SPACING_MM * 2))
    at = (np.arange(count) + 0.5) * along[-1] / count
    points = np.stack([np.interp(at, along, tube.points_mm[:, k]) for k in range(3)], axis=1)
    position = frame.pixels(points)
    corner = np.floor(position).astype(np.int64)
    part = position - corner
    step = along[-1] / count * tube.weight
    for right in (0, 1):
        for below in (0, 1):
            column, row = corner[:, 0] + right, corner[:, 1] + below
            share = np.abs(1 - right - part[:, 0]) * np.abs(1 - below - part[:, 1])
            inside = (column >= 0) & (column < frame.columns) & (row >= 0) & (row < frame.rows)
            np.add.at(mass, (row[inside], column[inside]), (share * step)[inside])


def _sphere_kernel(radius_mm: float) -> FloatImage:
    """Chords through a sphere, scaled so that a row of spheres weighs what a tube does."""
    reach = int(np.ceil(radius_mm / PIXEL_SPACING_MM)) + 1
    across = np.arange(-reach, reach + 1) * PIXEL_SPACING_MM
    squared = across[:, None] ** 2 + across[None, :] ** 2
    chords = 2 * np.sqrt(np.maximum(radius_mm**2 - squared, 0))
    total = chords.sum()
    if total == 0:
        chords[reach, reach] = total = 1.0
    # One mm of tube has the volume pi r^2; a pixel spreads it over its own area.
    scale = np.pi * radius_mm**2 / PIXEL_SPACING_MM**2 / total
    kernel: FloatImage = (chords * scale).astype(np.float32)
    return kernel


def blurred(image: FloatImage, sigma_mm: float) -> FloatImage:
    """Gaussian blur; wide ones are made on a smaller copy."""
    sigma = sigma_mm / PIXEL_SPACING_MM
    step = max(1, int(sigma // 4))
    rows, columns = image.shape
    if step == 1:
        return cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32)
    small = cv2.resize(
        image, (max(1, columns // step), max(1, rows // step)), interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def film(
    tissue_mm: FloatImage, bone_mm: FloatImage, *, generator: np.random.Generator
) -> FloatImage:
    """P-Values of a processed digital radiograph, in [0, 1], 1 is white.

    Args:
        tissue_mm, bone_mm: Path lengths; shape (rows, columns).
        generator: Source of the quantum noise.
    """
    absorption = SOFT_TISSUE_PER_MM * np.maximum(tissue_mm, 0) + BONE_PER_MM * bone_mm
    primary = blurred(np.exp(-absorption).astype(np.float32), _UNSHARPNESS_MM)
    scatter = _SCATTER_FRACTION * blurred(
        (primary * (tissue_mm > 1)).astype(np.float32), _SCATTER_SIGMA_MM
    )
    photons = np.maximum((primary + scatter) * _PHOTONS, 1)
    counted = photons + np.sqrt(photons) * generator.standard_normal(photons.shape)
    density = -np.log(np.maximum(counted, 1) / _PHOTONS).astype(np.float32)
    density = blurred(density, 0.12)
    # What every console does: more contrast in what is small, less in what is large.
    density = density + 0.55 * (density - blurred(density, 9.0))
    body = density[tissue_mm > _BODY_SHARE * tissue_mm.max()]
    dark, bright = np.percentile(body, [0.8, 99.6]) if body.size else (0.0, 1.0)
    dark = max(float(dark), _OPEN_FIELD)
    level = (density - dark) / max(float(bright - dark), 1e-3)
    toe = 0.10 + 0.86 * level
    toned = np.where(level < 0, 0.10 * np.exp(np.minimum(level, 0) * 4), toe)
    values: FloatImage = np.clip(toned, 0, 1).astype(np.float32)
    return values
