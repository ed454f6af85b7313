"""DICOM files as bytes: our own preamble and file meta around a dataset that stays as received."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from imaging_node.dicom import encoding
from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID
from imaging_node.domain.errors import RejectedInstanceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# What pydicom is known to raise on hostile or damaged datasets; none of it is a defect of ours.
PARSE_ERRORS = (*encoding.PARSE_ERRORS, MemoryError, zlib.error)

STATUS_CANNOT_UNDERSTAND = 0xC000
# Without a version: a file is named by its digest, and after an upgrade the same dataset received
# again must still be the same file.
_SPOOLED_VERSION_NAME = "IMAGING_NODE"
_PREFIX_END = 132
_LONGEST_META_BYTES = 65536
# A header needs far less; a deflated dataset that holds more before its pixels is a bomb.
_LONGEST_INFLATED_HEADER_BYTES = 64 * 1024 * 1024


def encode_part10(
    dataset: bytes, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """A Part 10 file around an encoded dataset; its preamble is zeros (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = _SPOOLED_VERSION_NAME
    encoded_meta = DicomBytesIO()
    write_file_meta_info(encoded_meta, meta)
    return b"".join((b"\0" * 128, b"DICM", encoded_meta.getvalue(), dataset))


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


def parse_dataset(
    dataset: bytes,
    transfer_syntax_uid: str,
    *,
    stop_when: Callable[[int, str | None, int], bool],
    tags: list[int],
) -> Dataset:
    """The wanted elements of an encoded dataset, read up to where `stop_when` says.

    Raises:
        RejectedInstanceError: 0xC000, it cannot be parsed.
    """
    try:
        syntax = UID(transfer_syntax_uid)
        if syntax == DeflatedExplicitVRLittleEndian:
            # pydicom would inflate without a bound.
            dataset = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
                dataset, _LONGEST_INFLATED_HEADER_BYTES
            )
        return read_dataset(
            BytesIO(dataset),
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            stop_when=stop_when,
            specific_tags=list(tags),
        )
    except PARSE_ERRORS as error:
        raise RejectedInstanceError(
            f"the dataset cannot be parsed ({type(error).__name__}); check the sender's encoding",
            status=STATUS_CANNOT_UNDERSTAND,
        ) from None


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
