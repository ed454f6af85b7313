"""Any frame of a multi-frame object, without reading the others."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.frame_groups import frame_header
from imaging_node.dicom.pixels import read_transform, to_p_values
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.uid import UID

    from imaging_node.domain.finding import FloatImage

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT.parent / "shared" / "data" / "dicom"
FRAMES = 3


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    opened = DecodingPool(processes=1, memory_limit_bytes=128 * 2**20, time_limit_s=10)
    yield opened
    opened.close()


def frame(number: int) -> Dataset:
    """One image of the object as an object of its own."""
    data = radiograph()
    stored = np.frombuffer(data.PixelData, "<u2")
    data.PixelData = np.roll(stored, 40 * number).tobytes()
    return data


def several(number: int = FRAMES) -> Dataset:
    data = radiograph()
    data.NumberOfFrames = number
    data.PixelData = b"".join(frame(each).PixelData for each in range(number))
    return data


def compressed(syntax: UID) -> list[bytes]:
    """The codestream of each frame."""
    found = []
    for number in range(FRAMES):
        data = frame(number)
        data.compress(syntax, generate_instance_uid=False)
        table = int.from_bytes(data.PixelData[4:8], "little")
        length = int.from_bytes(data.PixelData[12 + table : 16 + table], "little")
        found.append(data.PixelData[16 + table : 16 + table + length])
    return found


def alone(pool: DecodingPool, number: int, folder: Path) -> FloatImage:
    return pool.decode(write(frame(number), folder / "alone.dcm"), "1.2.3").p_values


def _is_each_frame(pool: DecodingPool, path: Path, folder: Path) -> bool:
    assert pool.count_frames(path) == FRAMES
    return all(
        np.array_equal(
            pool.decode(path, "1.2.3", frame=number + 1).p_values, alone(pool, number, folder)
        )
        for number in range(FRAMES)
    )


def test_each_native_frame_is_as_it_would_be_alone(pool: DecodingPool, tmp_path: Path) -> None:
    assert _is_each_frame(pool, write(several(), tmp_path / "several.dcm"), tmp_path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("offsets", ["basic table", "extended table", "none", "none, in pieces"])
def test_each_compressed_frame_is_as_it_would_be_alone(
    syntax: UID, offsets: str, pool: DecodingPool, tmp_path: Path
) -> None:
    if "pieces" in offsets and syntax == RLELossless:
        pytest.skip("a frame of run lengths is one fragment: PS3.5 A.4.2")
    data, frames = several(), compressed(syntax)
    if offsets == "extended table":
        data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = (
            encapsulate_extended(frames)
        )
    else:
        data.PixelData = encapsulate(
            frames,
            fragments_per_frame=2 if "pieces" in offsets else 1,
            has_bot=offsets == "basic table",
        )
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    path = write(data, tmp_path / "several.dcm", syntax)
    assert _is_each_frame(pool, path, tmp_path)


@pytest.mark.parametrize("number", [0, FRAMES + 1, -1])
def test_a_frame_that_is_not_there_is_refused(
    number: int, pool: DecodingPool, tmp_path: Path
) -> None:
    path = write(several(), tmp_path / "several.dcm")
    with pytest.raises(NotAnalysedError) as caught:
        pool.decode(path, "1.2.3", frame=number)
    assert caught.value.reason is NotAnalysedReason.UNDECODABLE


def test_several_frames_are_not_analysed_unless_one_is_asked_for(
    pool: DecodingPool, tmp_path: Path
) -> None:
    path = write(several(), tmp_path / "several.dcm")
    with pytest.raises(NotAnalysedError) as caught:
        pool.decode(path, "1.2.3")
    assert caught.value.reason is NotAnalysedReason.MULTI_FRAME


def _group(*, centre: float | None = None, intercept: float | None = None) -> Dataset:
    group = Dataset()
    if centre is not None:
        window = Dataset()
        window.WindowCenter, window.WindowWidth = centre, 1000
        group.FrameVOILUTSequence = [window]
    if intercept is not None:
        transformation = Dataset()
        transformation.RescaleIntercept, transformation.RescaleSlope = intercept, 1
        group.PixelValueTransformationSequence = [transformation]
    return group


def test_a_frames_own_group_comes_before_the_shared_one_and_that_before_the_header(
    pool: DecodingPool, tmp_path: Path
) -> None:
    data = several()
    data.PerFrameFunctionalGroupsSequence = [_group(centre=500), _group(intercept=7), _group()]
    data.SharedFunctionalGroupsSequence = [_group(centre=900)]
    path = write(data, tmp_path / "enhanced.dcm")
    for number, (centre, intercept) in enumerate([(500, 0), (900, 7), (900, 0)]):
        expected = frame(number)
        expected.WindowCenter, expected.WindowWidth = centre, 1000
        expected.RescaleSlope, expected.RescaleIntercept = 1, intercept
        expected.pop("VOILUTFunction", None)
        own = pool.decode(write(expected, tmp_path / "expected.dcm"), "1.2.3").p_values
        assert np.array_equal(pool.decode(path, "1.2.3", frame=number + 1).p_values, own)


def test_two_gigabytes_of_frames_cost_the_memory_of_one(tmp_path: Path) -> None:
    side, frames = 512, 4096
    data = radiograph(rows=4, columns=4)
    data.Rows = data.Columns = side
    data.NumberOfFrames = frames
    buffer = BytesIO()
    del data.PixelData
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(buffer, enforce_file_format=True)
    length = 2 * side * side * frames
    assert length == 2**31
    path = tmp_path / "huge.dcm"
    last = np.full((side, side), 4095, "<u2").tobytes()
    with path.open("wb") as file:
        file.write(buffer.getvalue())
        file.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, length))
        file.seek(length - len(last), 1)  # a hole: the disk need not hold it
        file.write(last)
    small = DecodingPool(processes=1, memory_limit_bytes=16 * 2**20, time_limit_s=5)
    try:
        assert small.count_frames(path) == frames
        assert small.decode(path, "1.2.3", frame=1).p_values.max() < 0.5
        assert small.decode(path, "1.2.3", frame=frames).p_values.min() == 1
        assert small.starts == 1
    finally:
        small.close()
    assert dcmread(path, stop_before_pixels=True).NumberOfFrames == frames


def test_frames_of_single_bits_may_share_a_byte(pool: DecodingPool, tmp_path: Path) -> None:
    rows, columns = 5, 7
    bits = np.random.default_rng(3).integers(0, 2, (FRAMES, rows, columns), np.uint8)
    data = radiograph()
    data.Rows, data.Columns, data.NumberOfFrames = rows, columns, FRAMES
    data.BitsAllocated, data.BitsStored, data.HighBit = 1, 1, 0
    data.WindowCenter, data.WindowWidth = 1, 1
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    data.PixelData = packed + b"\0" * (len(packed) % 2)
    path = write(data, tmp_path / "bits.dcm")
    for number in range(FRAMES):
        assert np.array_equal(pool.decode(path, "1.2.3", frame=number + 1).p_values, bits[number])


def test_frames_of_the_collection_are_those_that_pydicom_decodes(pool: DecodingPool) -> None:
    if not COLLECTION.is_dir():
        pytest.skip("the shared collection of DICOM files is not here")
    compared = 0
    for path in sorted(COLLECTION.rglob("*.dcm")):
        try:
            data = dcmread(path)
            frames = int(data.get("NumberOfFrames") or 1)
        except (InvalidDicomError, ValueError):
            continue  # a file for tests of parsers
        if frames == 1 or "MONOCHROME" not in str(data.get("PhotometricInterpretation")):
            continue
        for number in {1, 2, frames}:
            try:
                ours = pool.decode(path, "1.2.3", frame=number).p_values
                theirs = data.pixel_array[number - 1]
            except (NotAnalysedError, RuntimeError):
                continue  # one of both has no decoder for it
            transform = read_transform(frame_header(data, number - 1))
            assert np.array_equal(ours, to_p_values(theirs, transform)), path.name
            compared += 1
    assert compared > 30


def _refusal(pool: DecodingPool, path: Path) -> NotAnalysedReason:
    with pytest.raises(NotAnalysedError) as caught:
        pool.decode(path, "1.2.3")
    return caught.value.reason


@pytest.mark.parametrize("stated", [None, 1])
@pytest.mark.parametrize("number", [2, 5])
def test_native_frames_that_the_header_does_not_own_to_are_not_passed_over(
    stated: int | None, number: int, pool: DecodingPool, tmp_path: Path
) -> None:
    data = several(number)
    data.NumberOfFrames = stated
    path = write(data, tmp_path / "several.dcm")
    assert _refusal(pool, path) is NotAnalysedReason.MULTI_FRAME


@pytest.mark.parametrize("extra_bytes", [2, 64, 64 * 48 * 2 - 2])
def test_padding_behind_a_native_frame_is_none(
    extra_bytes: int, pool: DecodingPool, tmp_path: Path
) -> None:
    data = radiograph()
    data.PixelData += bytes(extra_bytes)
    found = pool.decode(write(data, tmp_path / "padded.dcm"), "1.2.3").p_values
    assert np.array_equal(found, alone(pool, 0, tmp_path))


@pytest.mark.parametrize(("number", "is_refused"), [(1, False), (2, True), (3, True)])
@pytest.mark.parametrize("side", [1, 3])
def test_frames_of_odd_length_are_told_from_their_padding(
    side: int, number: int, *, is_refused: bool, pool: DecodingPool, tmp_path: Path
) -> None:
    if (side, number) == (1, 2):
        pytest.skip("two frames of a byte are as long as one with its padding")
    data = radiograph()
    data.Rows = data.Columns = side
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    length = side * side * number
    data.PixelData = bytes(length + length % 2)
    data["PixelData"].VR = "OB"
    path = write(data, tmp_path / "odd.dcm")
    if is_refused:
        assert _refusal(pool, path) is NotAnalysedReason.MULTI_FRAME
    else:
        assert pool.decode(path, "1.2.3").p_values.shape == (side, side)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("offsets", ["basic table", "extended table", "none"])
def test_compressed_frames_that_the_header_does_not_own_to_are_not_passed_over(
    syntax: UID, offsets: str, pool: DecodingPool, tmp_path: Path
) -> None:
    data, frames = radiograph(), compressed(syntax)
    if offsets == "extended table":
        data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = (
            encapsulate_extended(frames)
        )
    else:
        data.PixelData = encapsulate(frames, has_bot=offsets == "basic table")
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    path = write(data, tmp_path / "several.dcm", syntax)
    assert _refusal(pool, path) is NotAnalysedReason.MULTI_FRAME


@pytest.mark.parametrize("lists_fragments", [False, True], ids=["usual table", "every fragment"])
@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_one_frame_in_several_fragments_is_one(
    syntax: UID, *, lists_fragments: bool, pool: DecodingPool, tmp_path: Path
) -> None:
    """Also where the table of offsets, against PS3.5 A.4, has an entry for each fragment."""
    data, frames = radiograph(), compressed(syntax)
    fragments = encapsulate(frames[:1], fragments_per_frame=3, has_bot=False)[8:]
    offsets = (0, 4, 8) if lists_fragments else (0,)
    table = struct.pack(f"<{len(offsets)}L", *offsets)
    data.PixelData = struct.pack("<HHL", 0xFFFE, 0xE000, len(table)) + table + fragments
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    path = write(data, tmp_path / "pieces.dcm", syntax)
    found = pool.decode(path, "1.2.3").p_values
    assert np.array_equal(found, alone(pool, 0, tmp_path))
