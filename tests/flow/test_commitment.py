"""Storage commitment asked of a peer, which is made of pynetdicom."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from imaging_node.dicom.commitment import CommitmentReport
from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.flow.commitment import note_commitment_report
from imaging_node.flow.delivery import deliver_due
from imaging_node.store.commitments import note_asked
from imaging_node.store.deliveries import claim_deliveries, release_deliveries, requeue_delivery
from imaging_node.store.listings import list_deliveries
from imaging_node.store.schema import commitment_requests
from tests.dicom.storage_peer import REPORT, StoragePeer
from tests.flow.outbox import OBJECT_UID, outbox
from tests.store.test_studies import DUE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.domain.records import DeliveryRecord
    from imaging_node.flow.delivery import DeliveryRoom
    from tests.flow.conftest import Clock

DX = "1.2.840.10008.5.1.4.1.1.1.1"


@pytest.fixture
def pacs() -> Iterator[StoragePeer]:
    with StoragePeer() as peer:
        yield peer


@pytest.fixture
def room(tmp_path: Path, clock: Clock, pacs: StoragePeer) -> Iterator[DeliveryRoom]:
    """An outbox with one object, for a peer whose commitment counts."""
    clock.now = DUE
    made = outbox(tmp_path, clock)
    yield replace(made, peers={"pacs": pacs.settings(storage_commitment=True)})
    made.database.close()


def deliver(room: DeliveryRoom) -> DeliveryRecord:
    deliver_due("pacs", room.peers["pacs"], room)
    [row] = list_deliveries(room.database)
    return row


def transactions(room: DeliveryRoom) -> list[str]:
    with room.database.read() as connection:
        return list(
            connection.scalars(
                sa.select(commitment_requests.c.transaction_uid).order_by(
                    commitment_requests.c.asked_at
                )
            )
        )


def report(transaction_uid: str, *, reason: int | None = None) -> CommitmentReport:
    return CommitmentReport(
        transaction_uid=transaction_uid,
        calling_ae_title="PEER",
        committed=() if reason is not None else ((REPORT, OBJECT_UID),),
        failed=((REPORT, OBJECT_UID, reason),) if reason is not None else (),
    )


def test_a_stored_object_is_delivered_only_when_the_peer_has_committed_itself(
    room: DeliveryRoom, pacs: StoragePeer
) -> None:
    row = deliver(room)
    assert (row.state, row.last_status) == (DeliveryState.STORED, "0000")
    assert row.next_attempt_at == DUE + room.commitment_timeout

    [asked] = pacs.asked
    assert [str(each.ReferencedSOPInstanceUID) for each in asked.ReferencedSOPSequence] == [
        OBJECT_UID
    ]
    note_commitment_report(report(str(asked.TransactionUID)), room.commitment)

    [row] = list_deliveries(room.database)
    assert (row.state, row.last_status) == (DeliveryState.DELIVERED, "0000")
    assert pacs.associations == 1


def test_a_report_on_the_same_association_is_taken_there(
    room: DeliveryRoom, pacs: StoragePeer
) -> None:
    pacs.commits = "here"

    assert deliver(room).state is DeliveryState.DELIVERED
    deadline = time.monotonic() + 5
    while not pacs.report_statuses and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pacs.report_statuses == [0x0000]


def test_a_warning_stays_to_be_seen_after_the_commitment(
    room: DeliveryRoom, pacs: StoragePeer
) -> None:
    pacs.status, pacs.commits = 0xB007, "here"

    row = deliver(room)

    assert (row.state, row.last_status) == (DeliveryState.DELIVERED, "B007")


def test_what_the_peer_does_not_commit_is_sent_again_and_parked_after_five_times(
    room: DeliveryRoom, pacs: StoragePeer, clock: Clock
) -> None:
    pacs.commits, pacs.missing = "here", {OBJECT_UID: 0x0112}
    for attempt in range(1, 5):
        row = deliver(room)
        assert (row.state, row.last_status) == (DeliveryState.WAITING, "not committed: 0112")
        assert row.attempts == attempt
        assert row.next_attempt_at is not None
        assert row.next_attempt_at > clock()
        clock.now = row.next_attempt_at

    row = deliver(room)
    assert (row.state, row.last_status) == (DeliveryState.PARKED, "not committed: 0112")
    assert len(pacs.datasets[OBJECT_UID]) == 5
    assert len({bytes(each) for each in pacs.datasets[OBJECT_UID]}) == 1
    assert len(set(transactions(room))) == 5

    pacs.missing = {}
    requeue_delivery(room.database, row.id, now=clock())
    assert deliver(room).state is DeliveryState.DELIVERED


def test_without_a_report_in_time_the_object_is_sent_again(
    room: DeliveryRoom, pacs: StoragePeer, clock: Clock
) -> None:
    deliver(room)
    clock.now = DUE + room.commitment_timeout - timedelta(seconds=1)
    assert deliver(room).attempts == 1

    clock.now = DUE + room.commitment_timeout
    row = deliver(room)

    assert (row.state, row.attempts) == (DeliveryState.STORED, 2)
    assert len(pacs.datasets[OBJECT_UID]) == 2
    assert len(transactions(room)) == 2


def test_a_report_that_comes_late_still_counts_and_a_late_refusal_does_not(
    room: DeliveryRoom, clock: Clock
) -> None:
    deliver(room)
    clock.now = DUE + room.commitment_timeout
    deliver(room)
    clock.now += room.commitment_timeout
    deliver(room)
    first, second, _ = transactions(room)

    note_commitment_report(report(first, reason=0x0112), room.commitment)
    assert list_deliveries(room.database)[0].state is DeliveryState.STORED
    note_commitment_report(report(second), room.commitment)
    assert list_deliveries(room.database)[0].state is DeliveryState.DELIVERED


def test_a_transaction_is_dead_once_it_was_reported(room: DeliveryRoom, clock: Clock) -> None:
    deliver(room)
    [transaction] = transactions(room)
    note_commitment_report(report(transaction, reason=0x0112), room.commitment)
    before = list_deliveries(room.database)

    clock.advance(60)
    note_commitment_report(report(transaction), room.commitment)

    assert list_deliveries(room.database) == before
    assert before[0].state is DeliveryState.WAITING


@pytest.mark.parametrize("caller", ["PEER", "STRANGER"])
def test_a_report_of_a_transaction_that_this_peer_was_not_asked_for_is_refused(
    room: DeliveryRoom, caller: str
) -> None:
    deliver(room)
    uid = "2.25.99" if caller == "PEER" else transactions(room)[0]

    with pytest.raises(RejectedInstanceError) as refusal:
        note_commitment_report(replace(report(uid), calling_ae_title=caller), room.commitment)

    assert refusal.value.status == 0x0110
    assert list_deliveries(room.database)[0].state is DeliveryState.STORED


def test_a_report_that_leaves_an_object_out_has_not_committed_it(room: DeliveryRoom) -> None:
    deliver(room)
    other = CommitmentReport(
        transaction_uid=transactions(room)[0],
        calling_ae_title="PEER",
        committed=((DX, OBJECT_UID), (REPORT, "2.25.77")),
        failed=(),
    )

    note_commitment_report(other, room.commitment)

    [row] = list_deliveries(room.database)
    assert (row.state, row.last_status) == (DeliveryState.WAITING, "not committed")


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [
        (0x0110, DeliveryState.WAITING, "commitment: 0110"),
        (0x0213, DeliveryState.WAITING, "commitment: 0213"),
        (0x0112, DeliveryState.PARKED, "commitment: 0112"),
        (0x0211, DeliveryState.PARKED, "commitment: 0211"),
    ],
)
def test_a_refused_request_waits_or_is_parked_by_its_status(
    room: DeliveryRoom, pacs: StoragePeer, status: int, state: DeliveryState, said: str
) -> None:
    pacs.action_status = status

    row = deliver(room)

    assert (row.state, row.last_status) == (state, said)


def test_a_peer_that_knows_no_commitment_parks_the_object_with_that_reason(
    tmp_path: Path, clock: Clock
) -> None:
    clock.now = DUE
    with StoragePeer(sop_class_uids=[REPORT]) as peer:
        made = outbox(tmp_path, clock)
        row = deliver(replace(made, peers={"pacs": peer.settings(storage_commitment=True)}))
        made.database.close()

    assert row.state is DeliveryState.PARKED
    assert row.last_status == "commitment: no presentation context for storage commitment"


def test_what_a_dead_worker_had_stored_is_sent_again(room: DeliveryRoom, pacs: StoragePeer) -> None:
    [parcel] = claim_deliveries(
        room.database, "pacs", worker="dead", now=DUE, lease=timedelta(hours=1), limit=1
    )
    # The transaction is noted; the process ends before the peer hears of it.
    note_asked(
        room.database,
        [(parcel, "0000")],
        transaction_uid="2.25.3",
        now=DUE,
        due_at=DUE + room.commitment_timeout,
    )
    assert list_deliveries(room.database)[0].state is DeliveryState.STORED

    assert release_deliveries(room.database, lambda worker: worker == "dead", now=DUE) == 1
    pacs.commits = "here"
    assert deliver(room).state is DeliveryState.DELIVERED
