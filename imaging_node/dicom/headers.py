"""What the header of a received instance says: who, what, and whether it is consistent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword

from imaging_node.dicom.header_scan import Header, scan_header
from imaging_node.dicom.identity import INSTANCE_CREATOR_UID
from imaging_node.dicom.statuses import (
    STATUS_CANNOT_UNDERSTAND,
    STATUS_DATASET_MISMATCH,
    STATUS_INVALID_SOP_INSTANCE,
)
from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.domain.observation import scanner_name
from imaging_node.domain.priority import ReadingPriority, ordered_priority
from imaging_node.domain.study import UNKNOWN_RATIO, ImageInstance

if TYPE_CHECKING:
    import mmap

_UID = re.compile(r"[0-9.]{1,64}")
# PS3.5 6.2, VR DS, of any length that somebody may write instead of its 16 characters.
_DECIMAL = re.compile(r"[+-]?([0-9]{1,64}\.?[0-9]{0,64}|\.[0-9]{1,64})([eE][+-]?[0-9]{1,4})?")
_DAYS_PER_YEAR = 365.25
_DATE_LENGTH = 8  # PS3.5 6.2, VR DA
_AGE_UNITS = {"D": 1 / _DAYS_PER_YEAR, "W": 7 / _DAYS_PER_YEAR, "M": 1 / 12, "Y": 1.0}

# Modality of a dataset that names none: PS3.4 B.5.
_MODALITY_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
}

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence",
    "PresentationIntentType", "PhotometricInterpretation", "Rows", "Columns", "NumberOfFrames",
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientAge",
    "AccessionNumber", "StudyDate", "StudyTime", "RequestedProcedurePriority",
    "RequestAttributesSequence", "SpecificCharacterSet", "InstanceCreatorUID", "CodeMeaning",
    "LossyImageCompressionRatio", "BitsAllocated",
    "PatientSex", "Manufacturer", "ManufacturerModelName",
)  # fmt: skip
_TAGS = {keyword: tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS}
_WANTED = frozenset(_TAGS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedHeader:
    """The header of one instance, as intake needs it.

    Attributes:
        image: For eligibility; `path` and `digest` are empty until the bytes are durable.
        patient_digest: SHA-256 of Patient ID and issuer, or of name and birth date when there
            is no ID; "" when the header names no patient.
        ordered_priority: From Requested Procedure Priority (0040,1003).
        is_own_result: Made by this product, e.g. a capture that the PACS routed back.
    """

    image: ImageInstance
    patient_digest: str
    accession_number: str
    study_at: datetime | None
    ordered_priority: ReadingPriority
    is_own_result: bool


def require_legal_uid(uid: str) -> None:
    """Refuse what cannot be a UID before it is used for anything.

    Raises:
        RejectedInstanceError: 0x0117.
    """
    if not _UID.fullmatch(uid):
        raise RejectedInstanceError(
            "Affected SOP Instance UID is not 1 to 64 digits and dots; correct it at the sender",
            status=STATUS_INVALID_SOP_INSTANCE,
        )


def read_header(
    dataset: bytes | mmap.mmap,
    *,
    transfer_syntax_uid: str,
    sop_class_uid: str | None = None,
    sop_instance_uid: str | None = None,
    begin: int = 0,
) -> ReceivedHeader:
    """Read the header of an encoded dataset, and hold it against the command that brought it.

    Args:
        dataset: As received; it may end anywhere after its header.
        sop_class_uid, sop_instance_uid: What the C-STORE command says; None for a file.
        begin: Where the dataset begins, behind file meta information.

    Raises:
        TruncatedHeaderError: 0xC000, `dataset` ends within its header.
        RejectedInstanceError: 0xA900 dataset and command disagree; 0xC000 not parsable, or a
            Study, Series or SOP UID is missing or illegal.
    """
    header = scan_header(dataset, transfer_syntax_uid, _WANTED, begin=begin)
    uids = {
        keyword: _ascii(header, keyword)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    }
    if sop_instance_uid is not None and (
        uids["SOPInstanceUID"] != sop_instance_uid or uids["SOPClassUID"] != sop_class_uid
    ):
        raise RejectedInstanceError(
            "the dataset's SOP Class or Instance UID is not the command's; correct the sender",
            status=STATUS_DATASET_MISMATCH,
        )
    for keyword, uid in uids.items():
        if not _UID.fullmatch(uid):
            raise RejectedInstanceError(
                f"{keyword} is missing or illegal; correct it at the sender",
                status=STATUS_CANNOT_UNDERSTAND,
            )
    return ReceivedHeader(
        image=_image(header, uids, transfer_syntax_uid, has_pixel_data=header.has_pixel_data),
        patient_digest=_patient_digest(header),
        accession_number=_text(header, "AccessionNumber"),
        study_at=_moment(_ascii(header, "StudyDate"), _ascii(header, "StudyTime")),
        ordered_priority=_priority(header),
        is_own_result=_ascii(header, "InstanceCreatorUID") == INSTANCE_CREATOR_UID,
    )


def _image(
    header: Header, uids: dict[str, str], transfer_syntax_uid: str, *, has_pixel_data: bool
) -> ImageInstance:
    modality = _ascii(header, "Modality").upper()
    return ImageInstance(
        path=Path(),
        digest="",
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=transfer_syntax_uid,
        modality=modality or _MODALITY_OF_CLASS.get(uids["SOPClassUID"], ""),
        body_part=_ascii(header, "BodyPartExamined").upper()
        or _code_meaning(header, "AnatomicRegionSequence"),
        view_position=_ascii(header, "ViewPosition").upper() or _coded_view(header),
        photometric_interpretation=_ascii(header, "PhotometricInterpretation").upper(),
        presentation_intent=_ascii(header, "PresentationIntentType").upper(),
        patient_age_years=_age_years(header),
        rows=_unsigned(header, "Rows"),
        columns=_unsigned(header, "Columns"),
        number_of_frames=max(1, _decimal(_ascii(header, "NumberOfFrames"))),
        has_pixel_data=has_pixel_data,
        lossy_compression_ratio=_total_ratio(header),
        bits_allocated=_unsigned(header, "BitsAllocated"),
        patient_sex=_ascii(header, "PatientSex").upper(),
        scanner=scanner_name(
            _ascii(header, "Manufacturer"), _ascii(header, "ManufacturerModelName")
        ),
    )


def _raw_bytes(header: Header, keyword: str) -> bytes:
    return header.values.get(_TAGS[keyword], b"")


def _ascii(header: Header, keyword: str) -> str:
    """First value of an element of the default repertoire, padding removed."""
    text = _raw_bytes(header, keyword).decode("latin-1")
    return text.split("\\")[0].strip(" \0")


def _text(header: Header, keyword: str, root: Header | None = None) -> str:
    """An element's text in its character set, or "" when that cannot be decoded."""
    value = _raw_bytes(header, keyword)
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").strip(" \0")
    names = _raw_bytes(root or header, "SpecificCharacterSet").decode("latin-1").split("\\")
    try:
        encodings = convert_encodings([each.strip(" \0") for each in names])
        return decode_bytes(value, encodings, set()).strip(" \0")
    except (LookupError, ValueError):
        return ""


