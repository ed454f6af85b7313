"""What each answer of a peer does to the outbox; a real SCP gives the answers."""

from __future__ import annotations

import socket
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import StorageError
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.flow.delivery import deliver_due
from imaging_node.settings import PeerSettings
from imaging_node.store.deliveries import return_unfinished
from imaging_node.store.listings import list_deliveries
from tests.dicom.fault_proxy import Fault, FaultProxy
from tests.dicom.storage_peer import CAPTURE, StoragePeer
from tests.dicom.talking import ASSOCIATION_REJECTED, scripted_peer
from tests.flow.outbox import OBJECT_UID, outbox
from tests.store.test_studies import DUE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.domain.records import DeliveryRecord
    from imaging_node.flow.delivery import DeliveryRoom
    from tests.flow.conftest import Clock


@pytest.fixture
def room(tmp_path: Path, clock: Clock) -> Iterator[DeliveryRoom]:
    """An outbox with one small object."""
    clock.now = DUE
    made = outbox(tmp_path, clock)
    yield made
    made.database.close()


@pytest.fixture
def pacs() -> Iterator[StoragePeer]:
    with StoragePeer() as peer:
        yield peer


def deliver(room: DeliveryRoom, peer: PeerSettings) -> DeliveryRecord:
    deliver_due("pacs", peer, room)
    [row] = list_deliveries(room.database)
    return row


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007])
def test_success_and_its_warnings_are_delivered(
    room: DeliveryRoom, pacs: StoragePeer, status: int
) -> None:
    pacs.status = status

    row = deliver(room, pacs.settings())

    assert (row.state, row.last_status) == (DeliveryState.DELIVERED, f"{status:04X}")
    assert len(pacs.datasets[OBJECT_UID]) == 1


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0xA7FF, 0x0110, 0x0213])
def test_what_may_pass_is_tried_again_later(
    room: DeliveryRoom, pacs: StoragePeer, clock: Clock, status: int
) -> None:
    pacs.status = status

    row = deliver(room, pacs.settings())

    assert (row.state, row.last_status) == (DeliveryState.WAITING, f"{status:04X}")
    assert row.next_attempt_at is not None
    assert (row.next_attempt_at - DUE).total_seconds() == 2

    pacs.status, clock.now = 0x0000, row.next_attempt_at
    assert deliver(room, pacs.settings()).state is DeliveryState.DELIVERED
    assert list(pacs.datasets) == [OBJECT_UID]


@pytest.mark.parametrize(
    "status",
    [0xA900, 0xC000, 0xC123, 0x0122, 0x0124, 0x0117, 0x0111, 0xFE00, 0x0001, 0xB001, 0xA800],
)
def test_what_will_not_pass_is_parked_after_one_try(
    room: DeliveryRoom, pacs: StoragePeer, clock: Clock, status: int
) -> None:
    pacs.status = status
    deliver(room, pacs.settings())
    clock.advance(86400)

    row = deliver(room, pacs.settings())

    assert (row.state, row.attempts) == (DeliveryState.PARKED, 1)
    assert row.last_status == f"{status:04X}"
    assert 'outcome="delivery_parked"' in "".join(room.counters.snapshot())


def test_a_peer_that_does_not_take_reports_parks_them_with_that_reason(room: DeliveryRoom) -> None:
    with StoragePeer(sop_class_uids=[CAPTURE]) as peer:
        row = deliver(room, peer.settings())

    assert (row.state, row.last_status) == (DeliveryState.PARKED, "no presentation context")


