"""What claims too much is refused by what it claims: nothing of it is decoded."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from imaging_node.dicom.codestream import check_frame
from imaging_node.dicom.decoding_budget import DecodingBudget
from imaging_node.dicom.image_decoding import count_frames, decode_file
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.uid import UID

BUDGET = DecodingBudget()
SIDE = 64


def _refusal(path: Path, budget: DecodingBudget, *, frame: int | None = None) -> str:
    with pytest.raises(NotAnalysedError) as caught:
        decode_file(path, budget=budget, frame=frame)
    assert caught.value.reason is NotAnalysedReason.UNDECODABLE
    return str(caught.value)


def test_the_default_admits_two_gigabytes_of_frames() -> None:
    for bytes_per_sample in (1, 2):
        assert BUDGET.object_samples >= 2 * 10**9 // bytes_per_sample


@pytest.mark.parametrize(
    ("budget", "detail"),
    [
        (replace(BUDGET, frame_samples=64 * 48 - 1), "pixels"),
        (replace(BUDGET, object_samples=3 * 64 * 48 - 1), "all frames"),
        (replace(BUDGET, header_bytes=600), "too long"),
        (replace(BUDGET, elements=10), "too many elements"),
    ],
)
def test_an_image_over_a_budget_is_refused_and_one_within_is_not(
    budget: DecodingBudget, detail: str, tmp_path: Path
) -> None:
    data = radiograph()
    data.NumberOfFrames = 3
    data.PixelData *= 3
    path = write(data, tmp_path / "image.dcm")
    assert decode_file(path, budget=BUDGET, frame=3)[0].shape == (64, 48)
    assert detail in _refusal(path, budget, frame=3)


@pytest.mark.parametrize("depth", [3, 40, 5000])
def test_nesting_over_the_budget_is_refused_before_it_is_parsed(depth: int, tmp_path: Path) -> None:
    path = write(radiograph(), tmp_path / "nested.dcm")
    open_sequence = struct.pack("<HH2sHL", 0x0009, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    open_item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    content = path.read_bytes()
    at = content.index(b"\x10\0\x10\0PN")
    nested = (open_sequence + open_item) * depth + close * depth
    path.write_bytes(content[:at] + nested + content[at:])
    if depth <= BUDGET.nesting:
        assert count_frames(path) == 1
        return
    assert "nested" in _refusal(path, BUDGET)


def _flood(number: int) -> bytes:
    return struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0) * number


def _unknown_representation(content: bytes, begin: int, number: int) -> bytes:
    odd = struct.pack("<HH2sH", 0x0009, 0x0010, b"QQ", 0)
    return content[:begin] + odd + _flood(number) + content[begin:]


def _wrong_group_length(content: bytes, begin: int, number: int) -> bytes:
    length = struct.pack("<L", begin - 144 + len(_flood(number)))
    return content[:140] + length + content[144:begin] + _flood(number) + content[begin:]


def _no_item(content: bytes, begin: int, number: int) -> bytes:
    odd = struct.pack("<HH2sHLQ", 0x0009, 0x0010, b"SQ", 0, 8, 0)
    return content[:begin] + odd + _flood(number) + content[begin:]


def _end_before_pixels(content: bytes, begin: int, number: int) -> bytes:
    odd = struct.pack("<HH2sH", 0x7FE1, 0x0010, b"LO", 0)
    return content[:begin] + odd + _flood(number) + content[begin:]


def _long_meta(content: bytes, begin: int, number: int) -> bytes:
    meta = struct.pack("<HH2sH", 0x0002, 0x0102, b"SH", 0) * 10 * number
    length = struct.pack("<L", begin - 144 + len(meta))
    return content[:140] + length + content[144:begin] + meta + content[begin:]


@pytest.mark.parametrize(
    "oddity",
    [_unknown_representation, _wrong_group_length, _no_item, _end_before_pixels, _long_meta],
)
def test_an_odd_header_is_read_and_turns_no_budget_off(
    oddity: Callable[[bytes, int, int], bytes], tmp_path: Path
) -> None:
    budget = replace(BUDGET, elements=1000)
    path = write(radiograph(), tmp_path / "odd.dcm")
    content = path.read_bytes()
    begin = content.index(b"\x08\0\x05\0CS")
    path.write_bytes(oddity(content, begin, 1))
    assert decode_file(path, budget=budget)[0].shape == (64, 48)
    path.write_bytes(oddity(content, begin, 2000))
    assert "header" in _refusal(path, budget) or "meta" in _refusal(path, budget)


@pytest.mark.parametrize("hidden", ["implicit", "unknown", "misnamed"])
def test_a_sequence_that_the_walk_is_not_told_of_turns_no_budget_off(
    hidden: str, tmp_path: Path
) -> None:
    budget = replace(BUDGET, elements=1000)

    def written(items: int) -> Path:
        data = radiograph()
        syntax = ImplicitVRLittleEndian if hidden == "implicit" else ExplicitVRLittleEndian
        path = write(data, tmp_path / f"{items}.dcm", syntax)
        content = path.read_bytes()
        body = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * items
        if hidden == "implicit":
            at = content.index(struct.pack("<HHL", 0x7FE0, 0x0010, len(data.PixelData)))
            flood = struct.pack("<HHL", 0x0028, 0x3010, len(body)) + body
        elif hidden == "unknown":
            at = content.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
            flood = struct.pack("<HH2sHL", 0x0028, 0x3010, b"UN", 0, len(body)) + body
        else:
            # Said to be implicit, which it is not: the walk takes a VR for a length, and there
            # finds what looks like pixel data.
            named = b"1.2.840.10008.1.2.1\0"
            content = content.replace(named, b"1.2.840.10008.1.2\0\0\0", 1)
            first = content.index(b"\x08\0\x05\0CS")
            (length,) = struct.unpack_from("<L", content, first + 4)
            at = first + 8 + struct.unpack_from("<H", content, first + 6)[0]
            flood = _flood(items)
            hidden_bytes = first + 8 + length - at - len(flood) - 12
            looks_so = struct.pack("<HHL", 0x7FE0, 0x0010, 4) + bytes(4)
            body = bytes(hidden_bytes) + looks_so
            flood += struct.pack("<HH2sHL", 0x0009, 0x1002, b"OB", 0, len(body)) + body
        path.write_bytes(content[:at] + flood + content[at:])
        return path

    assert decode_file(written(1), budget=budget)[0].shape == (64, 48)
    assert "header" in _refusal(written(2000), budget)


def test_a_deflated_bomb_is_refused_at_its_budget(tmp_path: Path) -> None:
    data = radiograph()
    data.NumberOfFrames = 3000
    data.PixelData *= data.NumberOfFrames
    path = write(data, tmp_path / "bomb.dcm", DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 2**20
    assert "deflated" in _refusal(path, replace(BUDGET, inflated_bytes=2**20), frame=1)
    assert decode_file(path, frame=1)[0].shape == (64, 48)


def _compressed(syntax: UID) -> bytes:
    data = radiograph(rows=SIDE, columns=SIDE)
    data.compress(syntax, generate_instance_uid=False)
    pixel_data: bytes = data.PixelData
    table = int.from_bytes(pixel_data[4:8], "little")
    length = int.from_bytes(pixel_data[12 + table : 16 + table], "little")
    return pixel_data[16 + table : 16 + table + length]


def _check(frame: bytes, syntax: UID, *, rows: int = SIDE, bytes_per_pixel: int = 2) -> None:
    check_frame(frame, syntax, rows=rows, columns=SIDE, bytes_per_pixel=bytes_per_pixel)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_of_another_size_than_the_header_is_refused(syntax: UID) -> None:
    frame = _compressed(syntax)
    _check(frame, syntax)
    with pytest.raises(NotAnalysedError, match="another size"):
        _check(frame, syntax, rows=SIDE + 1)


def test_run_lengths_for_another_number_of_bytes_are_refused() -> None:
    frame = _compressed(RLELossless)
    _check(frame, RLELossless)
    with pytest.raises(NotAnalysedError, match="another size"):
        _check(frame, RLELossless, bytes_per_pixel=1)
    with pytest.raises(NotAnalysedError, match="outside"):
        _check(frame[:8] + b"\xff\xff\xff\0" + frame[12:], RLELossless)


def test_colour_in_a_grayscale_image_is_refused() -> None:
    frame = struct.pack(">HHHBHHB", 0xFFD8, 0xFFC0, 17, 8, SIDE, SIDE, 3) + bytes(30)
    with pytest.raises(NotAnalysedError, match="another size"):
        _check(frame, JPEGBaseline8Bit, bytes_per_pixel=1)


def test_a_codestream_of_a_million_tiles_is_refused() -> None:
    frame = bytearray(_compressed(JPEG2000Lossless))
    at = frame.index(b"\xff\x4f\xff\x51") + 8
    frame[at : at + 16] = struct.pack(">4L", 60000, 60000, 0, 0)
    frame[at + 16 : at + 24] = struct.pack(">2L", 1, 1)
    with pytest.raises(NotAnalysedError, match="tiles"):
        _check(bytes(frame), JPEG2000Lossless)


def test_a_scan_without_an_end_is_refused_because_its_decoder_would_not_end() -> None:
    frame = _compressed(JPEGLSLossless)
    with pytest.raises(NotAnalysedError, match="cut off"):
        _check(frame[: len(frame) // 2], JPEGLSLossless)


@pytest.mark.parametrize(
    ("syntax", "bits", "is_allowed"),
    [
        (JPEGBaseline8Bit, 8, True),
        (JPEGBaseline8Bit, 12, False),
        (JPEGExtended12Bit, 12, True),
        (JPEGExtended12Bit, 16, False),
        (JPEGLosslessSV1, 16, True),
        (JPEGLosslessSV1, 1, False),
    ],
)
def test_a_frame_whose_samples_have_a_size_that_is_not_allowed_is_refused(
    syntax: UID, bits: int, *, is_allowed: bool
) -> None:
    frame = b"\xff\xd8\xff\xc1" + struct.pack(">HBHHB", 11, bits, 64, 48, 1) + bytes(8)

    def check() -> int | None:
        return check_frame(frame, syntax, rows=64, columns=48, bytes_per_pixel=2)

    if is_allowed:
        assert check() == bits
    else:
        with pytest.raises(NotAnalysedError):
            check()
