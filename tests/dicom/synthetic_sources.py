"""Chest radiographs of nobody, as Part 10 files: one clean, others as odd as real ones."""

from __future__ import annotations

import uuid
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.uid import UID

StoredImage = npt.NDArray[np.uint16]
MAXIMUM = 4095  # 12 bits stored


def derived_uid(*names: str) -> str:
    """UID of a synthetic study, series or instance."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(names)).int}"


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def thorax(rows: int, columns: int) -> StoredImage:
    """A thorax-like picture, bright bone; a marker at image right is patient left."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    picture = 0.78 / (1 + np.exp((np.abs(x) - 0.9) * 30))
    for centre in (-0.42, 0.42):
        picture -= 0.5 * np.exp(-(((x - centre) / 0.28) ** 4) - ((y + 0.02) / 0.62) ** 4)
    picture += 0.25 * np.exp(-(((x - 0.12) / 0.3) ** 2) - ((y - 0.3) / 0.33) ** 2)
    picture += 0.18 * np.exp(-((x / 0.1) ** 2))
    for height in np.arange(-0.6, 0.6, 0.14):
        rib = np.exp(-(((y - height - 0.15 * x * x) / 0.02) ** 2))
        picture += 0.05 * rib * (np.abs(x) > 0.1)
    noise = np.random.default_rng(7).normal(0, 0.008, picture.shape)
    picture = picture + noise
    picture[int(rows * 0.06) : int(rows * 0.1), int(columns * 0.86) : int(columns * 0.93)] = 1.0
    stored: StoredImage = np.clip(picture * 3600 + 200, 0, MAXIMUM).astype(np.uint16)
    return stored


def radiograph(name: str = "plain", *, rows: int = 64, columns: int = 48) -> Dataset:
    """Digital X-Ray image for presentation, clean by dciodvfy."""
    data = Dataset()
    _add_identity(data, name)
    _add_acquisition(data)
    add_pixels(data, thorax(rows, columns))
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def add_pixels(data: Dataset, stored: StoredImage) -> None:
    """Native 12-bit pixel data."""
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.add_new("PixelData", "OW", stored.tobytes())


def write(
    data: Dataset,
    path: Path,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    overrides: dict[str, bytes] | None = None,
) -> Path:
    """Part 10 file in a native or deflated transfer syntax.

    Values of `overrides`, by keyword, go into the file as they are, legal or not.
    """
    raw = {Tag(keyword): value for keyword, value in (overrides or {}).items()}
    data.file_meta.TransferSyntaxUID = transfer_syntax
    body = DicomBytesIO()
    body.is_implicit_VR = transfer_syntax.is_implicit_VR
    body.is_little_endian = transfer_syntax.is_little_endian
    for tag in sorted({*raw, *(element.tag for element in data)}):
        element: DataElement | RawDataElement
        if tag in raw:
            value = raw[tag] + b" " * (len(raw[tag]) % 2)
            element = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
        else:
            element = data[tag]
        write_data_element(body, element, "latin-1")
    file = DicomBytesIO()
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(file, data.file_meta, enforce_standard=True)
    encoded = body.getvalue()
    if transfer_syntax.is_deflated:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        encoded = deflater.compress(encoded) + deflater.flush()
    path.write_bytes(file.getvalue() + encoded)
    return path


def _add_identity(data: Dataset, name: str) -> None:
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = derived_uid(name, "instance")
    data.StudyInstanceUID = derived_uid(name, "study")
    data.SeriesInstanceUID = derived_uid(name, "series")
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20261102"
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = "101500"
    data.TimezoneOffsetFromUTC = "+0100"
    data.AccessionNumber = "ACC-2026-0042"
    data.StudyID, data.SeriesNumber, data.InstanceNumber = "S42", 1, 1
    data.StudyDescription, data.SeriesDescription = "XR chest PA", "PA"
    data.ReferringPhysicianName = "Ref^Doctor"
    data.PatientName, data.PatientID = "Müster^Jürgen", "P-000042"
    data.IssuerOfPatientID = "DEMO-MRN"
    data.PatientBirthDate, data.PatientSex, data.PatientAge = "19600229", "M", "066Y"
    procedure = code_item("399208008", "SCT", "Plain chest X-ray")
    data.ProcedureCodeSequence = [procedure]
    request = Dataset()
    request.AccessionNumber = data.AccessionNumber
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP42", "SPS42"
    request.RequestedProcedureDescription = "XR chest PA"
    request.RequestedProcedureCodeSequence = [procedure]
    data.RequestAttributesSequence = [request]


def _add_acquisition(data: Dataset) -> None:
    data.ImageType = ["DERIVED", "PRIMARY", ""]
    data.Modality, data.PresentationIntentType = "DX", "FOR PRESENTATION"
    data.Manufacturer, data.ManufacturerModelName = "Synthetic Imaging", "DXsim"
    data.DeviceSerialNumber, data.SoftwareVersions = "S1", "1.0"
    data.InstitutionName = "Demo Hospital"
    data.BodyPartExamined, data.ViewPosition = "CHEST", "PA"
    data.PatientOrientation = ["L", "F"]
    data.ImageLaterality, data.PositionerType = "U", "NONE"
    data.AnatomicRegionSequence = [code_item("51185008", "SCT", "Chest")]
    view = code_item("399348003", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = []
    data.ViewCodeSequence = [view]
    data.AcquisitionContextSequence = []
    data.ImagerPixelSpacing = [0.2, 0.2]
    data.DetectorType, data.BurnedInAnnotation = "DIRECT", "NO"
    data.LossyImageCompression = "00"
    data.PhotometricInterpretation, data.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", 1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "US"
    data.WindowCenter, data.WindowWidth = 2048, 4096
