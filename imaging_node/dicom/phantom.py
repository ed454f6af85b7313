"""Synthetic radiographs as DICOM files: the patients of the demo and of the tests."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from imaging_node.dicom.hand import render_hand
from imaging_node.dicom.projection import PIXEL_SPACING_MM, Axis
from imaging_node.dicom.thorax import Opacity, render_chest

if TYPE_CHECKING:
    from imaging_node.domain.finding import FloatImage

Part = Literal["chest frontal", "chest lateral", "hand"]
Encoding = Literal["plain", "jpeg", "damaged jpeg"]

_UID_NAMESPACE = uuid.UUID("b8a1f1c2-5f0c-5d2e-9a52-2f5b7c1f9e10")
_STUDY_AT = datetime(2026, 11, 2, 10, 15, tzinfo=UTC)
_PATIENT_AGE_YEARS = 4
_LARGEST_12_BIT = 4095

# BodyPartExamined, region and view codes (CID 4, CID 4010), View Position, laterality,
# Patient Orientation and procedure.
_PARTS: dict[Part, dict[str, tuple[str, ...]]] = {
    "chest frontal": {
        "part": ("CHEST", "51185008", "Chest"),
        "view": ("AP", "399348003", "antero-posterior"),
        "orientation": ("L", "F"),
        "procedure": ("399208008", "Plain chest X-ray"),
    },
    "chest lateral": {
        "part": ("CHEST", "51185008", "Chest"),
        "view": ("LL", "399067008", "lateral"),
        "orientation": ("P", "F"),
        "procedure": ("399208008", "Plain chest X-ray"),
    },
    "hand": {
        "part": ("HAND", "85562004", "Hand"),
        "view": ("PA", "272479007", "postero-anterior"),
        "orientation": ("R", "F"),
        "procedure": ("37815002", "Plain X-ray of hand"),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomStudy:
    """A study of one synthetic radiograph of a patient who does not exist.

    Attributes:
        name: Short name, unique in a collection; file names and UIDs are made of it.
        description: What the picture shows, for people.
        family_name: Given to "PHANTOM"; also seeds Patient ID and accession number.
        number: Positive; seeds the anatomy and numbers the patient.
        opacities: Only in a chest.
        ordered_priority: Requested Procedure Priority (0040,1003), "" for none.
    """

    name: str
    description: str
    family_name: str
    number: int
    part: Part = "chest frontal"
    opacities: tuple[Opacity, ...] = ()
    photometric_interpretation: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    encoding: Encoding = "plain"
    ordered_priority: str = ""

    def picture(self) -> FloatImage:
        """P-Values in [0, 1], 1 is white; shape (rows, columns)."""
        if self.part == "hand":
            return render_hand(seed=self.number)
        axis: Axis = "lateral" if self.part == "chest lateral" else "frontal"
        return render_chest(seed=self.number, opacities=self.opacities, axis=axis)

    def part_10(self, *, run: str = "", study_at: datetime = _STUDY_AT) -> bytes:
        """The study's one instance as a whole DICOM file.

        Args:
            run: Part of every UID and of the accession number: the same run gives the same
                bytes, another run another study.
            study_at: Study Date and Time.
        """
        buffer = BytesIO()
        phantom_dataset(self, run=run, study_at=study_at).save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def phantom_dataset(
    study: PhantomStudy,
    *,
    run: str = "",
    study_at: datetime = _STUDY_AT,
    picture: FloatImage | None = None,
) -> Dataset:
    """A Digital X-Ray Image for presentation, valid under PS3.3 A.26.

    Args:
        study: What to show and how to encode it.
        run, study_at: As in `PhantomStudy.part_10`.
        picture: P-Values to wrap instead of the study's own rendering.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = _uid(run, study, "instance")
    dataset.StudyInstanceUID = _uid(run, study, "study")
    dataset.SeriesInstanceUID = _uid(run, study, "series")
    _describe_patient(dataset, study, study_at)
    _describe_order(dataset, study, run, study_at)
    _describe_acquisition(dataset, study)
    values = study.picture() if picture is None else picture
    if study.photometric_interpretation == "MONOCHROME1":
        values = (1 - values).astype(np.float32)
    if study.encoding == "plain":
        _put_plain(dataset, values)
    else:
        _put_jpeg(dataset, values, is_damaged=study.encoding == "damaged jpeg")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _uid(run: str, study: PhantomStudy, level: str) -> str:
    """A UID from a name (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_UID_NAMESPACE, f'{run}/{study.name}/{level}').int}"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _describe_patient(dataset: Dataset, study: PhantomStudy, study_at: datetime) -> None:
    dataset.PatientName = f"PHANTOM^{study.family_name}"
    dataset.PatientID = f"PHANTOM-{study.number:04d}"
    dataset.PatientBirthDate = f"{study_at.year - _PATIENT_AGE_YEARS}0101"
    dataset.PatientAge = f"{_PATIENT_AGE_YEARS:03d}Y"
    dataset.PatientSex = "O"
    dataset.PatientOrientation = list(_PARTS[study.part]["orientation"])


def _describe_order(dataset: Dataset, study: PhantomStudy, run: str, study_at: datetime) -> None:
    date, time = study_at.strftime("%Y%m%d"), study_at.strftime("%H%M%S")
    for level in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{level}Date", date)
        setattr(dataset, f"{level}Time", time)
    offset = study_at.strftime("%z")
    dataset.TimezoneOffsetFromUTC = offset or "+0000"
    suffix = uuid.uuid5(_UID_NAMESPACE, run).hex[:6].upper()
    dataset.AccessionNumber = f"PH{suffix}{study.number:04d}"
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = str(study.number)
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    code, meaning = _PARTS[study.part]["procedure"]
    dataset.StudyDescription = f"{meaning}, synthetic"
    dataset.SeriesDescription = "Synthetic radiograph"
    request = Dataset()
    request.RequestedProcedureID = f"RP{study.number}"
    request.ScheduledProcedureStepID = f"SPS{study.number}"
    request.RequestedProcedureDescription = meaning
    request.RequestedProcedureCodeSequence = [_code(code, meaning)]
    if study.ordered_priority:
        request.RequestedProcedurePriority = study.ordered_priority
    dataset.RequestAttributesSequence = [request]


def _describe_acquisition(dataset: Dataset, study: PhantomStudy) -> None:
    about = _PARTS[study.part]
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.Manufacturer = "imaging-node"
    dataset.ManufacturerModelName = "Parametric phantom"
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = "1"
    dataset.ImageType = ["DERIVED", "PRIMARY", ""]
    dataset.BodyPartExamined = about["part"][0]
    dataset.AnatomicRegionSequence = [_code(*about["part"][1:])]
    dataset.ImageLaterality = "R" if study.part == "hand" else "U"
    dataset.ViewPosition = about["view"][0]
    view = _code(*about["view"][1:])
    view.ViewModifierCodeSequence = []
    dataset.ViewCodeSequence = [view]
    dataset.PositionerType = "NONE"
    dataset.DetectorType = "DIRECT"
    dataset.ImagerPixelSpacing = [PIXEL_SPACING_MM, PIXEL_SPACING_MM]
    dataset.AcquisitionContextSequence = []
    dataset.BurnedInAnnotation = "NO"
    dataset.SamplesPerPixel = 1
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    is_inverse = study.photometric_interpretation == "MONOCHROME1"
    dataset.PhotometricInterpretation = study.photometric_interpretation
    dataset.PresentationLUTShape = "INVERSE" if is_inverse else "IDENTITY"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1 if is_inverse else 1


def _put_plain(dataset: Dataset, values: FloatImage) -> None:
    stored = np.round(values * _LARGEST_12_BIT).astype("<u2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.LossyImageCompression = "00"
    dataset.PixelData = stored.tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _put_jpeg(dataset: Dataset, values: FloatImage, *, is_damaged: bool) -> None:
    """Baseline JPEG of 8 bits (PS3.5 A.4.1), as older detectors and gateways send."""
    stored = np.round(values * 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=92)
    frame = buffer.getvalue()
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.LossyImageCompressionRatio = round(stored.size / len(frame), 2)
    if is_damaged:
        # Start of Image, then what a failing disk might return.
        noise = np.random.default_rng(len(frame)).integers(0, 255, 4096, dtype=np.uint8)
        frame = frame[:2] + noise.tobytes()
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


DEMO_STUDIES: tuple[PhantomStudy, ...] = (
    PhantomStudy(name="clear", description="chest, clear lungs", family_name="ONE", number=1),
    PhantomStudy(
        name="right-lower-opacity",
        description="chest, opacity in the right lower zone",
        family_name="TWO",
        number=2,
        opacities=(Opacity(centre_mm=(-44, 5, 145), radii_mm=(24, 34, 24), density=0.95),),
    ),
    PhantomStudy(
        name="left-upper-opacity",
        description="chest, opacity in the left upper zone, ordered STAT",
        family_name="THREE",
        number=3,
        opacities=(Opacity(centre_mm=(42, 0, 100), radii_mm=(22, 34, 24), density=0.95),),
        ordered_priority="STAT",
    ),
    PhantomStudy(
        name="both-lungs-opacity",
        description="chest, large opacities in both lungs",
        family_name="FOUR",
        number=4,
        opacities=(
            Opacity(centre_mm=(-42, 5, 125), radii_mm=(30, 44, 46), density=1.0),
            Opacity(centre_mm=(48, 0, 118), radii_mm=(26, 42, 46), density=1.0),
        ),
    ),
    PhantomStudy(
        name="lateral",
        description="chest, lateral view",
        family_name="FIVE",
        number=5,
        part="chest lateral",
    ),
    PhantomStudy(
        name="hand", description="hand, not a chest", family_name="SIX", number=6, part="hand"
    ),
    PhantomStudy(
        name="monochrome1",
        description="chest, clear lungs, MONOCHROME1",
        family_name="SEVEN",
        number=7,
        photometric_interpretation="MONOCHROME1",
    ),
    PhantomStudy(
        name="jpeg-opacity",
        description="chest, opacity in the left lower zone, JPEG",
        family_name="EIGHT",
        number=8,
        encoding="jpeg",
        opacities=(Opacity(centre_mm=(52, 10, 150), radii_mm=(20, 36, 26), density=0.95),),
    ),
    PhantomStudy(
        name="undecodable",
        description="chest, damaged JPEG",
        family_name="NINE",
        number=9,
        encoding="damaged jpeg",
    ),
)
"""What the demo sends: readable and unreadable, of the chest and not."""
