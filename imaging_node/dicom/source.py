"""The header of a received image: what a result takes over from it, and what it needs to know.

Identity is never decoded and encoded again: it is carried as bytes, legal or not, so that the
result files into the study that the image came with.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from imaging_node.dicom.encoding import PARSE_ERRORS, RawElement, raw_element
from imaging_node.dicom.part10 import read_part10
from imaging_node.dicom.source_attributes import (
    CLEAN_KEYWORDS,
    EQUIPMENT_KEYWORDS,
    IDENTITY_KEYWORDS,
    REQUEST_KEYWORDS,
    TYPE_2_KEYWORDS,
)
from imaging_node.domain.errors import IdentityHeldError, IntegrityError

if TYPE_CHECKING:
    from datetime import tzinfo
    from pathlib import Path

# pydicom's validation warnings quote the value: patient data must not reach warnings or logs.
config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE

_INFLATED_HEADER_BYTES: Final = 32 * 2**20


def _by_tag(keywords: Iterable[str]) -> dict[int, str]:
    return {tag_for_keyword(keyword) or 0: keyword for keyword in keywords}


_IDENTITY: Final = _by_tag(IDENTITY_KEYWORDS)
_REQUEST_AND_EQUIPMENT: Final = _by_tag((*REQUEST_KEYWORDS, *EQUIPMENT_KEYWORDS))
_CLEAN: Final = frozenset(_by_tag(CLEAN_KEYWORDS))
_NAMES: Final = _by_tag(("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"))
_WANTED: Final = [Tag(tag) for tag in {*_IDENTITY, *_REQUEST_AND_EQUIPMENT, *_NAMES, *_CLEAN}]
_ABSENT: Final = {
    keyword: RawElement(tag_for_keyword(keyword) or 0, vr, b"")
    for keyword, vr in TYPE_2_KEYWORDS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHeader:
    """One received image without its pixels.

    Attributes:
        identity: Patient and study elements by keyword, byte for byte; every Type 2 element
            is there, empty where the source lacks it.
        carried: Request and equipment elements of the source by keyword, byte for byte.
        clean: Elements that describe the image, readable ones only; no patient data.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    identity: Mapping[str, RawElement]
    carried: Mapping[str, RawElement]
    clean: Dataset

    def text(self, keyword: str) -> str:
        """First value of a clean element as stripped text, "" if there is none."""
        values = self.texts(keyword)
        return values[0] if values else ""

    def texts(self, keyword: str) -> tuple[str, ...]:
        """All values of a clean element as stripped text."""
        value = self.clean.get(keyword)
        if value is None:
            return ()
        values = value if isinstance(value, (list, tuple)) or _is_multiple(value) else [value]
        return tuple(str(each).strip() for each in values)

    @property
    def patient_orientation(self) -> tuple[str, str] | None:
        """(0020,0020) when it states both directions in the standard's letters."""
        values = self.texts("PatientOrientation")
        if len(values) == 2 and all(_is_direction(value) for value in values):  # noqa: PLR2004 - rows, columns
            return values[0], values[1]
        return None

    @property
    def utc_offset(self) -> timezone | None:
        """Timezone Offset From UTC (0008,0201), which governs every date of the object."""
        return _utc_offset(self.text("TimezoneOffsetFromUTC"))

    def describing_dataset(self) -> Dataset:
        """What a library may read about the image: UIDs and clean elements, no patient data."""
        dataset = Dataset()
        dataset.update(self.clean)
        dataset.SOPClassUID = self.sop_class_uid
        dataset.SOPInstanceUID = self.sop_instance_uid
        dataset.SeriesInstanceUID = self.series_instance_uid
        dataset.StudyInstanceUID = self.study_instance_uid
        return dataset

    def local_time(self, moment: datetime) -> datetime:
        """`moment` in the source's offset, or in the site's local time if it states none."""
        zone: tzinfo | None = self.utc_offset
        return moment.astimezone(zone)


