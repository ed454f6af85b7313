"""Part 10 files read with a bound: a deflated stream cannot grow without limit."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from imaging_node.dicom.encoding import RawElement
from imaging_node.dicom.spooled_file import open_spooled, reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydicom.dataset import FileDataset
    from pydicom.tag import BaseTag

_PREAMBLE_BYTES: Final = 132
_GROUP_LENGTH_BYTES: Final = 12
_DEFLATED_CHUNK_BYTES: Final = 2**20


def read_part10(
    path: Path,
    *,
    inflated_limit_bytes: int,
    stop_before_pixels: bool,
    only: Sequence[BaseTag] | None = None,
) -> FileDataset:
    """Dataset of a file; `only` some elements of it if given.

    A deflated dataset (PS3.5 A.5) is cut off at `inflated_limit_bytes`, so that what lies
    beyond is missing or too short.

    Raises:
        InvalidDicomError: No Part 10 file.
        zlib.error: The deflated stream is damaged.
        Exception of `encoding.PARSE_ERRORS`: Elements cannot be told apart.
    """
    tags = list(only) if only is not None else None
    with open_plain(path, inflated_limit_bytes=inflated_limit_bytes) as file:
        return dcmread(file, stop_before_pixels=stop_before_pixels, specific_tags=tags)


def open_plain(path: Path, *, inflated_limit_bytes: int) -> BinaryIO:
    """The file itself, or a deflated one as it would be without, at its beginning.

    Raises:
        UnreadableFileError: It cannot be opened or read; reading what is returned raises it, too.
        InvalidDicomError, zlib.error, exception of `encoding.PARSE_ERRORS`: As `read_part10`.
    """
    with reading():
        meta = read_file_meta_info(path)
    file = open_spooled(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return file
    with file:
        file.seek(_PREAMBLE_BYTES + _GROUP_LENGTH_BYTES + int(meta.FileMetaInformationGroupLength))
        return BytesIO(_explicit_meta() + _inflated(file, inflated_limit_bytes))


def _inflated(file: BinaryIO, limit_bytes: int) -> bytes:
    """What a deflated stream becomes, up to a limit; of the file no more is read than it takes."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = bytearray()
    while len(plain) < limit_bytes and not stream.eof:
        deflated = stream.unconsumed_tail or file.read(_DEFLATED_CHUNK_BYTES)
        if not deflated:
            break
        plain += stream.decompress(deflated, limit_bytes - len(plain))
    return bytes(plain)


def _explicit_meta() -> bytes:
    """Preamble and the least meta information that names Explicit VR Little Endian."""
    transfer_syntax = RawElement(0x00020010, "UI", str(ExplicitVRLittleEndian).encode()).encoded()
    length = RawElement(0x00020000, "UL", len(transfer_syntax).to_bytes(4, "little")).encoded()
    return b"\0" * 128 + b"DICM" + length + transfer_syntax
