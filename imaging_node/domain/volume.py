"""A series of slices as one volume, and the regular grid that a network needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatVolume = npt.NDArray[np.float32]
"""Three-dimensional float32 array, shape (slices, rows, columns)."""

LabelVolume = npt.NDArray[np.uint8]
"""Three-dimensional uint8 array, shape (slices, rows, columns)."""

Matrix = npt.NDArray[np.float64]

# Positions are decimal strings, rounded by their writers: slices that far apart are as regular.
_JITTER = 0.02
_COMMON_GAP_PERCENTILE = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularGrid:
    """A volume whose slices are equally far apart.

    Attributes:
        values: Shape (slices, rows, columns).
        affine: From (column, row, slice, 1) to millimetres in the patient's coordinates, x to
            the left, y to the back, z to the head (PS3.3 C.7.6.2.1.1); shape (4, 4).
        nearest: For each slice of the source, the index of the grid's slice nearest to it.
        is_interpolated: True when the grid's slices are not the source's.
    """

    values: FloatVolume
    affine: Matrix
    nearest: npt.NDArray[np.intp]
    is_interpolated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Slices of one series, parallel and on one line, from foot to head or however it points.

    Attributes:
        values: Modality values (HU for CT); float32, shape (slices, rows, columns).
        origins_mm: Position of the first pixel of each slice; shape (slices, 3), as `affine`
            of a grid. The line may be oblique to the slices (a tilted gantry).
        row_direction: Unit vector along a row, towards higher column indices; shape (3,).
        column_direction: Unit vector along a column, towards higher row indices; shape (3,).
        row_spacing_mm: Between the centres of neighbouring rows.
        column_spacing_mm: Between the centres of neighbouring columns.
    """

    values: FloatVolume
    origins_mm: Matrix
    row_direction: Matrix
    column_direction: Matrix
    row_spacing_mm: float
    column_spacing_mm: float

    def __post_init__(self) -> None:
        """Refuse shapes that do not belong together, and slices out of order."""
        if self.values.ndim != 3 or self.origins_mm.shape != (len(self.values), 3):  # noqa: PLR2004 - dimensions
            raise ValueError("a volume has three dimensions and one origin for each slice")
        if not (self.distances_mm > 0).all():
            raise ValueError("the slices of a volume are ordered along their normal")

    @property
    def normal(self) -> Matrix:
        """Unit vector through the slices; shape (3,)."""
        return np.cross(self.row_direction, self.column_direction)

    @property
    def distances_mm(self) -> Matrix:
        """Between the planes of neighbouring slices; shape (slices - 1,)."""
        distances: Matrix = np.diff(self.origins_mm @ self.normal)
        return distances

    @property
    def is_regular(self) -> bool:
        """True when all slices are equally far apart."""
        gaps = self.distances_mm
        return gaps.size == 0 or float(np.abs(gaps - gaps.mean()).max()) <= _JITTER * gaps.mean()

    @property
    def voxel_volumes_mm3(self) -> Matrix:
        """Volume of a voxel of each slice, half way to its neighbours; shape (slices,).

        Raises:
            ValueError: There is only one slice, whose thickness its position does not say.
        """
        gaps = self.distances_mm
        if gaps.size == 0:
            raise ValueError("a single slice has no thickness")
        padded = np.concatenate([gaps[:1], gaps, gaps[-1:]])
        extents: Matrix = (padded[:-1] + padded[1:]) / 2
        return extents * self.row_spacing_mm * self.column_spacing_mm

    def regular_grid(self) -> RegularGrid:
        """The same volume on equally spaced slices; interpolated linearly where it was not."""
        count = len(self.values)
        if self.is_regular:
            step = (self.origins_mm[-1] - self.origins_mm[0]) / max(1, count - 1)
            return RegularGrid(
                values=self.values,
                affine=self._affine(step if count > 1 else self.normal),
                nearest=np.arange(count),
                is_interpolated=False,
            )
        gaps = self.distances_mm
        depths = np.concatenate([[0.0], np.cumsum(gaps)])
        # What most slices have: two that overlap where a scan changed its step decide nothing.
        wanted = float(np.percentile(gaps, _COMMON_GAP_PERCENTILE))
        steps = max(1, round(depths[-1] / wanted))
        at = np.linspace(0.0, depths[-1], steps + 1)
        below = np.clip(np.searchsorted(depths, at, side="right") - 1, 0, count - 2)
        part = ((at - depths[below]) / gaps[below]).astype(np.float32)[:, None, None]
        values = self.values[below] * (1 - part) + self.values[below + 1] * part
        step = (self.origins_mm[-1] - self.origins_mm[0]) / steps
        return RegularGrid(
            values=values.astype(np.float32),
            affine=self._affine(step),
            nearest=np.rint(depths / (depths[-1] / steps)).astype(np.intp),
            is_interpolated=True,
        )

    def _affine(self, step: Matrix) -> Matrix:
        affine = np.eye(4)
        affine[:3, 0] = self.row_direction * self.column_spacing_mm
        affine[:3, 1] = self.column_direction * self.row_spacing_mm
        affine[:3, 2] = step
        affine[:3, 3] = self.origins_mm[0]
        return affine
