"""Fault 30: datasets that are much larger, or deeper, than they look."""

from __future__ import annotations

import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from abuse.fault import Fault
from abuse.ground import Ground, expect, wait_until
from abuse.levels import MIB
from abuse.sending import (
    LITTLE,
    SUCCESS,
    Instance,
    await_ended,
    chest_film,
    new_uid,
    slice_header,
    store_alone,
)
from imaging_node.dicom.encoding import RawElement
from imaging_node.domain.lifecycle import StudyState
from tests.dicom.listening import CT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

_GIB = 1024 * MIB
_UNDEFINED = 0xFFFFFFFF
_SEQUENCE = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, _UNDEFINED)
_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, _UNDEFINED)
_CANNOT_UNDERSTAND = range(0xC000, 0xC100)
_LIMIT_S = 10.0
_DECODER_LIMIT_S = 30.0
# Fewer than one address may have.
_ASSOCIATIONS = 15


def _nested(depth: int) -> Callable[[str, str], bytes]:
    return lambda study, uid: slice_header(study, uid) + (_SEQUENCE + _ITEM) * depth


def _items(study: str, uid: str) -> bytes:
    empty = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 1_000_000
    head = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, len(empty))
    return slice_header(study, uid) + head + empty


def _elements(study: str, uid: str) -> bytes:
    return slice_header(study, uid) + b"".join(
        struct.pack("<HH2sH", 0x0041 + number // 65536, number % 65536, b"LO", 0)
        for number in range(1_000_000)
    )


def _deflated_bomb(study: str, uid: str) -> bytes:
    """One private element of 1 GiB in the header: some 1 MB of it on the wire."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = struct.pack("<HH2sHI", 0x0041, 0x0010, b"OB", 0, _GIB)
    parts = [packer.compress(slice_header(study, uid) + head)]
    parts += [packer.compress(bytes(MIB)) for _ in range(_GIB // MIB)]
    return b"".join([*parts, packer.flush()])


def _long_name(study: str, uid: str) -> bytes:
    """A header that is mapped whole, and whose name is all of it."""
    size = 64 * MIB
    name = struct.pack("<HH2sHI", 0x0010, 0x0010, b"UN", 0, size) + bytes(size)
    # Out of order, so that the name is read before anything is found missing.
    return name + slice_header(study, uid)[:-4]


def _bomb(make: Callable[[str, str], bytes], syntax: str) -> Instance:
    study, uid = new_uid(), new_uid()
    return Instance(
        study_instance_uid=study,
        sop_instance_uid=uid,
        sop_class_uid=CT,
        dataset=make(study, uid),
        transfer_syntax_uid=syntax,
    )


def _header_bombs(ground: Ground) -> str:
    seen = []
    bombs: tuple[tuple[str, Callable[[str, str], bytes], str], ...] = (
        ("33 deep", _nested(33), LITTLE),
        ("50,000 deep", _nested(50_000), LITTLE),
        ("1 M items", _items, LITTLE),
        ("1 M elements", _elements, LITTLE),
        ("name of 64 MiB", _long_name, LITTLE),
        ("deflated bomb", _deflated_bomb, str(DeflatedExplicitVRLittleEndian)),
    )
    for name, make, syntax in bombs:
        bomb = _bomb(make, syntax)
        begun_s = time.monotonic()
        status = store_alone(ground, bomb)
        seconds = time.monotonic() - begun_s
        expect(status in _CANNOT_UNDERSTAND, f"{name}: answered {status:04X}")
        expect(seconds < _LIMIT_S, f"{name}: {seconds:.1f} s")
        seen.append(f"{name} {status:04X} {seconds:.1f} s")
    return ", ".join(seen)


def _many_header_bombs(ground: Ground) -> str:
    """As many at a time as one address may: what one may cost, all cost together."""
    bombs = [
        _bomb(_deflated_bomb, str(DeflatedExplicitVRLittleEndian)),
        _bomb(_items, LITTLE),
        _bomb(_long_name, LITTLE),
    ]
    begun_s = time.monotonic()
    with ThreadPoolExecutor(_ASSOCIATIONS) as pool:
        statuses = list(
            pool.map(lambda number: store_alone(ground, bombs[number % 3]), range(_ASSOCIATIONS))
        )
    wrong = [each for each in statuses if each not in _CANNOT_UNDERSTAND]
    expect(not wrong, f"answers {[f'{each:04X}' for each in wrong]}")
    return f"{len(statuses)} answered C0xx within {time.monotonic() - begun_s:.1f} s"


def _encapsulated(codestream: bytes) -> bytes:
    """Pixel data of one fragment, PS3.5 A.4."""
    codestream += b"\0" * (len(codestream) % 2)
    return (
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        + struct.pack("<HHI", 0xFFFE, 0xE000, len(codestream))
        + codestream
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )


def _pixel_bomb(codestream: bytes, side: int, syntax: str) -> Instance:
    """A chest film whose pixels claim `side` by `side`."""

    def enlarge(dataset: Dataset) -> None:
        dataset.Rows = dataset.Columns = side
        dataset.PixelData = b""

    film = chest_film(change=enlarge)
    empty = RawElement(0x7FE00010, "OW", b"").encoded()
    expect(film.dataset.endswith(empty), "the film does not end with its pixels")
    return Instance(
        study_instance_uid=film.study_instance_uid,
        sop_instance_uid=film.sop_instance_uid,
        sop_class_uid=film.sop_class_uid,
        dataset=film.dataset.removesuffix(empty) + _encapsulated(codestream),
        transfer_syntax_uid=syntax,
    )


def _pixel_bombs(ground: Ground) -> str:
    rle = struct.pack("<16I", 2, 64, 164, *([0] * 13)) + b"\x81\0" * 100
    # PS3.5 8.2.4: SOC, and SIZ of one component of 60,000 by 60,000 in one tile.
    size = struct.pack(
        ">HHIIIIIIIIHBBB", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1, 15, 1, 1
    )
    j2k = b"\xff\x4f\xff\x51" + size + b"\xff\x93" + bytes(64) + b"\xff\xd9"
    seen = []
    for name, film in (
        ("RLE 65,535 x 65,535", _pixel_bomb(rle, 65535, str(RLELossless))),
        ("J2K 60,000 x 60,000", _pixel_bomb(j2k, 60000, str(JPEG2000Lossless))),
        ("J2K that is larger than it says", _pixel_bomb(j2k, 512, str(JPEG2000Lossless))),
    ):
        status = store_alone(ground, film)
        expect(status == SUCCESS, f"{name}: answered {status:04X}")
        begun_s = time.monotonic()
        record = await_ended(ground, film.study_instance_uid, limit_s=_DECODER_LIMIT_S)
        seconds = time.monotonic() - begun_s
        expect(record.state is StudyState.NOT_ANALYSED, f"{name}: {record.state.value}")
        seen.append(f"{name}: {record.reason} after {seconds:.1f} s")
    good = chest_film()
    store_alone(ground, good)
    wait_until(
        lambda: ground.studies()[good.study_instance_uid].state is StudyState.DONE,
        limit_s=_DECODER_LIMIT_S,
        what="the next film was scored",
    )
    return "; ".join(seen)


BOMB_FAULTS = (
    Fault(
        number="30a",
        what="nested sequences, 1 M items or elements, long name, deflated bomb",
        expected="C0xx within 10 s, memory flat",
        commit=_header_bombs,
        most_memory_mib=64,
    ),
    Fault(
        number="30c",
        what=f"{_ASSOCIATIONS} of these at a time",
        expected="C0xx, memory flat",
        commit=_many_header_bombs,
        most_memory_mib=64,
        is_sampled=False,
    ),
    Fault(
        number="30b",
        what="RLE and JPEG 2000 bombs",
        expected="not analysed, the next film is",
        commit=_pixel_bombs,
        most_memory_mib=64,
    ),
)
