"""The score role's thread watches by itself, and stops what the site's rule stops."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.watching import LabelSource
from imaging_node.flow.watching import WatchingRoom
from imaging_node.node.drift_thread import DriftThread
from imaging_node.settings.watching import StopRuleSettings, WatchingSettings
from imaging_node.store.database import Database, open_database
from imaging_node.store.labels import GivenLabel, record_labels
from imaging_node.store.watches import list_watched
from tests.store.arriving import NOON
from tests.store.observing import DIGEST, observation, see

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from imaging_node.domain.errors import StorageError

PPV = WatchingSettings(every_s=0.5, stop_rule=StopRuleSettings(lowest_ppv=0.6))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield opened
    opened.close()


def room(database: Database) -> WatchingRoom:
    return WatchingRoom(
        database=database, references=lambda: {DIGEST: None}, baseline=500, clock=lambda: NOON
    )


def never(model: str, digest: str, reason: str) -> bool:
    raise AssertionError(f"{model} {digest} stopped without a rule: {reason}")


def no_change() -> dict[str, datetime | None]:
    return {DIGEST: None}


def no_storage_error(error: StorageError) -> None:
    raise error


def flagged_wrongly(database: Database, studies: range, *, at: datetime = NOON) -> None:
    for number in studies:
        see(database, f"1.2.{number}", observation(call="present"))
    given = [GivenLabel(f"1.2.{number}", "Pneumonia", is_present=False) for number in studies]
    record_labels(database, given, source=LabelSource.CSV, now=at)


def test_the_thread_takes_new_studies_and_ends_with_its_role(database: Database) -> None:
    see(database, "1.2.3", observation())
    settings = WatchingSettings(every_s=0.5)
    with DriftThread(settings, room(database), no_change, never, no_storage_error) as thread:
        deadline = time.monotonic() + 30
        while not list_watched(database) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [each.studies for each in list_watched(database)] == [1]
    assert not thread._thread.is_alive()


def test_labels_that_condemn_a_model_stop_it_once_they_are_enough(database: Database) -> None:
    asked: list[tuple[str, str]] = []

    def demote(model: str, digest: str, _: str) -> bool:
        asked.append((model, digest))
        return len(asked) == 1

    thread = DriftThread(PPV, room(database), no_change, demote, no_storage_error)
    flagged_wrongly(database, range(29))
    thread.look()
    assert asked == []

    flagged_wrongly(database, range(29, 40))
    thread.look()
    thread.look()

    assert asked == [("chest", DIGEST)]


def test_a_model_in_service_again_is_not_stopped_by_what_was_known_before(
    database: Database,
) -> None:
    asked: list[str] = []

    def demote(model: str, digest: str, _: str) -> bool:
        asked.append(f"{model} {digest}")
        return True

    promoted = NOON + timedelta(days=1)
    since = {DIGEST: promoted}
    thread = DriftThread(PPV, room(database), lambda: since, demote, no_storage_error)
    flagged_wrongly(database, range(100))
    thread.look()
    assert asked == []

    flagged_wrongly(database, range(100, 140), at=promoted + timedelta(hours=1))
    thread.look()

    assert asked == [f"chest {DIGEST}"]
