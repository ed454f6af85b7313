"""From rows to alarms, through the node's own database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sqlalchemy as sa

from imaging_node.domain.errors import UnknownRecordError
from imaging_node.domain.watching import ReferenceSource
from imaging_node.flow.watching import (
    WatchingRoom,
    accept_stream,
    forget_old,
    return_to_bundle,
    watch_models,
)
from imaging_node.inference.reference import build_reference
from imaging_node.store.database import open_database
from imaging_node.store.observations import record_observations
from imaging_node.store.watches import list_alarms, list_watched
from imaging_node.store.watching_schema import watched_models
from tests.store.arriving import NOON
from tests.store.observing import DIGEST, observation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.domain.observation import ImageObservation
    from imaging_node.inference.declaration import DeclaredMonitoring
    from imaging_node.store.database import Database
    from tests.flow.conftest import Clock

BASELINE = 300


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield opened
    opened.close()


class Site:
    """Studies of one image each, brought to their end."""

    def __init__(self, database: Database, clock: Clock, *, declares: bool) -> None:
        self._random = np.random.default_rng(1)
        self._database = database
        self._studies = 0
        reference: DeclaredMonitoring | None = None
        if declares:
            reference = build_reference([self.image() for _ in range(1000)])
        self.room = WatchingRoom(
            database=database,
            references=lambda: {DIGEST: reference},
            baseline=BASELINE,
            clock=clock,
        )

    def image(self, brightness: float = 0.0) -> ImageObservation:
        probability = float(self._random.beta(2, 5))
        return observation(
            probability=probability,
            call="present" if probability >= 0.5 else "absent",
            mean=float(self._random.normal(brightness, 1)),
            view=str(self._random.choice(["AP", "PA"])),
        )

    def end(self, studies: int, *, brightness: float = 0.0) -> None:
        with self._database.write() as connection:
            for _ in range(studies):
                self._studies += 1
                uid = f"1.2.{self._studies}"
                record_observations(connection, uid, [(f"{uid}.1", self.image(brightness))])


def test_a_shift_against_the_bundles_reference_raises_alarms_that_end_after_it(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=True)
    site.end(400)
    assert watch_models(site.room) == 0
    clock.advance(60)
    site.end(200, brightness=1.5)

    assert watch_models(site.room) > 0

    alarms = list_alarms(database, only_on=True)
    first = next(each for each in alarms if (each.quantity, each.group) == ("input_mean", "all"))
    assert 400 < first.raised_after <= 600
    assert first.value >= first.threshold
    assert first.raised_at == clock()
    [model] = list_watched(database)
    assert (model.studies, model.reference_source, model.baseline_left) == (
        600,
        ReferenceSource.BUNDLE,
        0,
    )

    clock.advance(60)
    site.end(800)
    watch_models(site.room)
    assert list_alarms(database, only_on=True) == []
    assert {each.cleared_at for each in list_alarms(database)} == {clock()}


def test_nothing_is_judged_twice(database: Database, clock: Clock) -> None:
    site = Site(database, clock, declares=True)
    site.end(100)

    watch_models(site.room)
    watch_models(site.room)

    assert list_watched(database)[0].studies == 100


def test_watching_goes_on_after_all_that_was_seen_has_aged_out(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=True)
    site.end(100)
    watch_models(site.room)

    clock.advance(2 * 24 * 3600)
    assert forget_old(database, now=clock(), keep_days=1, keep_images=1000) == 100
    site.end(50)
    watch_models(site.room)

    assert list_watched(database)[0].studies == 150


def test_more_studies_than_are_read_at_once_are_all_judged(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imaging_node.store.observations._MOST_AT_A_TIME", 30)
    site = Site(database, clock, declares=True)
    site.end(100)

    watch_models(site.room)

    assert list_watched(database)[0].studies == 100


def test_without_a_reference_the_first_studies_of_the_node_become_one_and_it_is_said(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=False)
    site.end(BASELINE - 50)
    watch_models(site.room)
    [model] = list_watched(database)
    assert (model.reference_source, model.baseline_left) == (ReferenceSource.NODE, 50)

    site.end(50)
    watch_models(site.room)
    assert list_watched(database)[0].baseline_left == 0
    site.end(200, brightness=1.5)

    assert watch_models(site.room) > 0


def test_an_accepted_change_is_the_reference_from_then_on(database: Database, clock: Clock) -> None:
    site = Site(database, clock, declares=True)
    site.end(100)
    watch_models(site.room)
    with pytest.raises(UnknownRecordError, match="too few"):
        accept_stream(database, "chest", studies=BASELINE, now=clock())
    with pytest.raises(UnknownRecordError, match="watch status"):
        accept_stream(database, "other", studies=BASELINE, now=clock())
    site.end(BASELINE, brightness=1.5)
    assert watch_models(site.room) > 0

    accept_stream(database, "chest", studies=BASELINE, now=clock())

    assert list_alarms(database, only_on=True) == []
    site.end(400, brightness=1.5)
    assert watch_models(site.room) == 0
    [model] = list_watched(database)
    assert (model.reference_source, model.studies) == (ReferenceSource.NODE, 400)
    site.end(200)
    assert watch_models(site.room) > 0


def test_the_bundles_reference_counts_again_when_the_operator_says_so(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=True)
    site.end(BASELINE, brightness=1.5)
    watch_models(site.room)
    accept_stream(database, "chest", studies=BASELINE, now=clock())
    site.end(200)
    assert watch_models(site.room) > 0
    clock.advance(60)

    return_to_bundle(database, "chest", now=clock())

    assert list_alarms(database, only_on=True) == []
    site.end(400)
    assert watch_models(site.room) == 0
    [model] = list_watched(database)
    assert (model.reference_source, model.studies) == (ReferenceSource.BUNDLE, 400)
    site.end(200, brightness=1.5)
    assert watch_models(site.room) > 0
    with pytest.raises(UnknownRecordError, match="watch status"):
        return_to_bundle(database, "other", now=clock())


def test_studies_that_lack_a_statistic_are_refused_as_a_reference_in_words(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=True)
    site.end(BASELINE - 1)
    lacking = replace(site.image(), quantities={})
    with database.write() as connection:
        record_observations(connection, "1.3", [("1.3.1", lacking)])
    watch_models(site.room)

    with pytest.raises(UnknownRecordError, match="lack input_mean; accept again once 300 more"):
        accept_stream(database, "chest", studies=BASELINE, now=clock())


def test_a_model_that_answers_no_more_leaves_no_alarm_and_is_judged_anew_when_it_returns(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=True)
    site.end(300)
    site.end(200, brightness=1.5)
    assert watch_models(site.room) > 0
    elsewhere = replace(site.room, references=dict)
    clock.advance(60)

    assert watch_models(elsewhere) == 0

    assert list_alarms(database, only_on=True) == []
    assert {each.cleared_at for each in list_alarms(database)} == {clock()}
    site.end(200, brightness=1.5)
    assert watch_models(elsewhere) == 0
    assert list_watched(database)[0].studies == 500
    assert watch_models(site.room) > 0
    assert list_watched(database)[0].studies == 700


def test_an_unreadable_state_begins_anew_instead_of_ending_the_watch(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=True)
    site.end(100)
    watch_models(site.room)
    with database.write() as connection:
        connection.execute(sa.update(watched_models).values(state=b"damaged"))
    site.end(50)

    watch_models(site.room)

    assert list_watched(database)[0].studies == 50
    assert clock() == NOON


@pytest.mark.parametrize("is_in_service", [True, False])
def test_an_unreadable_state_ends_the_alarms_of_which_nothing_is_known_any_more(
    database: Database, clock: Clock, *, is_in_service: bool
) -> None:
    site = Site(database, clock, declares=True)
    site.end(200, brightness=1.5)
    assert watch_models(site.room) > 0
    with database.write() as connection:
        connection.execute(sa.update(watched_models).values(state=b"damaged"))
    site.end(50)
    clock.advance(60)

    watch_models(site.room if is_in_service else replace(site.room, references=dict))

    assert list_alarms(database, only_on=True) == []
    assert {each.cleared_at for each in list_alarms(database)} == {clock()}
    site.end(200, brightness=1.5)
    assert watch_models(site.room) > 0


def test_an_alarm_that_ends_and_begins_again_between_two_looks_is_on(
    database: Database, clock: Clock
) -> None:
    site = Site(database, clock, declares=True)
    site.end(200, brightness=1.5)
    assert watch_models(site.room) > 0
    site.end(800)
    site.end(200, brightness=1.5)

    assert watch_models(site.room) > 0

    on = {
        (each.quantity, each.group, each.statistic) for each in list_alarms(database, only_on=True)
    }
    assert ("input_mean", "all", "cusum_up") in on
