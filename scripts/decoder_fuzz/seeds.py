"""Small images in every transfer syntax that the node accepts: what the fuzzing damages."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gdcm
import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS, _COLUMNS, _FRAMES = 64, 48, 3
_LARGEST_FILE_BYTES = 128 * 1024
_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_HTJ2K = ("1.2.840.10008.1.2.4.201", str(HTJ2KLosslessRPCL), "1.2.840.10008.1.2.4.203")
_LOSSY: dict[UID, dict[str, Any]] = {
    JPEGLSNearLossless: {"jls_error": 2},
    JPEG2000: {"j2k_cr": [8]},
}
_BY_GDCM = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A file that decodes, or that a collection offers.

    Attributes:
        name: For the report: what it is, never whose.
        content: The whole file.
        pixels_begin: Where its pixel data element begins; its length if that was not found.
        frames: How many frames may be asked for.
    """

    name: str
    content: bytes
    pixels_begin: int
    frames: int = 1


def synthetic_seeds() -> list[Seed]:
    """One image for each transfer syntax, some with unusual headers, some with several frames."""
    seeds = []
    for name, dataset in _datasets():
        buffer = BytesIO()
        syntax = dataset.file_meta.TransferSyntaxUID
        dataset.save_as(
            buffer,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            enforce_file_format=True,
        )
        seeds.append(_seed(name, buffer.getvalue(), int(dataset.get("NumberOfFrames") or 1)))
    return seeds


def collected_seeds(folder: Path) -> list[Seed]:
    """Every small DICOM file below `folder`."""
    small = (
        path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size <= _LARGEST_FILE_BYTES
    )
    files = (content for content in small if content[128:132] == b"DICM")
    return [
        _seed(f"collection, number {number}", content, _FRAMES)
        for number, content in enumerate(files)
    ]


def _seed(name: str, content: bytes, frames: int) -> Seed:
    found = [at for tag in _PIXEL_TAGS if (at := content.rfind(tag)) > 0]
    # Of a deflated file nothing is found: all of it is header then.
    return Seed(
        name=name, content=content, pixels_begin=min(found, default=len(content)), frames=frames
    )


def _datasets() -> Iterator[tuple[str, Dataset]]:
    for syntax in (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ):
        yield syntax.name, _native(syntax)
    for syntax in (RLELossless, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000):
        yield syntax.name, _compressed(syntax)
    for syntax in _BY_GDCM:
        yield syntax.name, by_gdcm(radiograph(rows=_ROWS, columns=_COLUMNS), syntax)
    yield JPEGBaseline8Bit.name, _jpeg()
    yield f"{JPEGExtended12Bit.name}, 8 bits", _jpeg(JPEGExtended12Bit)
    encoder = shutil.which("dcmcjpeg")
    if encoder is not None:  # GDCM writes 16 bits there, which no decoder may read (T.81 B.2.2)
        yield f"{JPEGExtended12Bit.name}, 12 bits", _jpeg_12_bits(encoder)
    for syntax in map(UID, _HTJ2K):
        # Nothing that is installed encodes it; its decoder reads the older codestream as well.
        relabelled = _compressed(JPEG2000Lossless)
        relabelled.file_meta.TransferSyntaxUID = syntax
        yield syntax.name, relabelled
    yield "no window, padding, MONOCHROME1", _without_window()
    yield "lookup tables", _with_tables()
    yield "several native frames", several_frames()
    yield "several frames, offset table", _encapsulated_frames(has_offsets=True)
    yield "several frames, no offset table", _encapsulated_frames(has_offsets=False)


def _native(syntax: UID) -> Dataset:
    dataset = radiograph(rows=_ROWS, columns=_COLUMNS)
    if syntax == ExplicitVRBigEndian:
        words = np.frombuffer(dataset.PixelData, "<u2")
        dataset.PixelData = words.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _compressed(syntax: UID) -> Dataset:
    dataset = radiograph(rows=_ROWS, columns=_COLUMNS)
    dataset.compress(syntax, generate_instance_uid=False, **_LOSSY.get(syntax, {}))
    return dataset


