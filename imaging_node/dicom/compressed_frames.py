"""Where one compressed frame lies within encapsulated pixel data (PS3.5 A.4)."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from pydicom.encaps import get_frame

from imaging_node.dicom.image_file import UNDEFINED_LENGTH

if TYPE_CHECKING:
    from imaging_node.dicom.image_file import ImageFile

_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE  # as a little endian number: group, then element
_MOST_FRAGMENTS: Final = 1_000_000
_HEAD: Final = struct.Struct("<LL")


def compressed_frame(image: ImageFile, index: int, frames: int) -> bytes:
    """The bytes of one frame, its fragments joined; other frames are not read.

    Args:
        image: With encapsulated pixel data.
        index: Number of the frame, from 0.
        frames: How many the header states.

    Raises:
        ValueError: The frame is not there, or the pixel data has no end.
        Exception of `encoding.PARSE_ERRORS`: Items cannot be told apart.
    """
    file, begin = image.file, image.pixel_begin
    if image.pixel_length != UNDEFINED_LENGTH:
        # Not legal for compressed pixels, but seen.
        file = BytesIO(bytes(image.piece(begin, image.pixel_length)))
        begin = 0
    if frames == 1:
        return _all_fragments(file, begin, is_open=image.pixel_length == UNDEFINED_LENGTH)
    file.seek(begin)
    frame: bytes = get_frame(
        file, index, extended_offsets=_extended_offsets(image), number_of_frames=frames
    )
    return frame


def _extended_offsets(image: ImageFile) -> tuple[bytes, bytes] | None:
    offsets = image.header.get("ExtendedOffsetTable")
    lengths = image.header.get("ExtendedOffsetTableLengths")
    return (offsets, lengths) if offsets and lengths else None


def _all_fragments(file: BinaryIO, begin: int, *, is_open: bool) -> bytes:
    """All fragments behind the Basic Offset Table: a file that was cut off is no image."""
    fragments: list[bytes] = []
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(begin)
    for number in range(_MOST_FRAGMENTS):
        head = file.read(_HEAD.size)
        if not head and not is_open:
            return b"".join(fragments)
        tag, length = _HEAD.unpack(head)
        if tag == _DELIMITER:
            return b"".join(fragments)
        if tag != _ITEM:
            raise ValueError("what lies between fragments is no item")
        if length > size_bytes - file.tell():
            raise ValueError("the last fragment is cut off")
        fragment = file.read(length)
        if number:
            fragments.append(fragment)
    raise ValueError("there are too many fragments")
