"""The Image Library of a report (TID 1600) as bytes: which images, and how they are described."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from imaging_node.dicom.content_items import (
    HAS_ACQUISITION_CONTEXT,
    code_item,
    container,
    image_item,
    number_item,
    text_item,
    uid_item,
)
from imaging_node.dicom.encoding import PARSE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.dicom.source import SourceHeader

_SOURCE: Final = Code("260753009", "SCT", "Source")
_PIXELS: Final = Code("{pixels}", "UCUM", "Pixels")
_UNIT_VECTOR: Final = Code("{-1:1}", "UCUM", "{-1:1}")
_MILLIMETRE: Final = codes.UCUM.Millimeter

# The modalities for which TID 1602 has more rows: 1604 and 1603.
_CROSS_SECTIONAL: Final = frozenset({"CT", "MR", "PT"})
_PROJECTION: Final = frozenset({"CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"})
_UID: Final = re.compile(r"[0-9.]{1,64}")
_SPACING: Final = (
    (codes.DCM.HorizontalPixelSpacing, 1),
    (codes.DCM.VerticalPixelSpacing, 0),
)
_POSITION: Final = (
    codes.DCM.ImagePositionPatientX,
    codes.DCM.ImagePositionPatientY,
    codes.DCM.ImagePositionPatientZ,
)
_ORIENTATION: Final = (
    codes.DCM.ImageOrientationPatientRowX,
    codes.DCM.ImageOrientationPatientRowY,
    codes.DCM.ImageOrientationPatientRowZ,
    codes.DCM.ImageOrientationPatientColumnX,
    codes.DCM.ImageOrientationPatientColumnY,
    codes.DCM.ImageOrientationPatientColumnZ,
)
# Elements of decimal strings that descriptors use, with how many values they must have.
_DECIMALS: Final = {
    "ImagerPixelSpacing": 2,
    "PixelSpacing": 2,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "SliceThickness": 1,
    "SpacingBetweenSlices": 1,
}


def library_shape(source: SourceHeader) -> tuple[str, ...] | None:
    """What decides which descriptors an image has.

    Returns:
        None when an element that a descriptor needs is there but not as the standard has it:
        only highdicom says what becomes of such an image.
    """
    clean = source.clean
    modality = clean.get("Modality") or ""
    frame_of_reference = clean.get("FrameOfReferenceUID", "0")
    is_plain = (
        isinstance(modality, str)
        and isinstance(frame_of_reference, str)
        and _UID.fullmatch(frame_of_reference) is not None
        and _UID.fullmatch(source.sop_class_uid) is not None
        and _UID.fullmatch(source.sop_instance_uid) is not None
        and all(isinstance(clean.get(each, 0), int) for each in ("Rows", "Columns"))
        and tuple(clean.get("PatientOrientation") or ()) == (source.patient_orientation or ())
        and all(each not in clean or _decimals(source, each) for each in _DECIMALS)
    )
    if not is_plain:
        return None
    described = ("Modality", "FrameOfReferenceUID", "Rows", "Columns", *_DECIMALS)
    return (
        source.sop_class_uid,
        modality,
        str(source.patient_orientation is not None),
        *(each for each in described if each in clean),
    )


def encoded_library(sources: Sequence[SourceHeader]) -> bytes | None:
    """Container of the images whose descriptors can be built, None if there are none.

    Args:
        sources: Each with a `library_shape`.
    """
    groups: dict[tuple[str, ...], list[bytes]] = {}
    for source in sources:
        modality = _coded_modality(source.sop_class_uid)
        descriptors = _descriptors(source, modality) if modality is not None else None
        if modality is None or descriptors is None:
            continue
        frame_of_reference = str(source.clean.get("FrameOfReferenceUID", ""))
        entry = image_item(_SOURCE, source.sop_class_uid, source.sop_instance_uid, descriptors)
        groups.setdefault((modality.value, frame_of_reference), []).append(entry)
    if not groups:
        return None
    return container(
        codes.DCM.ImageLibrary,
        [container(codes.DCM.ImageLibraryGroup, entries) for entries in groups.values()],
    )


@lru_cache(maxsize=256)
def _coded_modality(sop_class_uid: str) -> Code | None:
    """Modality of a class of images by highdicom, None where it knows no images of that class."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = sop_class_uid, "0"
    image.Modality, image.Rows, image.Columns = "OT", 1, 1
    try:
        (modality, *_) = sr.ImageLibraryEntryDescriptors(image)
    except PARSE_ERRORS:
        return None
    value = modality.ConceptCodeSequence[0]
    return Code(value.value, value.scheme_designator, value.meaning)


