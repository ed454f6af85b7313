"""What an arriving instance does to its study."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.store.arrivals import Arrival, make_ready, note_arrivals, read_study
from imaging_node.store.claims import claim_study
from imaging_node.store.listings import list_instances, list_studies
from imaging_node.store.schema import studies
from tests.store.arriving import NOON, QUIET, arriving, note

if TYPE_CHECKING:
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

LEASE = timedelta(seconds=60)


def test_the_same_instance_again_makes_no_second_job(database: Database) -> None:
    assert note(database, arriving()) is Arrival.NEW
    claim = claim_study(database, worker="w", now=NOON + QUIET, lease=LEASE)
    assert claim is not None

    assert note(database, arriving(), at=NOON + QUIET) is Arrival.AGAIN

    [study] = list_studies(database, now=NOON + QUIET)
    assert (study.state, study.generation, study.instances) == (StudyState.SCORING, 1, 1)


def test_each_instance_restarts_the_quiet_period(database: Database) -> None:
    note(database, arriving())
    note(database, arriving(instance="1.2.3.2"), at=NOON + timedelta(seconds=4))

    assert claim_study(database, worker="w", now=NOON + QUIET, lease=LEASE) is None
    later = NOON + timedelta(seconds=9)
    early = later - timedelta(milliseconds=1)
    assert claim_study(database, worker="w", now=early, lease=LEASE) is None
    assert claim_study(database, worker="w", now=later + timedelta(milliseconds=50), lease=LEASE)


def due(database: Database) -> datetime:
    """When the one study is due."""
    with database.read() as connection:
        [due_at] = connection.scalars(sa.select(studies.c.due_at))
    assert isinstance(due_at, datetime)
    return due_at


def test_instances_in_quick_succession_write_the_row_of_their_study_once(
    database: Database,
) -> None:
    note(database, arriving())
    note(database, arriving(instance="1.2.3.2"), at=NOON + timedelta(seconds=1))
    due_at = due(database)
    for number in range(3, 8):
        at = NOON + timedelta(seconds=1, milliseconds=10 * (number - 2))
        note(database, arriving(instance=f"1.2.3.{number}"), at=at)

        assert due(database) == due_at >= at + QUIET

    note(database, arriving(instance="1.2.3.9"), at=due_at)
    assert due(database) >= due_at + QUIET


def test_a_clock_that_is_set_back_delays_no_study_that_goes_on(database: Database) -> None:
    note(database, arriving(), at=NOON + timedelta(hours=1))

    note(database, arriving(instance="1.2.3.2"), at=NOON)

    assert due(database) <= NOON + QUIET + timedelta(milliseconds=50)


def test_an_instance_that_raises_the_priority_is_noted_though_its_study_is_due_late_enough(
    database: Database,
) -> None:
    note(database, arriving())
    note(database, arriving(instance="1.2.3.2"), at=NOON + timedelta(seconds=1))

    urgent = replace(arriving(instance="1.2.3.3"), ordered_priority=ReadingPriority.STAT)
    note(database, urgent, at=NOON + timedelta(seconds=1))

    [study] = list_studies(database, now=NOON)
    assert study.priority is ReadingPriority.STAT


def test_an_instance_after_the_claim_makes_a_new_generation_and_drops_the_claim(
    database: Database,
) -> None:
    note(database, arriving())
    claim_study(database, worker="w", now=NOON + QUIET, lease=LEASE)

    note(database, arriving(instance="1.2.3.2"), at=NOON + QUIET)

    [study] = list_studies(database, now=NOON + QUIET)
    assert (study.state, study.generation, study.instances) == (StudyState.RECEIVING, 2, 2)


def test_the_same_uid_with_other_bytes_keeps_both_and_uses_the_last(
    database: Database, spool: Spool
) -> None:
    note(database, arriving())

    assert note(database, arriving(digest="b" * 64)) is Arrival.CHANGED

    [image] = read_study(database, spool, "1.2.3").instances
    assert image.digest == "b" * 64


def test_a_study_of_one_patient_never_takes_an_instance_of_another(database: Database) -> None:
    note(database, arriving())

    with pytest.raises(RejectedInstanceError) as refused:
        note(database, arriving(instance="1.2.3.2", patient="p2"))

    assert refused.value.status == 0xC010
    assert list_studies(database, now=NOON)[0].instances == 1


def test_an_instance_known_in_one_study_is_refused_in_another(database: Database) -> None:
    note(database, arriving())

    with pytest.raises(RejectedInstanceError) as refused:
        note(database, arriving(study="1.2.4"))

    assert refused.value.status == 0xC010


def test_an_urgent_instance_raises_its_study_and_a_routine_one_does_not_lower_it(
    database: Database,
) -> None:
    note(database, arriving(priority=ReadingPriority.STAT))
    note(database, arriving(instance="1.2.3.2"))

    assert list_studies(database, now=NOON)[0].priority is ReadingPriority.STAT


def test_a_complete_study_is_shown_as_queued(database: Database) -> None:
    note(database, arriving())

    assert list_studies(database, now=NOON)[0].state is StudyState.RECEIVING
    assert list_studies(database, now=NOON + QUIET)[0].state is StudyState.QUEUED


def test_content_that_comes_back_is_the_last_word_again(database: Database, spool: Spool) -> None:
    for digest in ("a" * 64, "b" * 64):
        note(database, arriving(digest=digest))

    assert note(database, arriving(digest="a" * 64)) is Arrival.CHANGED

    [image] = read_study(database, spool, "1.2.3").instances
    assert image.digest == "a" * 64
    assert note(database, arriving(digest="a" * 64)) is Arrival.AGAIN


def test_content_that_comes_back_within_one_transaction_is_kept_once_and_is_the_last_word(
    database: Database, spool: Spool
) -> None:
    contents = [arriving(digest=each * 64) for each in "abacab"]

    ready = [make_ready(each, now=NOON) for each in contents]
    outcomes = note_arrivals(database, ready, now=NOON, quiet_period=QUIET)

    assert outcomes == [Arrival.NEW, *[Arrival.CHANGED] * 5]
    [image] = read_study(database, spool, "1.2.3").instances
    assert image.digest == "b" * 64
    assert [each.digest[0] for each in list_instances(database, "1.2.3")] == ["c", "a", "b"]
