"""Faults 24 and 29: datasets that are huge, or damaged."""

from __future__ import annotations

import random
import struct
import time
from functools import partial
from io import BytesIO

from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode

from abuse.fault import Fault
from abuse.ground import Ground, expect
from abuse.headers import SLOWEST_S, read_mutated
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
)
from imaging_node.dicom.statuses import STATUS_TOO_LARGE, STATUS_UNEXPECTED
from tests.dicom.listening import CT, data_pdu, value

_GIB = 1024 * MIB
_HUGE_BYTES = 2 * 1000**3
_PIXELS = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, _HUGE_BYTES)
_CANNOT_UNDERSTAND = range(0xC000, 0xC100)
_MOST_RECEIVER_BYTES = 150 * MIB
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
    expect(status == STATUS_TOO_LARGE, f"answered {status:04X}")
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
            expect(status != STATUS_UNEXPECTED, f"number {number} met a defect: C0FE")
    expect(slowest_s < 10, f"one took {slowest_s:.1f} s")  # noqa: PLR2004 - the promise
    counts = ", ".join(f"{count} {status:04X}" for status, count in sorted(answers.items()))
    return f"{_MUTATED_BY_NETWORK} of them: {counts}; slowest {slowest_s * 1000:.0f} ms"


def read_fault(count: int, seed: int) -> Fault:
    """So many mutated datasets at the reader of headers itself."""
    return Fault(
        number="29b",
        what=f"{count:,} mutated datasets, as intake reads them",
        expected="accepted, A900 or C0xx, none over 10 s",
        commit=partial(_read_mutated, count=count, seed=seed),
    )


def _read_mutated(_: Ground, *, count: int, seed: int) -> str:
    film, section = chest_film("mutated"), ct_slice(pixels=bytes(64))
    dataset = dcmread(BytesIO(film.dataset[:3000]), force=True, stop_before_pixels=True)
    seeds = [(film.dataset[:3000], LITTLE), (section.dataset, LITTLE)]
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        encoded = encode(
            dataset,
            is_implicit_vr=syntax.is_implicit_VR,
            is_little_endian=syntax.is_little_endian,
            deflated=syntax.is_deflated,
        )
        assert encoded is not None
        seeds.append((encoded, str(syntax)))
    begun_s = time.monotonic()
    reading = read_mutated(seeds, count, seed=seed)
    seconds = time.monotonic() - begun_s
    expect(not reading.defects, f"{len(reading.defects)} defects: {reading.defects[:3]}")
    expect(reading.slowest_s < SLOWEST_S, f"one took {reading.slowest_s:.1f} s")
    counts = ", ".join(f"{number:,} {name}" for name, number in sorted(reading.outcomes.items()))
    return (
        f"{counts}; slowest {reading.slowest_s * 1000:.0f} ms,"
        f" {count / seconds:,.0f}/s, seed {seed}"
    )


DATASET_FAULTS = (
    Fault(
        number="29a",
        what=f"{_MUTATED_BY_NETWORK} mutated datasets by C-STORE",
        expected="0000, A900 or C0xx, none over 10 s",
        commit=_mutated_datasets,
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
HUGE_FAULTS = (
    Fault(
        number="24a",
        what="2 GB instance",
        expected="0000, receiver < 150 MiB",
        commit=_two_gigabytes,
        is_sampled=False,
    ),
)
