"""Who is charged for what: studies claimed ahead, urgent ones, and those of a worker that ends."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.priority import ReadingPriority
from imaging_node.node.score import StudyWorkers
from imaging_node.node.wiring import now
from imaging_node.settings import Settings
from imaging_node.store.schema import studies
from tests.flow.test_scoring import accept
from tests.integration.films import film

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imaging_node.flow.analysis import ModelAnswer
    from imaging_node.flow.scoring import ScoringRoom

LIMIT = Settings().scoring.concurrent_studies


def rows(room: ScoringRoom) -> dict[str, tuple[str, int]]:
    """State and attempts of each study."""
    with room.database.read() as connection:
        found = connection.execute(
            sa.select(studies.c.study_instance_uid, studies.c.state, studies.c.attempts)
        ).all()
    return {row.study_instance_uid: (row.state, row.attempts) for row in found}


def in_work(room: ScoringRoom, uids: list[str]) -> list[str]:
    return [uid for uid in uids if rows(room)[uid][0] == "scoring"]


@contextmanager
def held(room: ScoringRoom) -> Iterator[tuple[StudyWorkers, threading.Event]]:
    """Workers none of whose studies ends before the event is set."""
    may_end = threading.Event()

    def hold(_: ModelAnswer) -> None:
        may_end.wait(60)

    slow = replace(room, on_answer=hold)
    workers = StudyWorkers(Settings(), slow)
    with workers:
        try:
            yield workers, may_end
        finally:
            may_end.set()
            deadline = time.monotonic() + 60
            while workers._running and time.monotonic() < deadline:
                workers.wait_for_one(0.1)


def mark(room: ScoringRoom, uids: list[str], **values: object) -> None:
    with room.database.write() as connection:
        connection.execute(
            studies.update().where(studies.c.study_instance_uid.in_(uids)).values(**values)
        )


def take_all(workers: StudyWorkers) -> None:
    for _ in range(10):
        workers.take_some()
        time.sleep(0.06)


def test_urgent_studies_start_beside_the_others_and_are_claimed_within_a_bound(
    opened: ScoringRoom,
) -> None:
    routine = [accept(opened, now, film(seed=each)) for each in range(3 * LIMIT)]
    with held(opened) as (workers, _):
        take_all(workers)
        assert len(in_work(opened, routine)) == 2 * LIMIT

        urgent = [accept(opened, now, film(seed=each)) for each in range(4 * LIMIT)]
        stat = ReadingPriority.STAT
        mark(opened, urgent, priority=stat, urgency=stat.urgency)
        take_all(workers)

        assert len(in_work(opened, urgent)) == LIMIT
        begun = [each for each in workers._running.values() if each.begun_s < time.monotonic()]
        assert sum(each.claim.shown_priority is stat for each in begun) == LIMIT


def test_a_study_that_was_claimed_before_waits_unclaimed_until_it_is_alone(
    opened: ScoringRoom,
) -> None:
    mark(opened, list(rows(opened)), state="done")
    [first] = [accept(opened, now, film(seed=1))]
    with held(opened) as (workers, may_end):
        take_all(workers)
        again = accept(opened, now, film(seed=2))
        mark(opened, [again], attempts=1)
        take_all(workers)
        assert rows(opened)[again] == ("receiving", 1)
        assert in_work(opened, [first]) == [first]

        may_end.set()
        deadline = time.monotonic() + 30
        while rows(opened)[again][0] != "done" and time.monotonic() < deadline:
            if not workers.take_some():
                workers.wait_for_one(0.1)
        assert rows(opened)[again] == ("done", 2)


def test_a_stop_charges_no_study_that_no_thread_has_begun(opened: ScoringRoom) -> None:
    mark(opened, list(rows(opened)), state="done")
    uids = [accept(opened, now, film(seed=each)) for each in range(2 * LIMIT)]
    with held(opened) as (workers, may_end):
        take_all(workers)
        assert len(in_work(opened, uids)) == 2 * LIMIT
        stopping = threading.Thread(target=workers.__exit__, args=(None, None, None))
        stopping.start()
        deadline = time.monotonic() + 30
        while len(in_work(opened, uids)) > LIMIT and time.monotonic() < deadline:
            time.sleep(0.1)
        found = sorted(rows(opened)[uid] for uid in uids)
        assert found == [("queued", 0)] * LIMIT + [("scoring", 1)] * LIMIT
        may_end.set()
        stopping.join(30)


def test_the_end_of_a_process_charges_only_the_studies_at_fault(opened: ScoringRoom) -> None:
    mark(opened, list(rows(opened)), state="done")
    uids = [accept(opened, now, film(seed=each)) for each in range(LIMIT)]
    with held(opened) as (workers, _):
        take_all(workers)
        [*innocent, guilty] = [work.claim for work in workers._running.values()]

        workers._give_back_others(frozenset({guilty.token}))

        assert {rows(opened)[each.study_instance_uid] for each in innocent} == {("queued", 0)}
        assert rows(opened)[guilty.study_instance_uid] == ("scoring", 1)
        accepted = accept(opened, now, film(seed=9))
        take_all(workers)
        assert rows(opened)[accepted] == ("receiving", 0)  # a process that ends claims no more
    assert len(uids) == LIMIT
