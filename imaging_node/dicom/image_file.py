"""One image file opened for its pixels: the header is read, the pixels are only located.

A file of 2 GB costs no more memory than its header and the frame that is asked for.
"""

from __future__ import annotations

import mmap
import os
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from pydicom import dcmread
from pydicom.dataset import FileDataset

from imaging_node.dicom.header_allowance import require_short_meta, within_budget
from imaging_node.dicom.part10 import open_plain
from imaging_node.dicom.spooled_file import reading
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.dicom.decoding_budget import DecodingBudget

UNDEFINED_LENGTH: Final = 0xFFFFFFFF

_PIXEL_KEYWORDS: Final = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_LONG_VRS: Final = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN"})
# All that decoding and rendering look at; other elements are skipped, whatever their length.
_KEYWORDS: Final = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "PixelAspectRatio", "ModalityLUTSequence", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
_FRAME_KEYWORDS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An open image.

    Attributes:
        file: The file, or the bytes that a deflated one becomes.
        header: What decoding needs, without the pixel data.
        pixel_keyword: Pixel Data or one of its floating-point kinds.
        pixel_vr: As the file states it, "" if it does not.
        pixel_begin: Where the value of that element begins.
        pixel_length: As stated; `UNDEFINED_LENGTH` for items up to a delimiter.
        size_bytes: Of the file.
    """

    file: BinaryIO
    header: FileDataset
    pixel_keyword: str
    pixel_vr: str
    pixel_begin: int
    pixel_length: int
    size_bytes: int

    def piece(self, begin: int, length: int) -> memoryview:
        """Bytes of the file, mapped and not read.

        Raises:
            ValueError: The file ends before, or there is nothing to see.
            UnreadableFileError: It cannot be mapped.
        """
        if not 0 < length <= self.size_bytes - begin:
            raise ValueError("the file is too short")
        if isinstance(self.file, BytesIO):
            return memoryview(self.file.getvalue())[begin : begin + length]
        offset = begin % mmap.ALLOCATIONGRANULARITY
        with reading():
            mapping = mmap.mmap(
                self.file.fileno(), length + offset, access=mmap.ACCESS_READ, offset=begin - offset
            )
        return memoryview(mapping)[offset:]


@contextmanager
def open_image(
    path: Path, budget: DecodingBudget, *, with_frame_groups: bool = False
) -> Iterator[ImageFile]:
    """Read the header of a file within the budget, and find its pixel data.

    Args:
        with_frame_groups: Also read the functional groups of an enhanced object.

    Raises:
        NotAnalysedError: The header exceeds the budget, or there is no pixel data.
        UnreadableFileError, InvalidDicomError, zlib.error, exception of `encoding.PARSE_ERRORS`: As
            `open_plain`.
    """
    keywords = _KEYWORDS + _FRAME_KEYWORDS if with_frame_groups else _KEYWORDS
    require_short_meta(path)
    with open_plain(path, inflated_limit_bytes=budget.inflated_bytes) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        allowed = within_budget(budget, file, size_bytes)
        header = dcmread(allowed, stop_before_pixels=True, specific_tags=list(keywords))
        element = file.read(12)
        order: Literal["little", "big"] = "little" if element[:1] == b"\xe0" else "big"
        group, number = (int.from_bytes(element[at : at + 2], order) for at in (0, 2))
        keyword = _PIXEL_KEYWORDS.get(group << 16 | number)
        if keyword is None:
            raise NotAnalysedError("there is no pixel data", reason=NotAnalysedReason.NO_PIXELS)
        is_explicit = element[4:6] in _LONG_VRS
        begin = file.tell() if is_explicit else file.tell() - 4
        yield ImageFile(
            file=file,
            header=header,
            pixel_keyword=keyword,
            pixel_vr=element[4:6].decode() if is_explicit else "",
            pixel_begin=begin,
            pixel_length=int.from_bytes(element[8:12] if is_explicit else element[4:8], order),
            size_bytes=size_bytes,
        )
