"""Which study is worked on next, and what it costs to find it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from imaging_node.domain.priority import ReadingPriority
from imaging_node.store import claims
from imaging_node.store.claims import claim_studies
from imaging_node.store.prepared import driver
from tests.store.arriving import NOON, QUIET, arriving, note
from tests.store.test_studies import DUE, LEASE, claim

if TYPE_CHECKING:
    from datetime import datetime

    from imaging_node.store.database import Database


def some(
    database: Database,
    *,
    limit: int,
    is_urgent: bool = False,
    at: datetime = DUE + timedelta(seconds=10),
) -> list[tuple[str, int]]:
    claimed = claim_studies(
        database,
        worker="w",
        now=at,
        lease=LEASE,
        limit=limit,
        least_urgency=ReadingPriority.URGENT.urgency if is_urgent else 0,
    )
    return [(each.study_instance_uid, each.attempts) for each in claimed]


def test_the_most_urgent_study_due_longest_is_claimed_first_and_archives_last(
    database: Database,
) -> None:
    ranks = [
        ("archive", True, ReadingPriority.STAT, 0),
        ("routine", False, ReadingPriority.ROUTINE, 0),
        ("urgent, later", False, ReadingPriority.URGENT, 2),
        ("urgent", False, ReadingPriority.URGENT, 1),
        ("stat", False, ReadingPriority.STAT, 3),
    ]
    uids = {}
    for number, (name, is_archive, priority, delay_s) in enumerate(ranks):
        uid = f"1.2.{number}"
        uids[uid] = name
        arrived = arriving(uid, f"{uid}.1", priority=priority, is_archive=is_archive)
        note(database, arrived, at=NOON + timedelta(seconds=delay_s))
    late = DUE + timedelta(seconds=10)

    claimed = [claim(database, at=late) for _ in ranks]

    order = [uids[each.study_instance_uid] for each in claimed if each is not None]
    assert order == ["stat", "urgent", "urgent, later", "routine", "archive"]


def test_a_place_that_is_kept_for_the_urgent_takes_nothing_else(database: Database) -> None:
    note(database, arriving("1.2.1", "1.2.1.1"))
    note(
        database,
        arriving("1.2.2", "1.2.2.1", priority=ReadingPriority.STAT),
        at=NOON + timedelta(seconds=1),
    )

    first, second = (some(database, limit=2, is_urgent=True) for _ in range(2))

    assert first == [("1.2.2", 1)]
    assert second == []
    assert some(database, limit=2) == [("1.2.1", 1)]


def test_a_study_that_was_claimed_before_is_claimed_alone(database: Database) -> None:
    for number in range(1, 6):
        note(database, arriving(f"1.2.{number}", f"1.2.{number}.1"), at=NOON)
        if number <= 2:
            assert claim(database) is not None  # by a worker that dies
    note(database, arriving("1.2.6", "1.2.6.1"), at=NOON + LEASE + QUIET)

    rounds = [some(database, limit=9, at=DUE + 2 * LEASE) for _ in range(5)]

    assert rounds == [
        [("1.2.3", 1), ("1.2.4", 1), ("1.2.5", 1)],
        [("1.2.1", 2)],
        [("1.2.2", 2)],
        [("1.2.6", 1)],
        [],
    ]


def test_a_claim_looks_at_no_other_study_however_many_wait(database: Database) -> None:
    with database.read() as connection:
        plan = driver(connection).execute(f"EXPLAIN QUERY PLAN {claims._FIRST_OF_RANK}", [0, 0, 1])
        steps = [row[3] for row in plan]

    assert any(
        "USING INDEX studies_by_rank (is_archive=? AND urgency=? AND due_at<?)" in each
        for each in steps
    ), steps
    assert not any("SCAN studies" in each or "TEMP B-TREE" in each for each in steps), steps
