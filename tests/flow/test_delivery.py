"""What each answer of a peer does to the outbox; a real SCP gives the answers."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import AE, evt

from imaging_node.dicom.file_format import encode_part10
from imaging_node.dicom.sender import Caller
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority, TriageDecision
from imaging_node.domain.retrying import BackOff
from imaging_node.flow.delivery import DeliveryRoom, deliver_due
from imaging_node.settings import PeerSettings
from imaging_node.store.database import open_database
from imaging_node.store.listings import list_deliveries
from imaging_node.store.spool import Spool
from imaging_node.store.studies import Ending, finish_study
from imaging_node.telemetry import Counters, Pseudonyms
from tests.store.arriving import arriving, note
from tests.store.test_studies import DUE, claim, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.flow.conftest import Clock

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def room(tmp_path: Path, clock: Clock) -> Iterator[DeliveryRoom]:
    """An outbox with one small object."""
    clock.now = DUE
    database = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    spool = Spool(tmp_path / "spool", min_free_bytes=0)
    note(database, arriving())
    owned = claim(database)
    assert owned is not None
    answer = report()
    finish_study(
        database,
        owned,
        Ending(
            state=StudyState.DONE,
            reason="",
            decision=TriageDecision(priority=ReadingPriority.ROUTINE, reason="as ordered"),
            objects=((answer, spool.write(small_report())),),
            answers=(("chest", "sha256:0", answer),),
        ),
        destinations=["pacs"],
        now=DUE,
    )
    yield DeliveryRoom(
        database=database,
        spool=spool,
        pseudonyms=Pseudonyms(b"k" * 32),
        caller=Caller(ae_title="NODE", timeout_s=2),
        peers={},
        back_off=BackOff(first_s=2, longest_s=16),
        commitment_timeout=timedelta(hours=1),
        worker="w",
        counters=Counters(),
        clock=clock,
        is_stopping=lambda: False,
    )
    database.close()


def small_report() -> bytes:
    return encode_part10(
        b"\x08\x00\x16\x00UI\x1e\x00" + REPORT.encode() + b"\0\x08\x00\x18\x00UI\x06\x002.25.1",
        sop_class_uid=REPORT,
        sop_instance_uid="2.25.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )


@pytest.fixture
def peer() -> Iterator[Callable[[int], PeerSettings]]:
    """Start an SCP that answers every C-STORE with a status."""
    servers: list[Any] = []

    def start(status: int, sop_class_uid: str = REPORT) -> PeerSettings:
        entity = AE(ae_title="PEER")
        entity.add_supported_context(sop_class_uid)
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: status)]
        )
        assert server is not None
        assert server.socket is not None
        servers.append(server)
        return PeerSettings(ae_title="PEER", host="127.0.0.1", port=server.socket.getsockname()[1])

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007])
def test_success_and_its_warnings_are_delivered(
    room: DeliveryRoom, peer: Callable[[int], PeerSettings], status: int
) -> None:
    deliver_due("pacs", peer(status), room)

    [row] = list_deliveries(room.database)
    assert (row.state, row.last_status) == (DeliveryState.DELIVERED, f"{status:04X}")


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110, 0x0213])
def test_what_may_pass_is_tried_again_later(
    room: DeliveryRoom, peer: Callable[[int], PeerSettings], status: int
) -> None:
    deliver_due("pacs", peer(status), room)

    [row] = list_deliveries(room.database)
    assert (row.state, row.last_status) == (DeliveryState.WAITING, f"{status:04X}")
    assert row.next_attempt_at is not None
    assert (row.next_attempt_at - DUE).total_seconds() == 2


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122, 0x0124, 0x0117])
def test_what_will_not_pass_is_parked_after_one_try(
    room: DeliveryRoom, peer: Callable[[int], PeerSettings], status: int
) -> None:
    deliver_due("pacs", peer(status), room)
    assert deliver_due("pacs", peer(status), room) == 0

    [row] = list_deliveries(room.database)
    assert (row.state, row.attempts) == (DeliveryState.PARKED, 1)
    assert row.last_status == f"{status:04X}"


def test_a_peer_that_does_not_take_reports_parks_them_with_that_reason(
    room: DeliveryRoom, peer: Callable[..., PeerSettings]
) -> None:
    deliver_due("pacs", peer(0, "1.2.840.10008.5.1.4.1.1.7"), room)

    [row] = list_deliveries(room.database)
    assert row.state in {DeliveryState.PARKED, DeliveryState.WAITING}
    assert "presentation context" in row.last_status or "association" in row.last_status


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


def test_a_damaged_object_is_parked_and_never_sent(
    room: DeliveryRoom, peer: Callable[[int], PeerSettings]
) -> None:
    [path] = (path for path in room.spool._folder.rglob("*.dcm"))
    path.write_bytes(path.read_bytes() + b"x")

    deliver_due("pacs", peer(0), room)

    [row] = list_deliveries(room.database)
    assert (row.state, row.last_status) == (DeliveryState.PARKED, "stored object damaged")
