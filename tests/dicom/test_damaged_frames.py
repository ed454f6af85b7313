"""A compressed frame that is damaged is refused, where its codec can tell; never half a picture."""

from __future__ import annotations

import shutil
import struct
import subprocess
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoder_fuzz.seeds import by_gdcm
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset
    from pydicom.uid import UID

ROWS, COLUMNS = 200, 180
LOSSY: dict[UID, dict[str, Any]] = {JPEGLSNearLossless: {"jls_error": 2}, JPEG2000: {"j2k_cr": [8]}}
SYNTAXES = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    RLELossless,
)
# Arithmetic coding without segmentation symbols decodes anything: docs/threat-model.md.
CANNOT_TELL = (JPEG2000Lossless, JPEG2000, HTJ2KLossless)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    opened = DecodingPool(processes=1, memory_limit_bytes=512 * 2**20, time_limit_s=20)
    yield opened
    opened.close()


def _compressed(syntax: UID, folder: Path) -> Dataset:
    data = radiograph(rows=ROWS, columns=COLUMNS)
    if syntax in {JPEGLossless, JPEGLosslessSV1}:
        return by_gdcm(data, syntax)
    if syntax == JPEGExtended12Bit:
        if not shutil.which("dcmcjpeg"):
            pytest.skip("DCMTK's dcmcjpeg is not installed, which makes 12 bits")
        plain, extended = write(data, folder / "plain.dcm"), folder / "extended.dcm"
        subprocess.run(["dcmcjpeg", "+ee", "+bt", plain, extended], check=True)
        return dcmread(BytesIO(extended.read_bytes()))
    if syntax == JPEGBaseline8Bit:
        buffer = BytesIO()
        Image.fromarray((data.pixel_array >> 4).astype(np.uint8)).save(buffer, "JPEG", quality=95)
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.WindowCenter, data.WindowWidth = 128, 256
        return _with_frame(data, buffer.getvalue(), syntax)
    encoder = JPEG2000Lossless if syntax == HTJ2KLossless else syntax
    data.compress(encoder, generate_instance_uid=False, **LOSSY.get(syntax, {}))
    # Nothing that is installed encodes HTJ2K; its decoder reads the older codestream as well.
    data.file_meta.TransferSyntaxUID = syntax
    return data


def _frame(data: Dataset) -> bytes:
    return next(generate_frames(data.PixelData, number_of_frames=1))


def _with_frame(data: Dataset, frame: bytes, syntax: UID) -> Dataset:
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = syntax
    return data


def _write(data: Dataset, frame: bytes, folder: Path) -> Path:
    path = folder / "frame.dcm"
    _with_frame(data, frame, data.file_meta.TransferSyntaxUID).save_as(
        path, enforce_file_format=True
    )
    return path


def _is_refused(pool: DecodingPool, path: Path) -> bool:
    try:
        pool.decode(path, "1.2.3")
    except NotAnalysedError as error:
        return error.reason is NotAnalysedReason.UNDECODABLE
    return False


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda each: each.name)
def test_a_frame_decodes_whole_and_is_refused_when_it_was_cut(
    syntax: UID, pool: DecodingPool, tmp_path: Path
) -> None:
    plain = pool.decode(
        write(radiograph(rows=ROWS, columns=COLUMNS), tmp_path / "plain.dcm"), "1.2.3"
    )
    data = _compressed(syntax, tmp_path)
    frame = _frame(data)
    end = b"" if syntax == RLELossless else b"\xff\xd9"
    whole = pool.decode(_write(data, frame, tmp_path), "1.2.3")
    assert np.abs(whole.p_values - plain.p_values).max() < 0.2
    starts = pool.starts
    for part in (0.3, 0.5, 0.95):
        cut = frame[: int(part * len(frame))]
        assert _is_refused(pool, _write(data, cut + end, tmp_path))
        assert _is_refused(pool, _write(data, cut, tmp_path))
    assert pool.starts == starts  # by the decoder's own word, not by its death
    # What one frame made a codec write is not held against the next.
    again = pool.decode(_write(data, frame, tmp_path), "1.2.3")
    assert np.array_equal(again.p_values, whole.p_values)


@pytest.mark.parametrize(
    "syntax", [each for each in SYNTAXES if each not in CANNOT_TELL], ids=lambda each: each.name
)
def test_a_frame_with_zeros_in_its_middle_is_refused(
    syntax: UID, pool: DecodingPool, tmp_path: Path
) -> None:
    data = _compressed(syntax, tmp_path)
    frame = _frame(data)
    middle = len(frame) // 2
    zeroed = frame[:middle] + bytes(64) + frame[middle + 64 :]
    assert _is_refused(pool, _write(data, zeroed, tmp_path))


@pytest.mark.parametrize("keeps_end", [True, False])
def test_a_tile_part_of_unstated_length_must_have_its_end(
    keeps_end: bool, pool: DecodingPool, tmp_path: Path
) -> None:
    data = _compressed(JPEG2000Lossless, tmp_path)
    frame = bytearray(_frame(data))
    at = frame.index(b"\xff\x90\x00\x0a")
    frame[at + 6 : at + 10] = struct.pack(">L", 0)
    if not keeps_end:
        del frame[frame.rindex(b"\xff\xd9") :]
    assert _is_refused(pool, _write(data, bytes(frame), tmp_path)) is not keeps_end


def test_a_missing_tile_part_is_refused(pool: DecodingPool, tmp_path: Path) -> None:
    data = _compressed(JPEG2000Lossless, tmp_path)
    frame = bytearray(_frame(data))
    at = frame.index(b"\xff\x90\x00\x0a")
    frame[at + 11] = 2  # as if the tile had another part
    assert _is_refused(pool, _write(data, bytes(frame), tmp_path))


def test_run_lengths_that_make_too_much_are_refused(pool: DecodingPool, tmp_path: Path) -> None:
    data = _compressed(RLELossless, tmp_path)
    assert _is_refused(pool, _write(data, _frame(data) + b"\x81\0", tmp_path))
