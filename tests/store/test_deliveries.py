"""The outbox."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import UnknownRecordError
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.store.answers import finish_study
from imaging_node.store.deliveries import (
    Parcel,
    claim_deliveries,
    mark_delivered,
    park_delivery,
    release_deliveries,
    requeue_delivery,
    requeue_parked,
    retry_delivery_later,
)
from imaging_node.store.listings import list_deliveries
from tests.store.arriving import arriving, note
from tests.store.test_studies import DUE, claim, done

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from imaging_node.store.database import Database

LEASE = timedelta(minutes=1)


@pytest.fixture
def waiting(database: Database) -> Database:
    """A database with one object that waits for one destination."""
    note(database, arriving())
    owned = claim(database)
    assert owned is not None
    finish_study(database, owned, done(), destinations=["pacs"], now=DUE)
    return database


def take(database: Database, *, at: datetime = DUE) -> Sequence[Parcel]:
    return claim_deliveries(database, "pacs", worker="w", now=at, lease=LEASE, limit=16)


def test_a_claimed_object_is_not_claimed_twice(waiting: Database) -> None:
    assert len(take(waiting)) == 1
    assert take(waiting) == ()


def test_a_dead_workers_object_waits_again(waiting: Database) -> None:
    take(waiting)

    assert release_deliveries(waiting, lambda worker: worker != "w", now=DUE) == 0
    assert release_deliveries(waiting, lambda worker: worker == "w", now=DUE) == 1
    assert take(waiting)[0].attempts == 2


def test_a_delivered_object_stays_delivered(waiting: Database) -> None:
    [parcel] = take(waiting)
    mark_delivered(waiting, [(parcel, "0000")], now=DUE)
    park_delivery(waiting, parcel, status="0xA900", now=DUE)

    [row] = list_deliveries(waiting)
    assert (row.state, row.last_status) == (DeliveryState.DELIVERED, "0000")
    with pytest.raises(UnknownRecordError):
        requeue_delivery(waiting, row.id, now=DUE)


def test_a_retried_object_is_due_only_when_it_should_be(waiting: Database) -> None:
    [parcel] = take(waiting)
    retry_delivery_later(waiting, parcel, status="0xA700", now=DUE, next_attempt_at=DUE + LEASE)

    assert take(waiting) == ()
    assert take(waiting, at=DUE + LEASE)


def test_a_parked_object_waits_for_an_operator(waiting: Database) -> None:
    [parcel] = take(waiting)
    park_delivery(waiting, parcel, status="0xC000", now=DUE)

    assert take(waiting, at=DUE + timedelta(days=9)) == ()
    requeue_delivery(waiting, parcel.id, now=DUE)
    assert take(waiting)


def test_all_that_is_parked_for_a_destination_can_be_sent_again_at_once(waiting: Database) -> None:
    [parcel] = take(waiting)
    park_delivery(waiting, parcel, status="rejected 1/1/3", now=DUE)

    assert requeue_parked(waiting, "ris", now=DUE) == 0
    assert requeue_parked(waiting, "pacs", now=DUE) == 1
    assert requeue_parked(waiting, "pacs", now=DUE) == 0
    [again] = take(waiting)
    assert (again.id, again.attempts) == (parcel.id, 1)
