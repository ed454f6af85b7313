"""Claims, leases and endings of studies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import UnknownRecordError
from imaging_node.domain.finding import FindingScore
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority, TriageDecision
from imaging_node.domain.result_object import ObjectKind, ResultObject
from imaging_node.store.answers import (
    Ending,
    Finished,
    finish_studies,
    finish_study,
    previous_answers,
    series_started_at,
)
from imaging_node.store.claims import Claim, claim_study, release_claims, renew_claims, retry_study
from imaging_node.store.listings import (
    find_study,
    list_deliveries,
    list_studies,
    list_worklist,
)
from imaging_node.telemetry import Pseudonyms
from tests.store.arriving import NOON, QUIET, arriving, note

if TYPE_CHECKING:
    from datetime import datetime

    from imaging_node.store.database import Database

LEASE = timedelta(seconds=60)
DUE = NOON + QUIET


def claim(database: Database, *, at: datetime = DUE, worker: str = "w") -> Claim | None:
    return claim_study(database, worker=worker, now=at, lease=LEASE)


def report(uid: str = "2.25.1") -> ResultObject:
    return ResultObject(
        kind=ObjectKind.REPORT,
        label="",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=uid,
        series_instance_uid="2.25.9",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        payload=b"",
    )


def done(sop_instance_uid: str = "2.25.1") -> Ending:
    answer = report(sop_instance_uid)
    return Ending(
        state=StudyState.DONE,
        reason="",
        decision=TriageDecision(priority=ReadingPriority.URGENT, reason="Pneumonia present"),
        objects=((answer, "d" * 64),),
        answers=(("chest", "sha256:0", answer),),
        series_started_at={answer.series_instance_uid: DUE},
    )


def test_a_study_has_one_owner_at_a_time(database: Database) -> None:
    note(database, arriving())

    assert claim(database) is not None
    assert claim(database) is None


def test_a_dead_workers_study_is_taken_over_when_its_lease_ends(database: Database) -> None:
    note(database, arriving())
    first = claim(database)
    assert first is not None

    second = claim(database, at=DUE + LEASE)

    assert second is not None
    assert second.attempts == 2
    assert not finish_study(database, first, done(), destinations=["pacs"], now=DUE + LEASE)
    assert finish_study(database, second, done(), destinations=["pacs"], now=DUE + LEASE)


def test_a_renewed_lease_is_not_taken_over(database: Database) -> None:
    note(database, arriving())
    owned = claim(database)
    assert owned is not None

    renew_claims(database, [owned.token], now=DUE + LEASE / 2, lease=LEASE)

    assert claim(database, at=DUE + LEASE) is None


def test_claims_of_dead_workers_are_released_and_those_of_living_ones_kept(
    database: Database,
) -> None:
    note(database, arriving())
    note(database, arriving(study="1.2.4", instance="1.2.4.1"))
    claim(database, worker="dead")
    claim(database, worker="living")

    assert release_claims(database, lambda worker: worker == "dead", now=DUE) == 1
    taken = claim(database)
    assert taken is not None
    assert taken.study_instance_uid == "1.2.3"
    assert claim(database) is None


def test_the_urgent_study_is_claimed_first_and_the_archive_last(database: Database) -> None:
    note(database, arriving("1.2.1", "1.2.1.1", is_archive=True, priority=ReadingPriority.STAT))
    note(database, arriving("1.2.2", "1.2.2.1"))
    note(database, arriving("1.2.3", "1.2.3.1", priority=ReadingPriority.STAT))

    claimed = [claim(database) for _ in range(3)]

    assert [each.study_instance_uid for each in claimed if each] == ["1.2.3", "1.2.2", "1.2.1"]


def test_result_objects_and_outbox_come_together(database: Database) -> None:
    note(database, arriving())
    owned = claim(database)
    assert owned is not None

    finish_study(database, owned, done(), destinations=["pacs", "ris"], now=DUE)

    [study] = list_studies(database, now=DUE)
    assert (study.state, study.priority) == (StudyState.DONE, ReadingPriority.URGENT)
    rows = list_deliveries(database)
    assert [(row.destination, row.state) for row in rows] == [
        ("pacs", DeliveryState.WAITING),
        ("ris", DeliveryState.WAITING),
    ]
    assert previous_answers(database, "1.2.3", "chest")[-1].sop_instance_uid == "2.25.1"


def test_a_stale_result_leaves_nothing_behind(database: Database) -> None:
    note(database, arriving())
    stale = claim(database)
    assert stale is not None
    note(database, arriving(instance="1.2.3.2"), at=DUE)

    assert not finish_study(database, stale, done(), destinations=["pacs"], now=DUE)

    assert list_deliveries(database) == []
    assert previous_answers(database, "1.2.3", "chest") == ()


def test_a_retried_study_is_a_new_generation(database: Database) -> None:
    note(database, arriving())
    owned = claim(database)
    assert owned is not None
    finish_study(database, owned, done(), destinations=["pacs"], now=DUE)

    retry_study(database, "1.2.3", now=DUE)

    again = claim(database)
    assert again is not None
    assert (again.generation, again.attempts) == (2, 1)


def test_a_study_under_way_cannot_be_retried(database: Database) -> None:
    note(database, arriving())

    with pytest.raises(UnknownRecordError):
        retry_study(database, "1.2.3", now=DUE)


def test_a_series_keeps_the_time_of_its_first_recorded_object(database: Database) -> None:
    assert series_started_at(database, "2.25.9", now=NOON) == NOON  # nothing of it is recorded
    for number, at in enumerate((DUE, DUE + LEASE)):
        note(database, arriving(f"1.2.{number}", f"1.2.{number}.1"))
        owned = claim(database, at=DUE)
        assert owned is not None
        ending = replace(done(f"2.25.{number}"), series_started_at={"2.25.9": at})
        assert finish_study(database, owned, ending, destinations=[], now=at)

    assert series_started_at(database, "2.25.9", now=DUE + 2 * LEASE) == DUE


def test_results_recorded_together_are_each_dropped_or_kept_by_their_own_claim(
    database: Database,
) -> None:
    note(database, arriving("1.2.1", "1.2.1.1"))
    note(database, arriving("1.2.2", "1.2.2.1"))
    lost, held = claim(database), claim(database)
    assert lost is not None
    assert held is not None
    note(database, arriving(lost.study_instance_uid, "1.2.9"), at=DUE)

    recorded = finish_studies(
        database,
        [
            Finished(claim=each, ending=done(f"2.25.{number}"), finished_at=DUE)
            for number, each in enumerate((lost, held))
        ],
        destinations=["pacs"],
    )

    assert recorded == [False, True]
    [parcel] = list_deliveries(database)
    assert parcel.study_instance_uid == held.study_instance_uid


def test_the_worklist_ranks_by_urgency_then_by_waiting_time(
    database: Database,
) -> None:
    pseudonyms = Pseudonyms(b"k" * 32)
    note(database, arriving("1.2.1", "1.2.1.1"), at=NOON + QUIET)
    note(database, arriving("1.2.2", "1.2.2.1"))
    note(database, arriving("1.2.3", "1.2.3.1", priority=ReadingPriority.STAT), at=NOON + QUIET)

    rows = list_worklist(database, pseudonyms, now=DUE)

    assert [(row.rank, row.study.study_instance_uid) for row in rows] == [
        (1, "1.2.3"),
        (2, "1.2.2"),
        (3, "1.2.1"),
    ]
    [alone] = list_worklist(database, pseudonyms, now=DUE, study_instance_uid="1.2.1")
    assert alone.rank == 3
    assert find_study(database, pseudonyms, alone.token) == "1.2.1"
    assert find_study(database, pseudonyms, "0" * 16) is None


def test_ended_studies_leave_the_worklist_and_waiting_ones_never_do(database: Database) -> None:
    pseudonyms = Pseudonyms(b"k" * 32)
    note(database, arriving("1.2.1", "1.2.1.1"))
    owned = claim(database)
    assert owned is not None
    finish_study(database, owned, done(), destinations=["pacs"], now=DUE)
    note(database, arriving("1.2.2", "1.2.2.1"))
    note(database, arriving("1.2.3", "1.2.3.1"), at=DUE + LEASE)

    rows = list_worklist(database, pseudonyms, now=DUE, received_since=DUE)

    assert [(row.rank, row.study.study_instance_uid) for row in rows] == [
        (1, "1.2.2"),
        (2, "1.2.3"),
    ]


def test_a_reopened_study_shows_no_earlier_call(database: Database) -> None:
    pseudonyms = Pseudonyms(b"k" * 32)
    note(database, arriving())
    owned = claim(database)
    assert owned is not None
    score = FindingScore(
        label="Pneumonia", probability=0.1, operating_point=0.6, undetermined_from=0.3
    )
    finish_study(
        database, owned, replace(done(), findings=(score,)), destinations=["pacs"], now=DUE
    )
    assert list_worklist(database, pseudonyms, now=DUE)[0].findings == (score,)

    note(database, arriving(instance="1.2.3.2"), at=DUE)

    assert list_worklist(database, pseudonyms, now=DUE)[0].findings == ()
