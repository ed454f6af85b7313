"""Faults 24, 29 and 30: datasets that are huge, damaged, or much larger than they look."""

from __future__ import annotations

import random
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from abuse.fault import Fault
from abuse.ground import Ground, expect, wait_until
from abuse.levels import MIB
from abuse.mutation import mutated
from abuse.sending import (
    LITTLE,
    SUCCESS,
    Instance,
    association,
    await_ended,
    chest_film,
    ct_slice,
    new_uid,
    send_command,
    slice_header,
    store_alone,
)
from imaging_node.dicom.encoding import RawElement
from imaging_node.domain.lifecycle import StudyState
from tests.dicom.listening import CT, data_pdu, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

_GIB = 1024 * MIB
_HUGE_BYTES = 2 * 1000**3
_UNDEFINED = 0xFFFFFFFF
_PIXELS = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, _HUGE_BYTES)
_SEQUENCE = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, _UNDEFINED)
_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, _UNDEFINED)
_CANNOT_UNDERSTAND = range(0xC000, 0xC100)
_MOST_RECEIVER_BYTES = 150 * MIB
_DECODER_LIMIT_S = 30.0
_ASSOCIATIONS = 16
_MUTATED_BY_NETWORK = 400


def _two_gigabytes(ground: Ground) -> str:
    study, uid = new_uid(), new_uid()
    header = slice_header(study, uid) + _PIXELS
    piece = random.Random(24).randbytes(100_000)  # noqa: S311 - pixels
    fragments = [data_pdu(value(piece, is_command=False, is_last=False))] * 10
    last = data_pdu(value(piece, is_command=False, is_last=True))
    receiver = ground.role("receive")
    peak_bytes, begun_s = 0, time.monotonic()
    instance = Instance(
        study_instance_uid=study, sop_instance_uid=uid, sop_class_uid=CT, dataset=b""
    )
    with association(ground, [(CT, LITTLE)], limit_s=120) as peer:
        send_command(peer, instance)
        peer.send(data_pdu(value(header, is_command=False, is_last=False)))
        pieces = _HUGE_BYTES // len(piece)
        for number in range(0, pieces - 10, 10):
            peer.send(b"".join(fragments))
            if number % 100 == 0:
                peak_bytes = max(peak_bytes, receiver.memory_info().rss)
        for _ in range(9):
            peer.send(fragments[0])
        peer.send(last)
        status = peer.status()
        seconds = time.monotonic() - begun_s
    peak_bytes = max(peak_bytes, receiver.memory_info().rss)
    expect(status == SUCCESS, f"answered {status:04X}")
    expect(peak_bytes < _MOST_RECEIVER_BYTES, f"the receiver held {peak_bytes / MIB:.0f} MiB")
    record = await_ended(ground, study)
    sizes = [path.stat().st_size for path in ground.kept_files()]
    expect(max(sizes) > _HUGE_BYTES, f"the largest file has {max(sizes)} bytes")
    for path in ground.kept_files():
        if path.stat().st_size > _HUGE_BYTES:
            path.unlink()  # nobody needs it any more, and the disk is not ours alone
    return (
        f"0000 after {seconds:.0f} s, receiver {peak_bytes / MIB:.0f} MiB at most,"
        f" study {record.state.value}"
    )


def _without_end(ground: Ground) -> str:
    """Fragments of pixel data without end: 100 GB, were they taken."""
    limit = ground.node.settings.dicom.max_instance_bytes
    instance = ct_slice()
    most_part_bytes, sent = 0, 0
    piece = data_pdu(value(bytes(100_000), is_command=False, is_last=False))
    with ground.call() as peer:
        peer.associate()
        send_command(peer, instance)
        header = slice_header(instance.study_instance_uid, instance.sop_instance_uid)
        peer.send(data_pdu(value(header, is_command=False, is_last=False)))
        try:
            while sent < 100 * _GIB:
                peer.send(piece)
                sent += len(piece)
                for part in ground.parts():
                    most_part_bytes = max(most_part_bytes, part.stat().st_size)
        except OSError:
            pass  # it has had enough
        status = peer.status()
        ended = peer.pdu()[:1]
    expect(status == 0xA701, f"answered {status:04X}")  # noqa: PLR2004
    expect(ended == b"\x07", "no A-ABORT behind A701")
    expect(most_part_bytes <= limit + MIB, f"{most_part_bytes / MIB:.0f} MiB were kept")
    return f"A701 and A-ABORT after {limit / MIB:.0f} MiB"


