"""Part 10 files read with a bound: a deflated stream cannot grow without limit."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Final

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from imaging_node.dicom.encoding import RawElement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydicom.dataset import FileDataset

_PREAMBLE_BYTES: Final = 132
_GROUP_LENGTH_BYTES: Final = 12


def read_part10(
    path: Path,
    *,
    inflated_limit_bytes: int,
    stop_before_pixels: bool,
    keywords: Sequence[str] | None = None,
) -> FileDataset:
    """Dataset of a file; only `keywords` if given.

    A deflated dataset (PS3.5 A.5) is cut off at `inflated_limit_bytes`, so that what lies
    beyond is missing or too short.

    Raises:
        InvalidDicomError: No Part 10 file.
        zlib.error: The deflated stream is damaged.
        Exception of `encoding.PARSE_ERRORS`: Elements cannot be told apart.
    """
    tags = list(keywords) if keywords is not None else None
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return dcmread(path, stop_before_pixels=stop_before_pixels, specific_tags=tags)
    start = _PREAMBLE_BYTES + _GROUP_LENGTH_BYTES + int(meta.FileMetaInformationGroupLength)
    with path.open("rb") as file:
        file.seek(start)
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = stream.decompress(file.read(), inflated_limit_bytes)
    plain = BytesIO(_explicit_meta() + inflated)
    return dcmread(plain, stop_before_pixels=stop_before_pixels, specific_tags=tags)


def _explicit_meta() -> bytes:
    """Preamble and the least meta information that names Explicit VR Little Endian."""
    transfer_syntax = RawElement(0x00020010, "UI", str(ExplicitVRLittleEndian).encode()).encoded()
    length = RawElement(0x00020000, "UL", len(transfer_syntax).to_bytes(4, "little")).encoded()
    return b"\0" * 128 + b"DICM" + length + transfer_syntax
