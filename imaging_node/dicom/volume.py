"""One CT or MR series as a volume, or the reason why its slices make none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from imaging_node.dicom.source import SourceHeader
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.volume import Matrix, Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.finding import FloatImage

FEWEST_SLICES: Final = 3

_SAME_DIRECTION: Final = 1e-4
_SAME_SPACING: Final = 1e-3  # part of it
_DUPLICATE_MM: Final = 0.01
_OFF_LINE: Final = 0.5  # of a pixel
_MISSING: Final = 1.5  # of the larger gap beside it
_CONTIGUOUS: Final = 1.1  # of the mean thickness of two neighbours
_AT_RIGHT_ANGLES: Final = 1e-3
_STEEPEST_TILT: Final = 0.7  # cosine of 45 degrees, to the normal
_FINEST_MM, _COARSEST_MM = 0.01, 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceStack:
    """Where the slices of a series lie, checked; its pixels may not be decoded yet.

    Attributes:
        sources: Headers along the normal of the slices, one a slice.
        origins_mm: Positions of their first pixels; shape (slices, 3).
        row_direction, column_direction: Unit vectors, shape (3,).
        row_spacing_mm, column_spacing_mm: Between centres of rows and of columns.
    """

    sources: tuple[SourceHeader, ...]
    origins_mm: Matrix
    row_direction: Matrix
    column_direction: Matrix
    row_spacing_mm: float
    column_spacing_mm: float

    def volume(self, images: Sequence[FloatImage]) -> Volume:
        """The volume of the slices' modality values, in the order of `sources`.

        Raises:
            NotAnalysedError: An image is not of the size that its header states.
        """
        shape = (_whole(self.sources[0], "Rows"), _whole(self.sources[0], "Columns"))
        if any(image.shape != shape for image in images):
            raise _no_volume("a slice is not of the size that its header states")
        return Volume(
            values=np.stack(images),
            origins_mm=self.origins_mm,
            row_direction=self.row_direction,
            column_direction=self.column_direction,
            row_spacing_mm=self.row_spacing_mm,
            column_spacing_mm=self.column_spacing_mm,
        )


def stack_slices(headers: Sequence[SourceHeader]) -> SliceStack:
    """Order the images of one series along their normal.

    Slices need not be equally far apart, nor on a line at right angles to them (tilted gantry);
    but none may be missing, twice there, or of another plane, size, spacing or frame of reference.

    Raises:
        NotAnalysedError: They make no volume; the reason is GEOMETRY.
    """
    if len(headers) < FEWEST_SLICES:
        raise _no_volume(f"{len(headers)} slices are too few")
    if any("LOCALIZER" in (word.upper() for word in each.texts("ImageType")) for each in headers):
        raise _no_volume("a localizer is among the slices")
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns", "Modality"):
        if len({each.text(keyword) for each in headers}) != 1 or not headers[0].text(keyword):
            raise _no_volume(f"the slices do not agree on {keyword}, or do not state it")
    planes = [_numbers(each, "ImageOrientationPatient", 6) for each in headers]
    spacings = [_numbers(each, "PixelSpacing", 2) for each in headers]
    if any(np.abs(each - planes[0]).max() > _SAME_DIRECTION for each in planes):
        raise _no_volume("the slices are not parallel")
    if any(np.abs(each / spacings[0] - 1).max() > _SAME_SPACING for each in spacings):
        raise _no_volume("the slices have different pixel spacings")
    rows, columns = (float(number) for number in spacings[0])
    if not (_FINEST_MM <= rows <= _COARSEST_MM and _FINEST_MM <= columns <= _COARSEST_MM):
        raise _no_volume("the pixel spacing is impossible")
    along_row, along_column = _directions(planes[0])
    normal = np.cross(along_row, along_column)
    origins = np.stack([_numbers(each, "ImagePositionPatient", 3) for each in headers])
    order = np.argsort(origins @ normal, kind="stable")
    stack = SliceStack(
        sources=tuple(headers[index] for index in order),
        origins_mm=origins[order],
        row_direction=along_row,
        column_direction=along_column,
        row_spacing_mm=rows,
        column_spacing_mm=columns,
    )
    _require_one_line(stack, normal)
    _require_no_gap(stack, normal)
    return stack


def _directions(plane: Matrix) -> tuple[Matrix, Matrix]:
    along_row, along_column = plane[:3], plane[3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if (
        max(abs(length - 1) for length in lengths) > _AT_RIGHT_ANGLES
        or abs(float(along_row @ along_column)) > _AT_RIGHT_ANGLES
    ):
        raise _no_volume("rows and columns are not at right angles")
    along_row = along_row / lengths[0]
    along_column = along_column - (along_column @ along_row) * along_row
    return along_row, along_column / np.linalg.norm(along_column)


def _require_one_line(stack: SliceStack, normal: Matrix) -> None:
    """Refuse slices that lie beside each other instead of behind each other."""
    origins = stack.origins_mm
    line = origins[-1] - origins[0]
    length = float(np.linalg.norm(line))
    depth = float(line @ normal)
    if depth < _DUPLICATE_MM or depth < _STEEPEST_TILT * length:
        raise _no_volume("the slices do not lie behind each other")
    on_line = origins[0] + np.outer((origins - origins[0]) @ normal / depth, line)
    off_mm = np.linalg.norm(origins - on_line, axis=1).max()
    if off_mm > _OFF_LINE * min(stack.row_spacing_mm, stack.column_spacing_mm):
        raise _no_volume("the slices are shifted against each other")


def _require_no_gap(stack: SliceStack, normal: Matrix) -> None:
    gaps = np.diff(stack.origins_mm @ normal)
    if gaps.min() < _DUPLICATE_MM:
        raise _no_volume("two slices have the same position")
    beside = np.concatenate([[0.0], gaps, [0.0]])
    larger = np.maximum(beside[:-2], beside[2:])
    if (gaps > _MISSING * larger).any():
        raise _no_volume("a slice is missing")
    if gaps.max() <= _MISSING * gaps.min():
        return
    # Steps of several sizes are sound only where the slices leave nothing out between them.
    thickness = np.array([_positive(each, "SliceThickness") for each in stack.sources])
    covered = _CONTIGUOUS * (thickness[:-1] + thickness[1:]) / 2
    if (gaps > covered).any():
        raise _no_volume("the slices are unequally far apart, and leave gaps")


def _positive(source: SourceHeader, keyword: str) -> float:
    value = float(_numbers(source, keyword, 1)[0])
    if value <= 0:
        raise _no_volume(f"a slice states an impossible {keyword}")
    return value


def _whole(source: SourceHeader, keyword: str) -> int:
    return int(_numbers(source, keyword, 1)[0])


def _numbers(source: SourceHeader, keyword: str, count: int) -> Matrix:
    """So many finite numbers of a header.

    Raises:
        NotAnalysedError: It does not state them.
    """
    try:
        values = np.array([float(text) for text in source.texts(keyword)])
    except ValueError:
        values = np.array([])
    if len(values) != count or not np.isfinite(values).all():
        raise _no_volume(f"a slice does not state its {keyword}")
    if keyword == "PixelSpacing" and not (values > 0).all():
        raise _no_volume("the pixel spacing is impossible")
    return values


def _no_volume(detail: str) -> NotAnalysedError:
    return NotAnalysedError(
        f"{detail}; send the whole series again", reason=NotAnalysedReason.GEOMETRY
    )
