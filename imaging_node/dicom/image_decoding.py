"""One frame of an image file to P-Values; runs in a process that may be killed."""

from __future__ import annotations

import errno
import warnings
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, JPEGExtended12Bit

from imaging_node.dicom.codestream import check_frame
from imaging_node.dicom.compressed_frames import compressed_frame, more_frames_than_stated
from imaging_node.dicom.decoding_budget import DecodingBudget
from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.dicom.frame_groups import frame_header
from imaging_node.dicom.image_file import UNDEFINED_LENGTH, ImageFile, open_image
from imaging_node.dicom.pixels import (
    StoredImage,
    pixel_aspect,
    read_transform,
    to_p_values,
    without_presentation,
)
from imaging_node.dicom.spooled_file import UnreadableFileError, is_unreadable
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.domain.finding import FloatImage

_DECODER_ERRORS: Final = (
    AssertionError,
    BufferError,
    ImportError,
    InvalidDicomError,
    RuntimeError,
    zlib.error,
    *PARSE_ERRORS,
)
_DEFAULT_BUDGET: Final = DecodingBudget()
_GRAYSCALE: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
_WHOLE_BYTES: Final = (8, 16)


def decode_file(
    path: Path,
    *,
    frame: int | None = None,
    is_presented: bool = True,
    budget: DecodingBudget = _DEFAULT_BUDGET,
    place: Callable[[int, int], FloatImage] | None = None,
) -> tuple[FloatImage, float]:
    """P-Values of one grayscale frame, and the height of a pixel over its width.

    Args:
        path: A Part 10 file.
        frame: Number of the frame, from 1; None: the file must hold no more than one.
        is_presented: False: modality values (HU for CT) instead of P-Values.
        budget: What the file may claim.
        place: Where the pixels go, see `to_p_values`.

    Raises:
        NotAnalysedError: The pixels are missing, are not one grayscale frame, exceed the budget,
            or cannot be decoded.
        UnreadableFileError: The file cannot be read, which says nothing of the image.
        MemoryError: This process has no room for it.
    """
    try:
        with open_image(path, budget, with_frame_groups=frame is not None) as image:
            frames = _check_header(image.header, budget, frame)
            index = (frame or 1) - 1
            header = image.header if frame is None else frame_header(image.header, index)
            transform = read_transform(header)
            if not is_presented:
                transform = without_presentation(transform)
            stored, used_bits = _stored_frame(image, index, frames)
            pixels = to_p_values(stored, transform, used_bits=used_bits, place=place)
            return pixels, pixel_aspect(header)
    except _DECODER_ERRORS as error:
        raise _not_decoded(error) from error


def count_frames(path: Path, *, budget: DecodingBudget = _DEFAULT_BUDGET) -> int:
    """How many frames a file says it holds.

    Raises:
        NotAnalysedError: There is no pixel data, or the header cannot be read within the budget.
        UnreadableFileError: As `decode_file`.
    """
    try:
        with open_image(path, budget) as image:
            return int(image.header.get("NumberOfFrames") or 1)
    except _DECODER_ERRORS as error:
        raise _not_decoded(error) from error


def _not_decoded(error: BaseException) -> NotAnalysedError | UnreadableFileError | MemoryError:
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return MemoryError()  # a mapping that another process may have room for
    if is_unreadable(error):
        return UnreadableFileError("a spooled file cannot be read")
    return _undecodable(f"the decoder failed with {type(error).__name__}")


def _undecodable(detail: str) -> NotAnalysedError:
    return NotAnalysedError(detail, reason=NotAnalysedReason.UNDECODABLE)


def _check_header(header: Dataset, budget: DecodingBudget, frame: int | None) -> int:
    """Refuse by header what would only be refused after decoding; the number of frames."""
    photometric = str(header.get("PhotometricInterpretation", "")).strip()
    samples = int(header.get("SamplesPerPixel") or 1)
    if samples != 1 or photometric not in _GRAYSCALE:
        raise NotAnalysedError("the image is not grayscale", reason=NotAnalysedReason.PHOTOMETRIC)
    frames = int(header.get("NumberOfFrames") or 1)
    if frame is None and frames != 1:
        raise NotAnalysedError("the image has several frames", reason=NotAnalysedReason.MULTI_FRAME)
    if frame is not None and not 1 <= frame <= frames:
        raise _undecodable("the image has no such frame")
    pixels = int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
    if pixels == 0:
        raise NotAnalysedError("the image has no pixels", reason=NotAnalysedReason.TOO_SMALL)
    if pixels > budget.frame_samples:
        raise _undecodable(f"the image has more than {budget.frame_samples} pixels")
    if pixels * frames > budget.object_samples:
        raise _undecodable(f"all frames have more than {budget.object_samples} pixels")
    return frames


def _stored_frame(image: ImageFile, index: int, frames: int) -> tuple[StoredImage, int | None]:
    """Stored values of a frame, and how many of their low bits are used, None for all."""
    transfer_syntax = UID(image.header.file_meta.TransferSyntaxUID)
    if transfer_syntax.is_encapsulated:
        return _decompressed(image, transfer_syntax, index, frames), None
    return _native(image, transfer_syntax, index, frames)


