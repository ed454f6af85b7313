"""Where one compressed frame lies within encapsulated pixel data (PS3.5 A.4)."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from imaging_node.dicom.image_file import UNDEFINED_LENGTH
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    from imaging_node.dicom.image_file import ImageFile

_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE  # as a little endian number: group, then element
_MOST_FRAGMENTS: Final = 1_000_000
_HEAD: Final = struct.Struct("<LL")
# Start of a JPEG and of a JPEG 2000 codestream; coded data hold neither, or hardly ever.
_BEGINNINGS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")


def compressed_frame(image: ImageFile, index: int, frames: int) -> bytes:
    """The bytes of one frame, its fragments joined; other frames are not read.

    Args:
        image: With encapsulated pixel data.
        index: Number of the frame, from 0.
        frames: How many the header states.

    Raises:
        NotAnalysedError: The header states one frame, and there are several.
        ValueError: The frame is not there, or the pixel data has no end.
        Exception of `encoding.PARSE_ERRORS`: Items cannot be told apart.
    """
    file, begin = image.file, image.pixel_begin
    if image.pixel_length != UNDEFINED_LENGTH:
        # Not legal for compressed pixels, but seen.
        file = BytesIO(bytes(image.piece(begin, image.pixel_length)))
        begin = 0
    if frames == 1:
        fragments = _fragments(file, begin, is_open=image.pixel_length == UNDEFINED_LENGTH)
        _require_one_frame(image, fragments)
        return b"".join(fragments)
    file.seek(begin)
    frame: bytes = get_frame(
        file, index, extended_offsets=_extended_offsets(image), number_of_frames=frames
    )
    return frame


def _extended_offsets(image: ImageFile) -> tuple[bytes, bytes] | None:
    offsets = image.header.get("ExtendedOffsetTable")
    lengths = image.header.get("ExtendedOffsetTableLengths")
    return (offsets, lengths) if offsets and lengths else None


def more_frames_than_stated() -> NotAnalysedError:
    """The refusal of pixel data that hold what the header does not own to."""
    return NotAnalysedError(
        "the pixel data hold more frames than the header states",
        reason=NotAnalysedReason.MULTI_FRAME,
    )


def _require_one_frame(image: ImageFile, fragments: list[bytes]) -> None:
    """Refuse what can be told to be several frames; several fragments may be one.

    Tables of offsets are no sign: some writers list every fragment of a frame.

    Raises:
        NotAnalysedError: There are several frames.
    """
    later = [each for each in fragments if each][1:]
    # PS3.5 A.4.2: a frame of run lengths is one fragment.
    is_one_each = image.header.file_meta.TransferSyntaxUID == RLELossless
    if (is_one_each and later) or any(each.startswith(_BEGINNINGS) for each in later):
        raise more_frames_than_stated()


def _fragments(file: BinaryIO, begin: int, *, is_open: bool) -> list[bytes]:
    """All fragments behind the Basic Offset Table: a file that was cut off is no image."""
    fragments: list[bytes] = []
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(begin)
    for number in range(_MOST_FRAGMENTS):
        head = file.read(_HEAD.size)
        if not head and not is_open:
            return fragments
        tag, length = _HEAD.unpack(head)
        if tag == _DELIMITER:
            return fragments
        if tag != _ITEM:
            raise ValueError("what lies between fragments is no item")
        if length > size_bytes - file.tell():
            raise ValueError("the last fragment is cut off")
        fragment = file.read(length)
        if number:
            fragments.append(fragment)
    raise ValueError("there are too many fragments")