def by_gdcm(dataset: Dataset, syntax: UID) -> Dataset:
    """The dataset compressed by GDCM, which encodes what pydicom does not.

    Raises:
        ValueError: GDCM refuses.
    """
    with TemporaryDirectory() as folder:
        plain, compressed = Path(folder, "plain.dcm"), Path(folder, "compressed.dcm")
        write(dataset, plain)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(_BY_GDCM[syntax]))
        if not reader.Read():
            raise ValueError("GDCM does not read the image")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise ValueError(f"GDCM does not encode {syntax.name}")
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(compressed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise ValueError("GDCM does not write the image")
        return dcmread(BytesIO(compressed.read_bytes()))


def _jpeg_12_bits(encoder: str) -> Dataset:
    """By DCMTK's dcmcjpeg, at the best quality."""
    with TemporaryDirectory() as folder:
        plain, compressed = Path(folder, "plain.dcm"), Path(folder, "compressed.dcm")
        write(radiograph(rows=_ROWS, columns=_COLUMNS), plain)
        subprocess.run([encoder, "+ee", "+q", "100", plain, compressed], check=True)
        return dcmread(BytesIO(compressed.read_bytes()))


def _jpeg(syntax: UID = JPEGBaseline8Bit) -> Dataset:
    dataset = radiograph(rows=_ROWS, columns=_COLUMNS)
    words = np.frombuffer(dataset.PixelData, "<u2").reshape(_ROWS, _COLUMNS)
    buffer = BytesIO()
    Image.fromarray((words >> 4).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _without_window() -> Dataset:
    dataset = radiograph(rows=_ROWS, columns=_COLUMNS)
    del dataset.WindowCenter, dataset.WindowWidth
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = 0, 10
    return dataset


def _with_tables() -> Dataset:
    dataset = radiograph(rows=_ROWS, columns=_COLUMNS)
    del dataset.WindowCenter, dataset.WindowWidth
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [256, 0, 12])
        item.add_new("LUTData", "US", list(range(0, 4096, 16)))
        setattr(dataset, keyword, [item])
    return dataset


def several_frames() -> Dataset:
    """Three native frames, each with its own window in its functional group."""
    dataset = radiograph(rows=_ROWS, columns=_COLUMNS)
    first = np.frombuffer(dataset.PixelData, "<u2")
    dataset.NumberOfFrames = _FRAMES
    dataset.PixelData = b"".join((first >> number).tobytes() for number in range(_FRAMES))
    groups = []
    for number in range(_FRAMES):
        window, transformation, group = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = 2048 >> number, 4096 >> number
        transformation.RescaleIntercept, transformation.RescaleSlope = number, 1
        transformation.RescaleType = "US"
        group.FrameVOILUTSequence = [window]
        group.PixelValueTransformationSequence = [transformation]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    return dataset


def _encapsulated_frames(*, has_offsets: bool) -> Dataset:
    dataset = several_frames()
    length = 2 * _ROWS * _COLUMNS
    frames = []
    for number in range(_FRAMES):
        one = radiograph(rows=_ROWS, columns=_COLUMNS)
        one.PixelData = dataset.PixelData[number * length : (number + 1) * length]
        one.compress(JPEGLSLossless, generate_instance_uid=False, encapsulate_ext=False)
        frames.append(_only_fragment(one.PixelData))
    dataset.PixelData = encapsulate(frames, has_bot=has_offsets)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    return dataset


def _only_fragment(pixel_data: bytes) -> bytes:
    table_length = int.from_bytes(pixel_data[4:8], "little")
    begin = 8 + table_length + 8
    length = int.from_bytes(pixel_data[begin - 4 : begin], "little")
    return pixel_data[begin : begin + length]