def _decompressed(image: ImageFile, transfer_syntax: UID, index: int, frames: int) -> StoredImage:
    header = image.header
    frame = compressed_frame(image, index, frames)
    precision = check_frame(
        frame,
        transfer_syntax,
        rows=header.Rows,
        columns=header.Columns,
        bytes_per_pixel=(header.BitsAllocated + 7) // 8,
    )
    if transfer_syntax == JPEGExtended12Bit and precision is not None:
        # Some headers state fewer bits than the codestream has.
        header.BitsStored, header.HighBit = precision, precision - 1
    return _by_pydicom(image, transfer_syntax, encapsulate([frame]), "OB")


def _by_pydicom(
    image: ImageFile, transfer_syntax: UID, pixel_data: bytes, pixel_vr: str
) -> StoredImage:
    """The one frame that `pixel_data` holds."""
    header = image.header
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        header.pop(keyword, None)
    header.NumberOfFrames = 1
    header.add(DataElement(image.pixel_keyword, pixel_vr, pixel_data))
    stored: StoredImage
    with warnings.catch_warnings():
        # pydicom would drop what run lengths make too much of: they are damaged.
        warnings.filterwarnings("error", "The decoded RLE segment contains")
        stored, _ = get_decoder(transfer_syntax).as_array(header, index=0, raw=True)
    return stored


def _native(
    image: ImageFile, transfer_syntax: UID, index: int, frames: int
) -> tuple[StoredImage, int | None]:
    """Mapped where a sample is one or two whole bytes, else as pydicom takes it apart."""
    header = image.header
    rows, columns, allocated = int(header.Rows), int(header.Columns), int(header.BitsAllocated)
    begin, end = image.pixel_begin, image.size_bytes
    if image.pixel_length != UNDEFINED_LENGTH:
        end = min(end, begin + image.pixel_length)
    first_bit = index * rows * columns * allocated
    last_bit = first_bit + rows * columns * allocated
    begin, end_of_frame = begin + first_bit // 8, begin + (last_bit + 7) // 8
    if end_of_frame > end:
        raise ValueError("the pixel data is too short")
    if frames == 1 and image.pixel_length != UNDEFINED_LENGTH:
        # What is less than a frame may be padding, of which some writers add more than a byte; a
        # frame of a single byte is padded by as much.
        is_even = (end_of_frame - begin) % 2 == 0
        if end - begin >= max((2 * last_bit + 7) // 8, end_of_frame - begin + 2 - is_even):
            raise more_frames_than_stated()
    piece = image.piece(begin, end_of_frame - begin)
    if allocated == 1 and frames > 1:
        # Frames of single bits follow each other without a gap, least significant bit first
        # (PS3.5 8.1.1 and D.2).
        bits_of_bytes = np.unpackbits(np.frombuffer(piece, np.uint8), bitorder="little")
        return bits_of_bytes[first_bit % 8 :][: rows * columns].reshape(rows, columns), None
    is_swapped = transfer_syntax == ExplicitVRBigEndian and allocated == _WHOLE_BYTES[0]
    if image.pixel_keyword != "PixelData" or allocated not in _WHOLE_BYTES or is_swapped:
        vr = image.pixel_vr or ("OB" if allocated <= _WHOLE_BYTES[0] else "OW")
        stored = _by_pydicom(image, transfer_syntax, bytes(piece), vr)
        return _without_unused_bits(stored, header), None
    # As strict as pydicom, which sees the other images: Type 1 elements must be there and legal.
    bits, representation = int(header.BitsStored), int(header.PixelRepresentation)
    if not 1 <= bits <= allocated or representation not in {0, 1} or header.SamplesPerPixel != 1:
        raise ValueError("Bits Stored, Pixel Representation or Samples per Pixel is impossible")
    if header.PhotometricInterpretation not in _GRAYSCALE:
        raise ValueError("Photometric Interpretation is misspelt")
    order, kind = "<" if transfer_syntax.is_little_endian else ">", "ui"[representation]
    mapped: StoredImage = np.frombuffer(piece, f"{order}{kind}{allocated // 8}")
    return mapped.reshape(rows, columns), bits if int(header.HighBit) == bits - 1 else None


def _without_unused_bits(stored: StoredImage, header: Dataset) -> StoredImage:
    """Native samples without the bits above High Bit, which may hold anything (PS3.5 8.1.1)."""
    if not np.issubdtype(stored.dtype, np.integer):
        return stored
    allocated, bits = int(header.BitsAllocated), int(header.BitsStored)
    unused = allocated - bits
    if unused <= 0 or bits <= 0 or int(header.HighBit) != bits - 1:
        return stored
    native = stored.astype(stored.dtype.newbyteorder("="))
    shift = np.array(unused, native.dtype)
    # An arithmetic shift to the right brings the sign back.
    return np.asarray(np.right_shift(np.left_shift(native, shift), shift))