def test_a_peer_with_another_ae_title_parks_all_with_its_rejection(
    room: DeliveryRoom, capsys: pytest.CaptureFixture[str]
) -> None:
    with StoragePeer(require_called="RIGHT", ae_title="WRONG") as peer:
        row = deliver(room, peer.settings())

    assert row.state is DeliveryState.PARKED
    assert row.last_status == "rejected 1/1/7: its AE title is another one"
    assert "check its AE title" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("result", "source", "reason", "state"),
    [
        (1, 1, 3, DeliveryState.PARKED),
        (1, 1, 7, DeliveryState.PARKED),
        (1, 2, 2, DeliveryState.PARKED),
        (2, 3, 1, DeliveryState.WAITING),
        (2, 3, 2, DeliveryState.WAITING),
        (2, 1, 1, DeliveryState.WAITING),
    ],
)
def test_a_rejection_for_good_parks_and_one_for_now_waits(
    room: DeliveryRoom, result: int, source: int, reason: int, state: DeliveryState
) -> None:
    with scripted_peer(ASSOCIATION_REJECTED + bytes([0, result, source, reason])) as port:
        row = deliver(room, PeerSettings(ae_title="X", host="127.0.0.1", port=port))

    assert row.state is state
    assert f"{result}/{source}/{reason}" in row.last_status
    assert row.last_status.startswith("no association") is (state is DeliveryState.WAITING)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="reset", after_bytes=400),
        Fault(kind="swallow", after_bytes=400),
        Fault(kind="eat replies", after_bytes=1),
        Fault(kind="refuse"),
    ],
    ids=lambda fault: fault.kind,
)
def test_an_unknown_outcome_is_settled_by_the_same_object_again(
    room: DeliveryRoom, pacs: StoragePeer, clock: Clock, fault: Fault
) -> None:
    hasty = replace(room, caller=replace(room.caller, timeout_s=0.5))
    with FaultProxy(("127.0.0.1", pacs.port), fault) as proxy:
        there = pacs.settings().model_copy(update={"port": proxy.port})
        row = deliver(hasty, there)
        assert row.state is DeliveryState.WAITING
        assert row.last_status.startswith(("no answer", "no association"))
        assert row.next_attempt_at is not None

        proxy.heal()
        clock.now = row.next_attempt_at
        assert deliver(room, there).state is DeliveryState.DELIVERED

    assert list(pacs.datasets) == [OBJECT_UID]
    assert len(set(pacs.datasets[OBJECT_UID])) == 1


def test_a_slow_peer_gets_it_all_the_same(room: DeliveryRoom, pacs: StoragePeer) -> None:
    with FaultProxy(("127.0.0.1", pacs.port), Fault(kind="slow", bytes_per_second=2000)) as proxy:
        row = deliver(room, pacs.settings().model_copy(update={"port": proxy.port}))

    assert row.state is DeliveryState.DELIVERED


def test_when_told_to_stop_what_is_left_waits_for_the_next_start(
    room: DeliveryRoom, pacs: StoragePeer
) -> None:
    row = deliver(replace(room, is_stopping=lambda: True), pacs.settings())

    assert (row.state, row.attempts, row.next_attempt_at) == (DeliveryState.WAITING, 0, DUE)
    assert deliver(room, pacs.settings()).state is DeliveryState.DELIVERED


def test_what_was_sent_and_could_not_be_noted_is_sent_again_when_that_is_said(
    room: DeliveryRoom, pacs: StoragePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imaging_node.store.database.BUSY_TIMEOUT_MS", 50)
    other = sqlite3.connect(room.database._engine.url.database or "", isolation_level=None)
    locking = replace(room, record=lambda _: other.execute("BEGIN IMMEDIATE"))
    with pytest.raises(StorageError, match="locked"):
        deliver_due("pacs", pacs.settings(), locking)
    other.close()
    assert deliver_due("pacs", pacs.settings(), room) == 0  # it is claimed

    return_unfinished(room.database, "another", worker=room.worker, due_at=DUE)
    assert deliver_due("pacs", pacs.settings(), room) == 0
    return_unfinished(room.database, "pacs", worker=room.worker, due_at=DUE)

    assert deliver(room, pacs.settings()).state is DeliveryState.DELIVERED
    assert len(pacs.datasets[OBJECT_UID]) == 2


def test_waits_double_up_to_the_longest(room: DeliveryRoom, clock: Clock) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = PeerSettings(ae_title="X", host="127.0.0.1", port=closed.getsockname()[1])
    waits = []
    for _ in range(6):
        deliver_due("pacs", nobody, room)
        [row] = list_deliveries(room.database)
        assert row.next_attempt_at is not None
        waits.append((row.next_attempt_at - clock()).total_seconds())
        clock.now = row.next_attempt_at

    assert waits == [2, 4, 8, 16, 16, 16]
    assert row.last_status.startswith("no association")


def test_a_damaged_object_is_parked_and_never_sent(room: DeliveryRoom, pacs: StoragePeer) -> None:
    [path] = (path for path in room.spool._folder.rglob("*.dcm"))
    path.write_bytes(path.read_bytes() + b"x")

    row = deliver(room, pacs.settings())

    assert (row.state, row.last_status) == (DeliveryState.PARKED, "stored object damaged")
    assert not pacs.datasets
