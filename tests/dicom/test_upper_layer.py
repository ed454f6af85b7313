"""Bytes at the listener, legal and not: what PS3.8's state table says, within its deadlines."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from imaging_node.dicom import upper_layer
from imaging_node.dicom.endings import Ended
from imaging_node.dicom.state_table import STATE_TABLE, Received, State
from tests.dicom.listening import (
    CT,
    RELEASE_REQUEST,
    VERIFICATION,
    RawPeer,
    association_request,
    data_pdu,
    echo_command,
    listening,
    store_command,
    value,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.dicom.listening import Listening

LITTLE = str(ExplicitVRLittleEndian)
BOTH = [(CT, LITTLE), (VERIFICATION, LITTLE)]
RELEASE_REPLY = b"\x06\0\0\0\0\x04\0\0\0\0"


def await_end(running: Listening) -> None:
    deadline_s = time.monotonic() + 5
    while not running.seen.ended:
        assert time.monotonic() < deadline_s, "the association has not ended"
        time.sleep(0.01)


def abort(source: int, reason: int) -> bytes:
    return bytes((7, 0, 0, 0, 0, 4, 0, 0, source, reason))


@pytest.mark.parametrize("state", [State.AWAITING_REQUEST, State.DATA_TRANSFER])
def test_every_event_has_its_action_in_every_state(state: State) -> None:
    assert set(STATE_TABLE[state]) == set(Received)


@pytest.mark.parametrize(
    ("pdu", "answer"),
    [
        (b"\x02\0\0\0\0\x04\0\0\0\0", abort(0, 0)),  # A-ASSOCIATE-AC
        (b"\x04\0\0\0\0\x04\0\0\0\0", abort(0, 0)),  # P-DATA-TF
        (RELEASE_REQUEST, abort(0, 0)),
        (b"\x99\0\0\0\0\x04\0\0\0\0", abort(0, 0)),  # unrecognised
        (b"\x01\0\xff\xff\xff\xff", abort(0, 0)),  # a request of 4 GiB
        (b"\x04\0\xff\xff\xff\xff", abort(0, 0)),  # data of 4 GiB
        (b"\x01\0\0\0\0\x04\0\x01\0\0", abort(0, 0)),  # a request that ends too soon
        (abort(0, 0), b""),
    ],
)
def test_before_an_association_anything_but_a_request_is_aborted_at_once(
    tmp_path: Path, pdu: bytes, answer: bytes
) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        started_s = time.monotonic()
        peer.send(pdu)
        assert peer.pdu() == answer
        assert time.monotonic() - started_s < 1
        assert peer.associate()[:1] != b"\x02" if answer else True


@pytest.mark.parametrize(
    ("pdu", "answer"),
    [
        (association_request(BOTH), abort(2, 2)),
        (b"\x02\0\0\0\0\x04\0\0\0\0", abort(2, 2)),
        (RELEASE_REPLY, abort(2, 2)),
        (b"\x99\0\0\0\0\x04\0\0\0\0", abort(2, 1)),
        (b"\x04\0\xff\xff\xff\xff", abort(2, 6)),
        (b"\x04\0\0\x02\0\x01", abort(2, 6)),  # one byte over the offered 128 KiB
        (data_pdu(b"\0\0\0"), abort(2, 6)),
        (data_pdu(b"\0\0\0\x63\x01\x03"), abort(2, 6)),
        (data_pdu(b"\0\0\0\x01\x01\x03"), abort(2, 6)),
        (data_pdu(value(echo_command(), is_command=True, context_id=99)), abort(2, 6)),
        (data_pdu(value(b"x" * 20, is_command=True)), abort(2, 6)),
        (data_pdu(value(b"x" * 20, is_command=False)), abort(2, 2)),
        (
            data_pdu(
                value(store_command()[:30], is_command=True, is_last=False),
                value(store_command()[30:], is_command=True, context_id=3),
            ),
            abort(2, 2),
        ),
        (
            data_pdu(
                value(store_command(), is_command=True),
                value(store_command(), is_command=True),
            ),
            abort(2, 2),
        ),
        (abort(0, 0), b""),
    ],
)
def test_in_data_transfer_every_breach_is_aborted_with_source_and_reason(
    tmp_path: Path, pdu: bytes, answer: bytes
) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        assert peer.associate(BOTH)[:1] == b"\x02"
        peer.send(pdu)
        assert peer.pdu() == answer
        await_end(running)

    assert not any(each.is_accepted for each in running.seen.sinks)
    assert all(each.is_discarded for each in running.seen.sinks)


def test_a_release_is_granted_and_noted(tmp_path: Path) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate(BOTH)
        peer.send(RELEASE_REQUEST)
        assert peer.pdu() == RELEASE_REPLY
        peer.socket.close()
        await_end(running)

    [(_, ending, _)] = running.seen.ended
    assert ending.how is Ended.RELEASED


DATASET = bytes(range(256)) * 40


def one_byte_a_value() -> list[bytes]:
    command = store_command()
    pieces = [
        value(command[i : i + 1], is_command=True, is_last=i == len(command) - 1)
        for i in range(len(command))
    ]
    pieces += [
        value(DATASET[i : i + 1], is_command=False, is_last=i == len(DATASET) - 1)
        for i in range(len(DATASET))
    ]
    return pieces


def pdus_of(values: list[bytes], *, at_a_time: int) -> bytes:
    return b"".join(
        data_pdu(*values[begin : begin + at_a_time]) for begin in range(0, len(values), at_a_time)
    )


@pytest.mark.parametrize(
    "encoded",
    [
        data_pdu(value(store_command(), is_command=True), value(DATASET, is_command=False)),
        data_pdu(value(store_command(), is_command=True))
        + data_pdu(value(DATASET, is_command=False)),
        pdus_of(one_byte_a_value(), at_a_time=1),
        pdus_of(one_byte_a_value(), at_a_time=1000),
        data_pdu(value(store_command(), is_command=True))
        + data_pdu(value(DATASET, is_command=False, is_last=False))
        + data_pdu(value(b"", is_command=False, is_last=True)),
    ],
    ids=["one PDU", "two PDUs", "a PDU a byte", "many values a PDU", "an empty last value"],
)
def test_fragments_of_any_kind_are_put_together(tmp_path: Path, encoded: bytes) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        for _ in range(2):
            peer.send(encoded)
            assert peer.status() == 0

    assert [bytes(each.written) for each in running.seen.sinks] == [DATASET] * 2


def test_bytes_that_come_one_by_one_are_put_together(tmp_path: Path) -> None:
    encoded = data_pdu(value(store_command(), is_command=True), value(b"pixels", is_command=False))
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        for byte in association_request(BOTH):
            peer.send(bytes((byte,)))
        assert peer.pdu()[:1] == b"\x02"
        for byte in encoded:
            peer.send(bytes((byte,)))
        assert peer.status() == 0


def test_a_command_set_without_end_is_cut_off_at_64_kib(tmp_path: Path) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        with contextlib.suppress(OSError):
            for _ in range(100):
                peer.send(data_pdu(value(bytes(16000), is_command=True, is_last=False)))
        assert peer.pdu() == abort(2, 6)


def test_a_peer_more_than_two_messages_ahead_of_its_answers_is_aborted(tmp_path: Path) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate([(VERIFICATION, LITTLE)])
        peer.send(
            b"".join(
                data_pdu(value(echo_command(number), is_command=True)) for number in range(1, 61)
            )
        )
        answers = []
        while pdu := peer.pdu():
            answers.append(pdu[0])

    assert answers[-1] == 7
    assert answers.count(4) <= 4


@pytest.mark.parametrize("begun", [b"", association_request(BOTH)[:40]])
def test_a_connection_that_does_not_become_an_association_is_closed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(upper_layer, "PDU_DEADLINE_S", 1.5)
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.send(begun)
        started_s = time.monotonic()
        assert peer.pdu() == b""
        assert 1 < time.monotonic() - started_s < 4


def test_a_pdu_that_drips_is_cut_off_by_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upper_layer, "PDU_DEADLINE_S", 1.5)
    with listening(tmp_path) as running, RawPeer(running.port, limit_s=0.2) as peer:
        peer.socket.settimeout(5)
        peer.associate(BOTH)
        peer.send(b"\x04\0" + struct.pack(">I", 60000))
        started_s = time.monotonic()
        answer = b""
        peer.socket.settimeout(0.2)
        while time.monotonic() - started_s < 6 and not answer:
            with contextlib.suppress(OSError):
                peer.send(b"\0")
            with contextlib.suppress(TimeoutError):
                answer = peer.socket.recv(10)
        assert answer == abort(2, 0)
        assert time.monotonic() - started_s < 4


def test_a_silent_association_is_aborted_and_a_busy_one_is_not(tmp_path: Path) -> None:
    with (
        listening(tmp_path, idle_timeout_s=1.5) as running,
        RawPeer(running.port) as busy,
        RawPeer(running.port) as silent,
    ):
        busy.associate([(VERIFICATION, LITTLE)])
        silent.associate()
        silent.socket.settimeout(0.1)
        started_s, answer = time.monotonic(), b""
        while not answer and time.monotonic() - started_s < 6:
            busy.send(data_pdu(value(echo_command(), is_command=True)))
            assert busy.status() == 0
            with contextlib.suppress(TimeoutError):
                answer = silent.pdu()
        assert answer == abort(2, 0)


@pytest.mark.parametrize("way", ["close", "reset", "abort"])
def test_an_instance_cut_off_under_way_is_discarded(tmp_path: Path, way: str) -> None:
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(data_pdu(value(store_command(), is_command=True)))
        peer.send(data_pdu(value(DATASET, is_command=False, is_last=False)))
        if way == "reset":
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way == "abort":
            peer.send(abort(0, 0))
        peer.socket.close()
        await_end(running)

    [kept] = running.seen.sinks
    assert kept.is_discarded
    assert not kept.is_accepted