def read_source(path: Path) -> SourceHeader:
    """Header of a received Part 10 file, in any character set and transfer syntax.

    Raises:
        IdentityHeldError: The header names no study, series or instance, or several
            patients, or cannot be read: nobody can say where a result belongs.
        IntegrityError: The file cannot be opened.
    """
    try:
        dataset = _read(path)
    except FileNotFoundError as error:
        raise IntegrityError("a spooled file is gone; restore it from a backup") from error
    except (InvalidDicomError, zlib.error, *PARSE_ERRORS) as error:
        raise IdentityHeldError(
            "The header of a received file cannot be read; an administrator must look at it"
        ) from error
    identity = {**_ABSENT, **_carried(dataset, _IDENTITY)}
    _refuse_several_patients(identity)
    return SourceHeader(
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        transfer_syntax_uid=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        identity=identity,
        carried=_carried(dataset, _REQUEST_AND_EQUIPMENT),
        clean=_clean(dataset),
    )


def _read(path: Path) -> Dataset:
    return read_part10(
        path,
        inflated_limit_bytes=_INFLATED_HEADER_BYTES,
        stop_before_pixels=True,
        only=_WANTED,
    )


def _carried(dataset: Dataset, keywords: Mapping[int, str]) -> dict[str, RawElement]:
    """Elements that are there, by keyword; looked for from the dataset, which has few of them."""
    carried = {}
    for tag in dataset.keys():  # noqa: SIM118 - pydicom's iter() yields elements
        keyword = keywords.get(tag)
        element = raw_element(dataset, keyword) if keyword is not None else None
        if keyword is not None and element is not None:
            carried[keyword] = element
    return carried


def _uid(dataset: Dataset, keyword: str) -> str:
    element = raw_element(dataset, keyword)
    value = element.value.strip(b"\0 ").decode("ascii", "replace") if element else ""
    if not value:
        raise IdentityHeldError(
            f"A received file has no {keyword}; an administrator must look at it"
        )
    return value


def _refuse_several_patients(identity: Mapping[str, RawElement]) -> None:
    """Hold what names several patients; a backslash may also be half of a character."""
    value = identity["PatientID"].value
    if b"\\" not in value:
        return
    charset = identity.get("SpecificCharacterSet")
    names = charset.value.decode("ascii", "replace").strip() if charset else ""
    try:
        encodings = convert_encodings([name.strip() for name in names.split("\\")])
        text = decode_bytes(value, encodings, set())
    except PARSE_ERRORS:
        text = value.decode("latin-1")
    if "\\" in text:
        raise IdentityHeldError(
            "A received file names several patients in one Patient ID; the result is held:"
            " an administrator must correct the study and send it again"
        )


def _clean(dataset: Dataset) -> Dataset:
    clean = Dataset()
    for tag in list(dataset.keys()):
        if tag not in _CLEAN:
            continue
        try:
            element = dataset[tag]
            str(element.value)  # pydicom decodes numbers and items late
            clean.add(element)
        except PARSE_ERRORS:
            continue
    return clean


def _is_multiple(value: object) -> bool:
    """True for pydicom's MultiValue, which is no list."""
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes))


def _is_direction(value: str) -> bool:
    """True for letters of PS3.3 C.7.6.1.1.1: left, right, anterior, posterior, head, foot."""
    return 1 <= len(value) <= 3 and set(value) <= set("LRAPHF")  # noqa: PLR2004 - letters


def _utc_offset(text: str) -> timezone | None:
    """Offset from "&ZZXX" (PS3.3 C.12.1.1.1), None if absent or impossible."""
    if len(text) != 5 or text[0] not in "+-" or not text[1:].isdecimal():  # noqa: PLR2004 - &ZZXX
        return None
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    if int(text[3:5]) > 59 or minutes > 14 * 60:  # noqa: PLR2004 - minutes of an hour, +1400
        return None
    return timezone(timedelta(minutes=minutes if text[0] == "+" else -minutes)) if minutes else UTC