def _unsigned(header: Header, keyword: str) -> int:
    value = _raw_bytes(header, keyword)[:2]
    return int.from_bytes(value, "little" if header.is_little_endian else "big")


def _decimal(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 1


def _total_ratio(header: Header) -> float:
    """What all lossy compressions together took; 0 where none is stated.

    Several values are successive steps (PS3.3 C.7.6.1.1.5.2), each of the rest of the one before.
    """
    text = _raw_bytes(header, "LossyImageCompressionRatio").decode("latin-1")
    stated = [value for each in text.split("\\") if (value := each.strip(" \0"))]
    if not stated:
        return 0.0
    # The largest number, not infinity, which JSON cannot keep.
    return min(UNKNOWN_RATIO, prod(_ratio(each) for each in stated))


def _ratio(stated: str) -> float:
    """One step's ratio; beyond every limit where the header says something, but not how much."""
    value = float(stated) if _DECIMAL.fullmatch(stated) else -1.0
    return UNKNOWN_RATIO if value < 0 else max(1.0, value)


def _code_meaning(header: Header, keyword: str) -> str:
    for item in header.items.get(_TAGS[keyword], ()):
        meaning = _text(item, "CodeMeaning", header).upper()
        if meaning:
            return meaning
    return ""


def _coded_view(header: Header) -> str:
    """View of the View Code Sequence, CID 4010, in the words of View Position."""
    meaning = _code_meaning(header, "ViewCodeSequence").replace("-", "").replace(" ", "")
    if not meaning:
        return ""
    for word, view in (
        ("LATERAL", "LATERAL"),
        ("OBLIQUE", "OBLIQUE"),
        ("POSTEROANTERIOR", "PA"),
        ("ANTEROPOSTERIOR", "AP"),
        ("FRONTAL", "AP"),
    ):
        if word in meaning:
            return view
    return meaning


def _patient_digest(header: Header) -> str:
    patient_id = _raw_bytes(header, "PatientID").strip(b" \0")
    if patient_id:
        parts = (b"id", patient_id, _raw_bytes(header, "IssuerOfPatientID").strip(b" \0"))
    else:
        name = _raw_bytes(header, "PatientName").strip(b" \0^")
        birth_date = _raw_bytes(header, "PatientBirthDate").strip(b" \0")
        if not name:
            return ""
        parts = (b"name", name, birth_date)
    return sha256(b"\n".join(parts)).hexdigest()


def _age_years(header: Header) -> float | None:
    # The unit is mandatory (PS3.5 6.2, VR AS). Without it years are meant in practice, and to
    # read nothing would let an adult pass as a patient of unknown age.
    stated = re.fullmatch(r"(\d{1,3})([DWMY]?)", _ascii(header, "PatientAge").upper())
    if stated:
        return int(stated[1]) * _AGE_UNITS[stated[2] or "Y"]
    born = _date(_ascii(header, "PatientBirthDate"))
    studied = _date(_ascii(header, "StudyDate"))
    if born is None or studied is None or studied < born:
        return None
    return (studied - born).days / _DAYS_PER_YEAR


def _date(text: str) -> date | None:
    # Not strptime, which costs as much as the rest of the header.
    if len(text) != _DATE_LENGTH or not text.isdecimal() or not text.isascii():
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _moment(study_date: str, study_time: str) -> datetime | None:
    day = _date(study_date)
    if day is None:
        return None
    clock = re.match(r"([01]\d|2[0-3])([0-5]\d)?([0-5]\d)?", study_time)
    hour, minute, second = (int(part or 0) for part in clock.groups()) if clock else (0, 0, 0)
    return datetime.combine(day, time(hour, minute, second), UTC)


def _priority(header: Header) -> ReadingPriority:
    nested = [
        _ascii(item, "RequestedProcedurePriority")
        for item in header.items.get(_TAGS["RequestAttributesSequence"], ())
    ]
    return ordered_priority(_ascii(header, "RequestedProcedurePriority"), *nested)
