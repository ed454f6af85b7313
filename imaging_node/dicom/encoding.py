"""Explicit VR Little Endian bytes, with elements of a source carried through unread.

pydicom decodes text when it copies a dataset from one encoding to another, and so loses what
is not legal. A `RawElement` keeps the bytes of the source instead.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_sequence
from pydicom.filewriter import write_data_element
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import VR

from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydicom.dataset import Dataset

MAXIMUM_DEPTH: Final = 16
"""Sequences nested deeper than this are left out of a copy."""

_LONG_LENGTH: Final = frozenset(
    {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
)
_SHORT_LENGTH_LIMIT: Final = 0xFFFF
_PADDING: Final = {"UI": b"\0", "OB": b"\0", "UN": b"\0"}
_LENGTH_OF_16_BITS: Final = struct.Struct("<H")
_LENGTH_OF_32_BITS: Final = struct.Struct("<HL")  # behind two reserved bytes
# Bytes of one value, for the numbers whose byte order differs between transfer syntaxes.
_NUMBER_WIDTH: Final = {"US": 2, "SS": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}
_ITEM: Final = struct.Struct("<HHL")
_PIXEL_DATA: Final = struct.Struct("<HH2sHL")

# Errors of pydicom on values that are not what their VR says.
PARSE_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class RawElement(NamedTuple):
    """One element as it will stand in the file.

    Attributes:
        tag: Group and element number.
        vr: Two-letter value representation.
        value: Bytes in little endian order, without padding.
    """

    tag: int
    vr: str
    value: bytes

    def encoded(self) -> bytes:
        """Explicit VR Little Endian element (PS3.5 7.1.2), padded to even length."""
        tag, vr, value = self
        if len(value) % 2:
            value += _PADDING.get(vr, b" ")
        if vr in _LONG_LENGTH:
            return _head(tag, vr) + _LENGTH_OF_32_BITS.pack(0, len(value)) + value
        if len(value) > _SHORT_LENGTH_LIMIT:
            # PS3.5 6.2.2: a value too long for its VR in this encoding is sent as UN.
            return _head(tag, "UN") + _LENGTH_OF_32_BITS.pack(0, len(value)) + value
        return _head(tag, vr) + _LENGTH_OF_16_BITS.pack(len(value)) + value


def raw_element(dataset: Dataset, keyword: str) -> RawElement | None:
    """Element of a received dataset by keyword, its value byte for byte.

    Returns:
        None if the dataset lacks it, or if a sequence cannot be read.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return None
    return _raw(dataset, tag, depth=0)


def raw_items(element: RawElement | None) -> list[Dataset]:
    """Items of a carried sequence, each with its elements still unread."""
    if element is None or not element.value:
        return []
    value = BytesIO(element.value)
    return list(read_sequence(value, False, True, len(element.value), "iso8859"))


def encoded_elements(dataset: Dataset) -> dict[int, bytes]:
    """Explicit VR Little Endian elements of `dataset` by tag, as pydicom writes them.

    Text of `dataset` itself is ASCII, so that it reads the same under every character set.
    """
    encoded = {}
    for tag in dataset.keys():  # noqa: SIM118 - pydicom's iter() yields elements
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, dataset[tag], "iso8859")
        encoded[int(tag)] = buffer.getvalue()
    return encoded


def encode_file(
    elements: Mapping[int, bytes],
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    samples: bytes | memoryview = b"",
) -> bytes:
    """Part 10 file (PS3.10 7.1) with a preamble of zeros.

    Args:
        elements: Encoded elements of the dataset by tag.
        sop_class_uid, sop_instance_uid: Of the dataset.
        samples: Pixel Data of 8 bits or packed single bits (PS3.5 8.1.1), which no element has a
            higher tag than; copied once.
    """
    meta = b"".join(
        RawElement(tag, vr, value).encoded()
        for tag, vr, value in (
            (0x00020001, "OB", b"\0\1"),
            (0x00020002, "UI", sop_class_uid.encode("latin-1")),
            (0x00020003, "UI", sop_instance_uid.encode("latin-1")),
            (0x00020010, "UI", ExplicitVRLittleEndian.encode()),
            (0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode()),
            (0x00020013, "SH", IMPLEMENTATION_VERSION_NAME.encode()),
        )
    )
    length = RawElement(0x00020000, "UL", len(meta).to_bytes(4, "little")).encoded()
    pieces = [b"\0" * 128, b"DICM", length, meta, *(elements[tag] for tag in sorted(elements))]
    if samples:
        padding = b"\0" * (len(samples) % 2)
        pieces += [_PIXEL_DATA.pack(0x7FE0, 0x0010, b"OB", 0, len(samples) + len(padding))]
        return b"".join((*pieces, samples, padding))
    return b"".join(pieces)


@lru_cache(maxsize=4096)
def _head(tag: int, vr: str) -> bytes:
    return struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode("ascii"))


def _item(body: bytes) -> bytes:
    return _ITEM.pack(0xFFFE, 0xE000, len(body)) + body


def _raw(dataset: Dataset, tag: int, *, depth: int) -> RawElement | None:
    element: DataElement | RawDataElement = dataset.get_item(tag)
    vr = _value_representation(tag, element.VR)
    if vr is None or depth > MAXIMUM_DEPTH:
        return None
    if vr == VR.SQ:
        return _raw_sequence(dataset, tag, depth)
    if isinstance(element, RawDataElement):
        value = element.value or b""
        if not element.is_little_endian and vr in _NUMBER_WIDTH:
            value = _swapped(value, _NUMBER_WIDTH[vr])
        return RawElement(tag, vr, value)
    # Already decoded by pydicom while it read: only the character set and nested lengths.
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element, "iso8859")
    return RawElement(tag, vr, buffer.getvalue()[8:])


def _raw_sequence(dataset: Dataset, tag: int, depth: int) -> RawElement | None:
    try:
        element = dataset[tag]
        items: Sequence[Dataset] = element.value if element.VR == VR.SQ else []
        bodies = [_raw_item(item, depth + 1) for item in items or []]
    except PARSE_ERRORS:
        return None
    return RawElement(tag, "SQ", b"".join(_item(body) for body in bodies))


def _raw_item(item: Dataset, depth: int) -> bytes:
    tags = sorted(int(tag) for tag in item.keys() if not tag.is_private)  # noqa: SIM118 - as above
    elements = (_raw(item, tag, depth=depth) for tag in tags)
    return b"".join(element.encoded() for element in elements if element is not None)


def _value_representation(tag: int, stated: str | None) -> str | None:
    """VR of the dictionary, because what a source states may be UN, absent or wrong."""
    vr = _dictionary_vr(tag) or stated or ""
    return vr if len(vr) == 2 else None  # noqa: PLR2004 - ambiguous ones are longer


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""


def _swapped(value: bytes, width: int) -> bytes:
    """Numbers of `width` bytes in the other byte order."""
    return b"".join(value[i : i + width][::-1] for i in range(0, len(value), width))
