"""CT series of nobody with a geometry of one's choice, as Part 10 files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydicom.uid import CTImageStorage

from imaging_node.dicom.headers import read_header
from imaging_node.domain.study import Study
from imaging_node.store.content_digest import digest_of
from tests.dicom.synthetic_sources import derived_uid, radiograph, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.domain.study import ImageInstance

_NOT_OF_CT = (
    *("PresentationIntentType", "ViewPosition", "ImageLaterality", "PositionerType"),
    *("ViewCodeSequence", "AcquisitionContextSequence", "ImagerPixelSpacing", "DetectorType"),
    *("PresentationLUTShape", "PixelIntensityRelationship", "PixelIntensityRelationshipSign"),
    *("AnatomicRegionSequence", "RescaleType", "PatientOrientation", "BurnedInAnnotation"),
)
INTERCEPT = -1024


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the slices lie; `step_mm` leads from one slice's origin to the next one's.

    Attributes:
        gaps: Steps before each slice but the first, in units of `step_mm`; empty: all 1.
    """

    row: Sequence[float] = (1.0, 0.0, 0.0)
    column: Sequence[float] = (0.0, 1.0, 0.0)
    spacing_mm: tuple[float, float] = (0.8, 0.7)
    step_mm: Sequence[float] = (0.0, 0.0, 3.0)
    origin_mm: Sequence[float] = (-20.0, -30.0, 40.0)
    gaps: Sequence[float] = field(default_factory=tuple)

    def origins(self, slices: int) -> npt.NDArray[np.float64]:
        """Position of the first pixel of each slice."""
        gaps = self.gaps or [1.0] * (slices - 1)
        at = np.concatenate([[0.0], np.cumsum(gaps)])
        steps: npt.NDArray[np.float64] = at[:, None] * np.asarray(self.step_mm, np.float64)
        return steps + np.asarray(self.origin_mm, np.float64)


OBLIQUE = Geometry(
    row=(0.8, 0.6, 0.0),
    column=(-0.48, 0.64, 0.6),
    spacing_mm=(0.9, 0.6),
    step_mm=(0.36 * 4, -0.48 * 4, 0.8 * 4),
)
FROM_HEAD_TO_FOOT = Geometry(row=(-1.0, 0.0, 0.0), column=(0.0, 1.0, 0.0), step_mm=(0, 0, -2.5))
TILTED = Geometry(row=(1.0, 0.0, 0.0), column=(0.0, 0.95, -0.3122499), step_mm=(0, 0, 4.2))


def ct_series(
    folder: Path,
    hounsfield: npt.NDArray[np.int16],
    geometry: Geometry | None = None,
    *,
    name: str = "ct",
    change: Callable[[Dataset, int], None] | None = None,
    file_order: Sequence[int] | None = None,
) -> list[Path]:
    """Files of one series, one a slice.

    Args:
        hounsfield: Shape (slices, rows, columns), in the order of the geometry.
        change: Spoils a slice by its index.
        file_order: Which slice is written as the first file, and so on.
    """
    geometry = geometry or Geometry()
    origins = geometry.origins(len(hounsfield))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place, index in enumerate(file_order or range(len(hounsfield))):
        data = _slice(hounsfield[index], geometry, origins[index], name, index)
        if change is not None:
            change(data, index)
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        paths.append(write(data, folder / f"{place:03}.dcm"))
    return paths


def read_study(paths: Sequence[Path]) -> Study:
    """The study that files belong to, as the node holds it."""
    images: list[ImageInstance] = []
    for path in paths:
        payload = path.read_bytes()
        begin = payload.index(b"DICM") + 4
        length = int.from_bytes(payload[begin + 8 : begin + 12], "little")
        header = read_header(
            payload[begin + 12 + length :], transfer_syntax_uid="1.2.840.10008.1.2.1"
        )
        kept = {
            name: getattr(header.image, name)
            for name in header.image.__dataclass_fields__
            if name not in ("path", "digest")
        }
        images.append(type(header.image)(**kept, path=path, digest=digest_of(payload)))
    return Study(study_instance_uid=images[0].study_instance_uid, instances=tuple(images))


def _slice(
    hounsfield: npt.NDArray[np.int16],
    geometry: Geometry,
    origin: npt.NDArray[np.float64],
    name: str,
    index: int,
) -> Dataset:
    data = radiograph(name)
    for keyword in _NOT_OF_CT:
        delattr(data, keyword)
    data.SOPClassUID, data.Modality = CTImageStorage, "CT"
    data.SOPInstanceUID = derived_uid(name, "slice", str(index))
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.StudyDescription, data.SeriesDescription = "CT head", "axial"
    data.BodyPartExamined, data.InstanceNumber, data.AcquisitionNumber = "HEAD", index + 1, 1
    data.KVP = 120
    data.PatientPosition = "HFS"
    data.FrameOfReferenceUID = derived_uid(name, "frame of reference")
    data.PositionReferenceIndicator = ""
    data.ImageOrientationPatient = [round(each, 7) for each in (*geometry.row, *geometry.column)]
    data.ImagePositionPatient = [round(float(each), 6) for each in origin]
    data.PixelSpacing = list(geometry.spacing_mm)
    data.SliceThickness = 3.0
    stored = (hounsfield.astype(np.int32) - INTERCEPT).astype(np.uint16)
    data.RescaleSlope, data.RescaleIntercept = 1, INTERCEPT
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.WindowCenter, data.WindowWidth = 40, 80
    data.add_new("PixelData", "OW", stored.tobytes())
    return data
