"""What a compressed frame claims about itself, checked before a decoder believes it."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Final

from pydicom.uid import (
    JPEG2000,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    from pydicom.uid import UID

_JPEG_LS: Final = frozenset({JPEGLSLossless, JPEGLSNearLossless})
_JPEG: Final = _JPEG_LS | {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
_JPEG_2000: Final = frozenset(
    {
        JPEG2000Lossless,
        JPEG2000,
        "1.2.840.10008.1.2.4.201",
        HTJ2KLosslessRPCL,
        "1.2.840.10008.1.2.4.203",
    }
)
# Start-of-frame markers of ITU-T T.81 B.1.1.3 and of JPEG-LS (T.87 C.1.1).
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xDA)})
_PRECISIONS: Final = {JPEGBaseline8Bit: frozenset({8}), JPEGExtended12Bit: frozenset({8, 12})}
_SIZ: Final = b"\xff\x4f\xff\x51"  # start of codestream, image and tile size: T.800 A.5.1
_RLE_EXPANSION: Final = 64  # two bytes make 128 at most (PS3.5 G.3.1)
_RLE_HEADER: Final = struct.Struct("<16L")  # number of segments and their offsets: PS3.5 G.5
_TILE_PART, _TILE_PART_BYTES = 0xFF90, 14  # a tile-part's header: marker, then 10 bytes, SOD
_MOST_TILES: Final = 65535  # T.800 A.4.2: a tile's index has 16 bits
_END_OF_IMAGE: Final = b"\xff\xd9"
_LONGEST_PADDING: Final = 8


def check_frame(
    frame: bytes, transfer_syntax: UID, *, rows: int, columns: int, bytes_per_pixel: int
) -> int | None:
    """Refuse a frame whose own size is not that of the header.

    Args:
        frame: One compressed frame of one sample per pixel.
        transfer_syntax: How it is compressed.
        rows, columns, bytes_per_pixel: What the header says.

    Returns:
        Bits per sample of a JPEG or JPEG-LS frame, None for other compressions.

    Raises:
        NotAnalysedError: The sizes differ or cannot be found, or a decoder would not end.
    """
    if transfer_syntax == RLELossless:
        _check_run_lengths(frame, rows=rows, columns=columns, bytes_per_pixel=bytes_per_pixel)
        return None
    tiles = 0
    if transfer_syntax in _JPEG:
        precision, *claimed = _jpeg_size(frame)
    elif transfer_syntax in _JPEG_2000:
        precision, (*claimed, tiles) = None, _jpeg_2000_size(frame)
    else:
        return None
    if precision is not None and precision not in _precisions(transfer_syntax, bytes_per_pixel):
        raise _undecodable("the compressed frame has samples of a size that is not allowed")
    if claimed != [rows, columns, 1]:
        raise _undecodable("the compressed frame has another size than the header")
    if transfer_syntax in _JPEG_LS and _END_OF_IMAGE not in frame[-_LONGEST_PADDING:]:
        # CharLS looks for the end of such a scan for ever.
        raise _undecodable("the compressed frame is cut off")
    if transfer_syntax in _JPEG_2000:
        _check_tile_parts(frame, tiles)
    return precision


def _precisions(transfer_syntax: UID, bytes_per_pixel: int) -> frozenset[int]:
    """Bits of a sample that T.81 B.2.2 and T.87 C.2.2 allow, and the header has room for."""
    allowed = _PRECISIONS.get(transfer_syntax, frozenset(range(2, 17)))
    return frozenset(each for each in allowed if each <= 8 * bytes_per_pixel)


def _check_run_lengths(frame: bytes, *, rows: int, columns: int, bytes_per_pixel: int) -> None:
    if len(frame) * _RLE_EXPANSION < rows * columns * bytes_per_pixel:
        raise _undecodable("the run lengths cannot fill the image")
    if len(frame) < _RLE_HEADER.size:
        raise _undecodable("the compressed frame has no header")
    segments, *offsets = _RLE_HEADER.unpack_from(frame)
    # PS3.5 G.2: a segment for each byte of a sample.
    if segments != bytes_per_pixel or segments > len(offsets):
        raise _undecodable("the compressed frame has another size than the header")
    bounds = [_RLE_HEADER.size, *offsets[:segments], len(frame)]
    if bounds != sorted(bounds):
        raise _undecodable("the run lengths lie outside the frame")


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int]:
    """Precision, rows, columns and components of the first start of frame."""
    position = 2
    while position + 10 <= len(frame):
        if frame[position] != 0xFF:  # noqa: PLR2004 - every marker begins so
            break
        marker = frame[position + 1]
        if marker == 0xFF:  # noqa: PLR2004 - fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker in _START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            return precision, rows, columns, components
        else:
            position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    raise _undecodable("the compressed frame has no header")


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and tiles of the image and tile size: T.800 A.5.1."""
    start = frame.find(_SIZ)
    if start < 0 or start + 42 > len(frame):
        raise _undecodable("the compressed frame has no header")
    right, bottom, left, top, width, height, tile_left, tile_top, components = struct.unpack_from(
        ">8LH", frame, start + 8
    )
    if width == 0 or height == 0:
        raise _undecodable("the compressed frame has empty tiles")
    tiles = -(-(right - tile_left) // width) * -(-(bottom - tile_top) // height)
    if not 0 < tiles <= _MOST_TILES:
        raise _undecodable("the compressed frame has too many tiles")
    return bottom - top, right - left, components, tiles


def _check_tile_parts(frame: bytes, tiles: int) -> None:
    """Every tile is there as long as it says, and the end behind it: T.800 A.4.2 and A.4.4."""
    position = frame.find(_SIZ) + 2
    found: Counter[int] = Counter()
    stated: dict[int, int] = {}
    end = frame.rfind(_END_OF_IMAGE)
    while 0 <= position < end:
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker != _TILE_PART:
            if found:
                break
            position += 2 + length  # of the main header
            continue
        if position + _TILE_PART_BYTES > end:
            break
        tile, length, _, parts = struct.unpack_from(">HLBB", frame, position + 4)
        found[tile] += 1
        stated[tile] = parts or stated.get(tile, 0)
        if 0 < length < _TILE_PART_BYTES:
            break
        # A length of 0: up to the end of the codestream.
        position = position + length if length else end
    if position != end or len(found) != tiles or max(found) >= tiles:
        raise _undecodable("the compressed frame is cut off")
    if any(parts not in {0, found[tile]} for tile, parts in stated.items()):
        raise _undecodable("the compressed frame lacks a part of a tile")


def _undecodable(detail: str) -> NotAnalysedError:
    return NotAnalysedError(detail, reason=NotAnalysedReason.UNDECODABLE)
