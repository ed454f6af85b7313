"""A series becomes a volume only if its slices make one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.source import read_source
from imaging_node.dicom.volume import SliceStack, stack_slices
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.volume import Volume
from tests.dicom.synthetic_series import (
    FROM_HEAD_TO_FOOT,
    OBLIQUE,
    TILTED,
    Geometry,
    ct_series,
)
from tests.dicom.synthetic_sources import derived_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom" / "ct_series"
HOUNSFIELD = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7) - 200


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    opened = DecodingPool(processes=1, memory_limit_bytes=2**30, time_limit_s=20)
    yield opened
    opened.close()


def _stack(paths: list[Path]) -> SliceStack:
    return stack_slices([read_source(path) for path in paths])


@pytest.mark.parametrize("geometry", [Geometry(), OBLIQUE, FROM_HEAD_TO_FOOT, TILTED])
def test_every_voxel_lies_where_its_header_says_whatever_the_order_of_files(
    geometry: Geometry, tmp_path: Path, pool: DecodingPool
) -> None:
    paths = ct_series(tmp_path, HOUNSFIELD, geometry, file_order=[3, 0, 4, 1, 2])
    stack = _stack(paths)
    by_uid = {read_source(path).sop_instance_uid: path for path in paths}
    volume = stack.volume(
        [pool.modality_values(by_uid[each.sop_instance_uid]) for each in stack.sources]
    )
    affine = volume.regular_grid().affine
    origins = geometry.origins(5)
    for place, source in enumerate(stack.sources):
        index = int(
            next(
                number
                for number in range(5)
                if derived_uid("ct", "slice", str(number)) == source.sop_instance_uid
            )
        )
        assert (volume.values[place] == HOUNSFIELD[index]).all()  # HU, exactly
        row, column = 2, 5
        expected = (
            origins[index]
            + column * geometry.spacing_mm[1] * np.asarray(geometry.row)
            + row * geometry.spacing_mm[0] * np.asarray(geometry.column)
        )
        assert affine @ [column, row, place, 1] == pytest.approx([*expected, 1], abs=1e-3)


def _missing(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.name != "002.dcm"]


def _end(data: Dataset, index: int) -> bool:
    return index == 4 and data is not None


def _turned(data: Dataset, index: int) -> None:
    if _end(data, index):
        data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def _other_spacing(data: Dataset, index: int) -> None:
    if _end(data, index):
        data.PixelSpacing = [0.8, 0.8]


def _other_frame(data: Dataset, index: int) -> None:
    if _end(data, index):
        data.FrameOfReferenceUID = derived_uid("other")


def _twice(data: Dataset, index: int) -> None:
    if _end(data, index):
        data.ImagePositionPatient = [-20.0, -30.0, 49.0]


def _beside(data: Dataset, index: int) -> None:
    if index == 2:
        data.ImagePositionPatient = [-19.0, -30.0, 46.0]


def _far(data: Dataset, index: int) -> None:
    if _end(data, index):
        data.ImagePositionPatient = [-20.0, -30.0, 58.0]


def _localizer(data: Dataset, index: int) -> None:
    if index == 0:
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def _nowhere(data: Dataset, index: int) -> None:
    if index == 1:
        del data.ImagePositionPatient


def _larger(data: Dataset, index: int) -> None:
    if index == 1:
        data.Columns = 8


@pytest.mark.parametrize(
    "spoil",
    [
        *(_turned, _other_spacing, _other_frame, _twice, _beside, _far, _localizer, _nowhere),
        _larger,
    ],
)
def test_slices_that_make_no_volume_are_refused_with_a_reason(
    spoil: Callable[[Dataset, int], None], tmp_path: Path
) -> None:
    with pytest.raises(NotAnalysedError) as caught:
        _stack(ct_series(tmp_path, HOUNSFIELD, change=spoil))
    assert caught.value.reason is NotAnalysedReason.GEOMETRY


def test_a_missing_slice_is_a_gap_even_among_thin_overlapping_ones(tmp_path: Path) -> None:
    paths = ct_series(tmp_path, HOUNSFIELD, Geometry(step_mm=(0, 0, 1.0)))
    assert len(_stack(paths).sources) == 5
    with pytest.raises(NotAnalysedError, match="missing"):
        _stack(_missing(paths))


def test_unequal_steps_are_taken_only_where_the_slices_leave_nothing_out(tmp_path: Path) -> None:
    gaps = Geometry(step_mm=(0, 0, 1.0), gaps=[2.0, 2.0, 4.0, 4.0])
    with pytest.raises(NotAnalysedError, match="gaps"):
        _stack(ct_series(tmp_path / "gaps", HOUNSFIELD, gaps))  # 3 mm thick

    def thicken(data: Dataset, index: int) -> None:
        data.SliceThickness = 2.0 if index < 2 else 4.0

    closed = Geometry(step_mm=(0, 0, 1.0), gaps=[2.0, 3.0, 4.0, 4.0])
    stack = _stack(ct_series(tmp_path / "closed", HOUNSFIELD, closed, change=thicken))
    volume = stack.volume([np.asarray(each, np.float32) for each in HOUNSFIELD])
    grid = volume.regular_grid()
    assert grid.is_interpolated
    assert not volume.is_regular
    # The ends are the source's own; every source slice has a neighbour within half a step.
    assert (grid.values[0] == HOUNSFIELD[0]).all()
    assert (grid.values[-1] == HOUNSFIELD[-1]).all()
    step = np.linalg.norm(grid.affine[:3, 2])
    depths = np.array([0.0, 2.0, 5.0, 9.0, 13.0])
    assert np.abs(grid.nearest * step - depths).max() <= step / 2 + 1e-9
    assert volume.voxel_volumes_mm3 == pytest.approx(
        np.array([2.0, 2.5, 3.5, 4.0, 4.0]) * 0.8 * 0.7
    )


def test_interpolation_between_slices_is_linear() -> None:
    values = np.array([0.0, 10.0, 20.0, 60.0, 100.0], np.float32).reshape(5, 1, 1)
    values = np.broadcast_to(values, (5, 2, 2)).copy()
    depths = np.array([0.0, 1.0, 2.0, 6.0, 10.0])  # 10 per millimetre
    volume = Volume(
        values=values,
        origins_mm=np.outer(depths, [0.0, 0.0, 1.0]),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        row_spacing_mm=1.0,
        column_spacing_mm=1.0,
    )
    grid = volume.regular_grid()
    at = np.arange(len(grid.values)) * grid.affine[2, 2]
    assert grid.values[:, 0, 0] == pytest.approx(10 * at, abs=1e-4)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared images are not there")
def test_a_real_head_with_tilted_gantry_and_two_slice_thicknesses_is_one_volume() -> None:
    stack = _stack(sorted(SHARED.rglob("*.dcm")))
    gaps = np.diff(stack.origins_mm @ np.cross(stack.row_direction, stack.column_direction))
    assert len(stack.sources) == 28
    assert gaps.min() == pytest.approx(1.08, abs=0.01)
    assert gaps.max() == pytest.approx(7.0, abs=0.01)
    thinned = [read_source(path) for path in sorted(SHARED.rglob("*.dcm"))]
    with pytest.raises(NotAnalysedError, match="missing"):
        stack_slices([*thinned[:5], *thinned[6:]])
