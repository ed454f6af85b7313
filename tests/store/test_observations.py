"""What models saw is kept once for each image, with the ending of its study, and not for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.observation import MOST_SCANNERS, OTHER_SCANNERS
from imaging_node.store.answers import finish_study
from imaging_node.store.observations import (
    observed_models,
    read_last_scored,
    read_observations,
    record_observations,
    remove_old_observations,
    scanner_names,
)
from imaging_node.store.watching_schema import observations
from tests.store.arriving import NOON, arriving, note
from tests.store.observing import DIGEST, observation, see
from tests.store.test_studies import DUE, claim, done

if TYPE_CHECKING:
    import pytest

    from imaging_node.store.database import Database


def seen(database: Database) -> list[str]:
    return [each.study_instance_uid for each in read_observations(database, DIGEST, after=0)]


def test_an_observation_comes_back_as_it_was_written(database: Database) -> None:
    see(database, "1.2.3", observation())

    [image] = read_observations(database, DIGEST, after=0)

    assert image.observation == observation()
    assert (image.study_instance_uid, image.scanner_id) == ("1.2.3", 1)
    assert scanner_names(database) == {1: "ACME DR"}
    assert observed_models(database) == [("chest", DIGEST, image.id)]


def test_observations_are_written_with_the_ending_and_dropped_with_a_stale_one(
    database: Database,
) -> None:
    note(database, arriving())
    owned = claim(database)
    assert owned is not None
    ending = replace(done(), observed=(("1.2.3.1", observation()),))
    stale = replace(owned, generation=owned.generation + 1)

    assert not finish_study(database, stale, ending, destinations=[], now=DUE)
    assert seen(database) == []
    assert finish_study(database, owned, ending, destinations=[], now=DUE)
    assert seen(database) == ["1.2.3"]


def test_a_study_that_is_answered_again_is_not_counted_twice(database: Database) -> None:
    see(database, "1.2.3", observation())
    [first] = read_observations(database, DIGEST, after=0)
    see(database, "1.2.3", observation(probability=0.9))
    [again] = read_observations(database, DIGEST, after=0)
    assert again.id == first.id

    late = observation(probability=0.7)
    see(database, "1.2.3", observation(), late)

    assert len(seen(database)) == 2
    assert read_observations(database, DIGEST, after=0)[1].observation == late


def test_the_answer_that_was_delivered_last_is_the_one_that_is_kept(database: Database) -> None:
    refused = replace(
        observation(), outcome="blank image", probabilities={}, presences={}, disagreement=None
    )
    scored = observation(probability=0.9, call="present")
    see(database, "1.2.3", refused)

    see(database, "1.2.3", scored)
    assert [each.observation for each in read_observations(database, DIGEST, after=0)] == [scored]

    archived = observation(probability=0.4, call="undetermined")
    with database.write() as connection:
        record_observations(connection, "1.2.3", [("1.2.3.1", archived)], is_archive=True)
        record_observations(connection, "1.2.4", [("1.2.4.1", archived)], is_archive=True)
    assert [each.observation for each in read_observations(database, DIGEST, after=0)] == [archived]


def test_two_versions_of_a_model_each_see_the_image(database: Database) -> None:
    see(database, "1.2.3", observation())
    see(database, "1.2.3", observation(digest="sha256:new"))
    assert [digest for _, digest, _ in observed_models(database)] == [DIGEST, "sha256:new"]


def test_headers_cannot_invent_scanners_without_end(database: Database) -> None:
    for number in range(MOST_SCANNERS + 20):
        see(database, f"1.2.{number}", observation(scanner=f"S{number}"))

    assert len(scanner_names(database)) == MOST_SCANNERS
    last = read_observations(database, DIGEST, after=0)[-1]
    assert (last.scanner_id, last.observation.scanner) == (OTHER_SCANNERS, "other")


def test_a_damaged_row_is_left_out_and_the_others_are_read(database: Database) -> None:
    for number in range(3):
        see(database, f"1.2.{number}", observation())
    with database.write() as connection:
        connection.execute(
            sa.update(observations).where(observations.c.id == 2).values(numbers='[{"x":')
        )

    assert seen(database) == ["1.2.0", "1.2.2"]


def test_no_study_is_torn_apart_between_two_reads(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imaging_node.store.observations._MOST_AT_A_TIME", 3)
    see(database, "1.2.1", observation(), observation())
    see(database, "1.2.2", observation(), observation())

    first = read_observations(database, DIGEST, after=0)
    second = read_observations(database, DIGEST, after=first[-1].id)

    assert [each.study_instance_uid for each in first] == ["1.2.1", "1.2.1"]
    assert [each.study_instance_uid for each in second] == ["1.2.2", "1.2.2"]


def test_old_and_surplus_images_are_removed_and_the_newest_stay(database: Database) -> None:
    for number in range(10):
        at = NOON + timedelta(days=number)
        see(database, f"1.2.{number}", observation(at=at))

    assert remove_old_observations(database, before=NOON + timedelta(days=2), keep=100) == 2
    assert remove_old_observations(database, before=NOON, keep=5) == 3
    assert seen(database) == [f"1.2.{number}" for number in range(5, 10)]
    last = read_last_scored(database, DIGEST, studies=2)
    assert [each.study_instance_uid for each in last] == ["1.2.8", "1.2.9"]