def _descriptors(source: SourceHeader, modality: Code) -> list[bytes] | None:
    """Rows of TID 1602, None where one that the modality needs is missing."""
    clean = source.clean
    if "Modality" not in clean or "Rows" not in clean or "Columns" not in clean:
        return None
    if clean.Modality in _CROSS_SECTIONAL:
        more = _cross_sectional(source)
    elif clean.Modality in _PROJECTION:
        more = _projection(source)
    else:
        more = []
    if more is None:
        return None
    items = [code_item(HAS_ACQUISITION_CONTEXT, codes.DCM.Modality, modality)]
    if "FrameOfReferenceUID" in clean:
        uid = str(clean.FrameOfReferenceUID)
        items.append(uid_item(HAS_ACQUISITION_CONTEXT, codes.DCM.FrameOfReferenceUID, uid))
    items.append(_number(codes.DCM.PixelDataRows, clean.Rows, _PIXELS))
    items.append(_number(codes.DCM.PixelDataColumns, clean.Columns, _PIXELS))
    return items + more


def _projection(source: SourceHeader) -> list[bytes] | None:
    """TID 1603."""
    spacing = _decimals(source, "ImagerPixelSpacing")
    if source.patient_orientation is None or not spacing:
        return None
    row, column = source.patient_orientation
    return [
        text_item(HAS_ACQUISITION_CONTEXT, codes.DCM.PatientOrientationRow, row),
        text_item(HAS_ACQUISITION_CONTEXT, codes.DCM.PatientOrientationColumn, column),
        *(_number(name, spacing[index], _MILLIMETRE) for name, index in _SPACING),
    ]


def _cross_sectional(source: SourceHeader) -> list[bytes] | None:
    """TID 1604."""
    spacing = _decimals(source, "PixelSpacing")
    position = _decimals(source, "ImagePositionPatient")
    orientation = _decimals(source, "ImageOrientationPatient")
    thickness = _decimals(source, "SliceThickness")
    if not (spacing and position and orientation and thickness):
        return None
    apart = _decimals(source, "SpacingBetweenSlices")
    return [
        *(_number(name, spacing[index], _MILLIMETRE) for name, index in _SPACING),
        _number(codes.DCM.SliceThickness, thickness[0], _MILLIMETRE),
        *(_number(*each, _MILLIMETRE) for each in zip(_POSITION, position, strict=True)),
        *(_number(*each, _UNIT_VECTOR) for each in zip(_ORIENTATION, orientation, strict=True)),
        *(_number(codes.DCM.SpacingBetweenSlices, each, _MILLIMETRE) for each in apart),
    ]


def _number(name: Code, value: float, unit: Code) -> bytes:
    return number_item(HAS_ACQUISITION_CONTEXT, name, value, unit)


def _decimals(source: SourceHeader, keyword: str) -> list[float]:
    """Values of an element of decimal strings; empty unless there are as many as there must be."""
    value = source.clean.get(keyword)
    values = [value] if isinstance(value, float) else list(value or ())
    is_plain = len(values) == _DECIMALS[keyword] and all(
        isinstance(each, float) and math.isfinite(each) for each in values
    )
    return values if is_plain else []
