"""DICOM files as bytes: our own preamble and file meta around a dataset that stays as received."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom.filereader import read_dataset

from imaging_node.dicom import encoding
from imaging_node.dicom.encoding import RawElement
from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID
from imaging_node.dicom.statuses import STATUS_CANNOT_UNDERSTAND
from imaging_node.domain.errors import RejectedInstanceError

if TYPE_CHECKING:
    from pathlib import Path

# What pydicom is known to raise on hostile or damaged datasets; none of it is a defect of ours.
PARSE_ERRORS = (*encoding.PARSE_ERRORS, MemoryError, zlib.error)

# Without a version: a file is named by its digest, and after an upgrade the same dataset received
# again must still be the same file.
_SPOOLED_VERSION_NAME = b"IMAGING_NODE"
_PREFIX_END = 132
_LONGEST_META_BYTES = 65536


def encode_part10(
    dataset: bytes, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """A Part 10 file around an encoded dataset."""
    return (
        encode_beginning(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        )
        + dataset
    )


def encode_beginning(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """What a Part 10 file has before its dataset; its preamble is zeros (PS3.10 7.1)."""
    elements = (
        RawElement(0x00020001, "OB", b"\x00\x01"),
        RawElement(0x00020002, "UI", sop_class_uid.encode("ascii")),
        RawElement(0x00020003, "UI", sop_instance_uid.encode("ascii")),
        RawElement(0x00020010, "UI", transfer_syntax_uid.encode("ascii")),
        RawElement(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        RawElement(0x00020013, "SH", _SPOOLED_VERSION_NAME),
    )
    meta = b"".join(each.encoded() for each in elements)
    length = RawElement(0x00020000, "UL", len(meta).to_bytes(4, "little"))
    return b"\0" * 128 + b"DICM" + length.encoded() + meta


def read_kind(path: Path) -> tuple[str, str]:
    """The SOP class UID and transfer syntax UID of a Part 10 file, from its file meta alone.

    Raises:
        RejectedInstanceError: 0xC000, it is no DICOM file, or does not say what it holds.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(_LONGEST_META_BYTES)
    except OSError as error:
        raise RejectedInstanceError(
            f"a file cannot be read ({type(error).__name__})", status=STATUS_CANNOT_UNDERSTAND
        ) from None
    sop_class_uid, transfer_syntax_uid, _ = _read_meta(beginning)
    if not sop_class_uid or not transfer_syntax_uid:
        raise RejectedInstanceError(
            "the file does not say what it holds", status=STATUS_CANNOT_UNDERSTAND
        )
    return sop_class_uid, transfer_syntax_uid


def split_part10(payload: bytes) -> tuple[str, bytes]:
    """The transfer syntax UID and the encoded dataset of a Part 10 file.

    Raises:
        RejectedInstanceError: 0xC000, there is no preamble or no transfer syntax.
    """
    _, transfer_syntax_uid, end = _read_meta(payload)
    if not transfer_syntax_uid:
        raise RejectedInstanceError(
            "the file names no transfer syntax", status=STATUS_CANNOT_UNDERSTAND
        )
    return transfer_syntax_uid, payload[end:]


def _read_meta(payload: bytes) -> tuple[str, str, int]:
    """SOP class UID and transfer syntax UID of the file meta, and where the dataset begins."""
    if payload[128:_PREFIX_END] != b"DICM":
        raise RejectedInstanceError(
            "no DICOM file: the prefix is missing", status=STATUS_CANNOT_UNDERSTAND
        )
    stream = BytesIO(payload)
    stream.seek(_PREFIX_END)
    try:
        meta = read_dataset(
            stream,
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, _vr, _length: tag >> 16 != 2,  # noqa: PLR2004 - PS3.10 7.1
        )
        sop_class_uid = str(meta.get("MediaStorageSOPClassUID", "") or "")
        transfer_syntax_uid = str(meta.get("TransferSyntaxUID", "") or "")
    except PARSE_ERRORS as error:
        raise RejectedInstanceError(
            f"the file meta information cannot be read ({type(error).__name__})",
            status=STATUS_CANNOT_UNDERSTAND,
        ) from None
    return sop_class_uid, transfer_syntax_uid, stream.tell()