def _mutated_datasets(ground: Ground) -> str:
    """Real datasets, damaged: each is answered, by what its header is worth."""
    chance = random.Random(29)  # noqa: S311 - repeatable
    seeds = [chest_film("mutated").dataset[:3000], ct_slice(pixels=bytes(256)).dataset]
    answers: dict[int, int] = {}
    slowest_s = 0.0
    with association(ground, [(CT, LITTLE), (CT, str(ImplicitVRLittleEndian))]) as peer:
        for number in range(_MUTATED_BY_NETWORK):
            context_id = 1 if chance.random() < 0.8 else 3  # noqa: PLR2004 - mostly as encoded
            instance = ct_slice(pixels=b"")
            dataset = mutated(chance.choice([*seeds, instance.dataset]), chance)
            begun_s = time.monotonic()
            send_command(peer, instance, context_id=context_id)
            for begin in range(0, len(dataset), 16000):
                is_last = begin + 16000 >= len(dataset)
                fragment = dataset[begin : begin + 16000]
                peer.send(
                    data_pdu(
                        value(fragment, is_command=False, is_last=is_last, context_id=context_id)
                    )
                )
            if not dataset:
                peer.send(data_pdu(value(b"", is_command=False, context_id=context_id)))
            status = peer.status()
            slowest_s = max(slowest_s, time.monotonic() - begun_s)
            answers[status] = answers.get(status, 0) + 1
            expect(
                status in (SUCCESS, 0xA900) or status in _CANNOT_UNDERSTAND,
                f"number {number} was answered {status:04X}",
            )
            expect(status != 0xC0FE, f"number {number} met a defect: C0FE")  # noqa: PLR2004
    expect(slowest_s < 10, f"one took {slowest_s:.1f} s")  # noqa: PLR2004 - the promise
    counts = ", ".join(f"{count} {status:04X}" for status, count in sorted(answers.items()))
    return f"{_MUTATED_BY_NETWORK} of them: {counts}; slowest {slowest_s * 1000:.0f} ms"


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
        expect(seconds < 10, f"{name}: {seconds:.1f} s")  # noqa: PLR2004 - the promise
        seen.append(f"{name} {status:04X} {seconds:.1f} s")
    return ", ".join(seen)


def _many_header_bombs(ground: Ground) -> str:
    """As many at a time as one address may: what one may cost, sixteen cost sixteen times."""
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


DATASET_FAULTS = (
    Fault(
        number="29a",
        what=f"{_MUTATED_BY_NETWORK} mutated datasets by C-STORE",
        expected="0000, A900 or C0xx, none over 10 s",
        commit=_mutated_datasets,
    ),
    Fault(
        number="30a",
        what="nested sequences, 1 M items or elements, long name, deflated bomb",
        expected="C0xx within 10 s, memory flat",
        commit=_header_bombs,
        most_memory_mib=64,
    ),
    Fault(
        number="30c",
        what="16 of these at a time",
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
    Fault(
        number="24a",
        what="2 GB instance",
        expected="0000, receiver < 150 MiB",
        commit=_two_gigabytes,
        is_sampled=False,
    ),
)
ENDLESS_FAULTS = (
    Fault(
        number="24b",
        what="100 GB claimed, 64 MiB allowed",
        expected="A701, A-ABORT",
        commit=_without_end,
        most_memory_mib=64,
    ),
)
