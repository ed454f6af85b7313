"""A damaged row is shown, nothing works on it, and everything else goes on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import IntegrityError, StorageError
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.store.answers import finish_study, previous_answers, series_started_at
from imaging_node.store.arrivals import known_paths, read_study
from imaging_node.store.claims import claim_study, release_claims, retry_study
from imaging_node.store.damage import find_damage
from imaging_node.store.database import open_database
from imaging_node.store.deliveries import (
    claim_deliveries,
    release_deliveries,
    requeue_delivery,
)
from imaging_node.store.listings import (
    count_work,
    find_study,
    list_deliveries,
    list_objects,
    list_studies,
    list_worklist,
)
from imaging_node.store.quarantine import list_quarantined
from imaging_node.telemetry import Pseudonyms
from tests.store.arriving import NOON, QUIET, arriving, note
from tests.store.damaging import damage, fill
from tests.store.test_studies import DUE, LEASE, done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

PSEUDONYMS = Pseudonyms(b"k" * 32)
# Study 1.2.4 is the second row of each table, and due; 1.2.3 is the first, and done.
UNDER_WAY = 2


@pytest.fixture
def location(tmp_path: Path) -> Path:
    path = tmp_path / "node.sqlite"
    fill(path)
    database = open_database(f"sqlite:///{path}")
    note(database, arriving("1.2.5", "1.2.5.1", digest="e" * 64), at=NOON - QUIET)
    database.close()
    return path


class Opened:
    """Opens the database after the damage was done, and closes it in the end."""

    def __init__(self, location: Path) -> None:
        self._location = location
        self.databases: list[Database] = []

    def __call__(self) -> Database:
        self.databases.append(open_database(f"sqlite:///{self._location}"))
        return self.databases[-1]


@pytest.fixture
def reopen(location: Path) -> Iterator[Opened]:
    opened = Opened(location)
    yield opened
    for database in opened.databases:
        database.close()


def claimed(database: Database) -> set[str]:
    """All studies that a worker is given."""
    found = set()
    while claim := claim_study(database, worker="w", now=DUE, lease=LEASE):
        found.add(claim.study_instance_uid)
    return found


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("study_instance_uid", "1.2.404"),
        ("study_instance_uid", b"1.2.4\xff"),
        ("patient_digest", None),
        ("accession_number", b"\xff\xfe"),
        ("state", "qteued"),
        ("state", "done"),
        ("priority", "rtat"),
        ("urgency", 99),
        ("generation", "x"),
        ("due_at", 0),
        ("due_at", 1 << 60),
        ("claimed_by", "nonsense"),
        ("received_at", "x"),
        ("received_at", -(1 << 62)),
        ("finished_at", 1 << 62),
        ("findings", "[}"),
        ("findings", "7"),
        ("remarks", None),
        ("checksum", 5),
        ("checksum", b"x"),
    ],
)
def test_a_damaged_study_is_failed_and_first_to_read_and_the_others_go_on(
    location: Path, reopen: Opened, column: str, value: object
) -> None:
    damage(location, "studies", column, value, row=UNDER_WAY)
    database = reopen()

    assert claimed(database) == {"1.2.5"}
    find_damage(database, now=DUE)

    rows = list_worklist(database, PSEUDONYMS, now=DUE, received_since=DUE)
    assert [row.rank for row in rows] == [1, 2]
    assert rows[0].study.state is StudyState.FAILED
    assert rows[0].study.reason.startswith("row damaged")
    assert rows[0].priority_reason == "not known: row damaged"
    assert find_study(database, PSEUDONYMS, rows[0].token) is not None
    listed = {each.study_instance_uid: each.state for each in list_studies(database, now=DUE)}
    assert listed["1.2.3"] is StudyState.DONE
    assert sorted(listed.values()) == ["done", "failed", "scoring"]
    counts = count_work(database, now=DUE).studies
    assert counts == {StudyState.DONE: 1, StudyState.FAILED: 1, StudyState.SCORING: 1}


@pytest.mark.parametrize("column", ["due_at", "urgency", "findings"])
def test_a_claim_alone_notices_a_damaged_study_and_shows_it(
    location: Path, reopen: Opened, column: str
) -> None:
    damage(location, "studies", column, row=UNDER_WAY)
    database = reopen()

    claimed(database)

    assert count_work(database, now=DUE).studies[StudyState.FAILED] == 1
    assert claim_study(database, worker="w", now=DUE + LEASE * 9, lease=LEASE) is not None


def test_a_study_damaged_while_in_work_takes_no_result_and_fails(
    location: Path, reopen: Opened
) -> None:
    database = reopen()
    claim = claim_study(database, worker="w", now=DUE, lease=LEASE)
    assert claim is not None
    damage(location, "studies", "patient_digest", row=UNDER_WAY)
    database = reopen()

    assert not finish_study(database, claim, done("2.25.7"), destinations=["pacs"], now=DUE)

    listed = {each.study_instance_uid: each for each in list_studies(database, now=DUE)}
    assert listed["1.2.4"].state is StudyState.FAILED
    assert len(list_deliveries(database)) == 1


def test_a_damaged_study_is_not_retried_and_not_released(location: Path, reopen: Opened) -> None:
    reopen()
    claim_study(reopen(), worker="dead", now=DUE, lease=LEASE)
    damage(location, "studies", "claimed_by", "nonsense", row=UNDER_WAY)
    damage(location, "studies", "reason", row=1)
    database = reopen()

    with pytest.raises(IntegrityError, match=r"row damaged.*restore the database from a backup"):
        retry_study(database, "1.2.3", now=DUE)
    assert release_claims(database, lambda _: True, now=DUE) == 0


def test_an_instance_of_a_damaged_study_is_kept_and_the_study_stays_failed(
    location: Path, reopen: Opened, spool: Spool
) -> None:
    damage(location, "studies", "patient_digest", row=UNDER_WAY)
    database = reopen()
    find_damage(database, now=DUE)

    note(database, arriving("1.2.5", "1.2.5.2", digest="f" * 64), at=NOON - QUIET)

    assert claimed(database) == {"1.2.5"}
    assert len(read_study(database, spool, "1.2.5").instances) == 2
    with pytest.raises(IntegrityError):
        read_study(database, spool, "1.2.4")


@pytest.mark.parametrize(
    ("column", "value"),
    [("due_at", 1 << 60), ("study_at", 1 << 62), ("is_archive", "x"), ("priority", "rtat")],
)
def test_an_instance_whose_study_has_a_damaged_row_is_not_noted_whatever_the_damage(
    location: Path, reopen: Opened, column: str, value: object
) -> None:
    damage(location, "studies", column, value, row=UNDER_WAY)
    database = reopen()

    with pytest.raises(StorageError, match="row damaged"):
        note(database, arriving("1.2.4", "1.2.4.9", digest="f" * 64), at=NOON)


@pytest.mark.parametrize(
    "column",
    ["study_instance_uid", "sop_instance_uid", "digest", "header", "path", "received_at"],
)
def test_a_damaged_instance_fails_its_study_and_is_never_left_out(
    location: Path, reopen: Opened, spool: Spool, column: str
) -> None:
    damage(location, "instances", column, row=UNDER_WAY)
    database = reopen()

    with pytest.raises(IntegrityError, match="row damaged"):
        read_study(database, spool, "1.2.4")

    assert read_study(database, spool, "1.2.5").instances
    assert find_damage(database, now=DUE) == {"instances": 1}
    assert known_paths(database) == set()


def test_a_damaged_count_of_rows_fails_its_study(
    location: Path, reopen: Opened, spool: Spool
) -> None:
    damage(location, "studies", "instances_rows", row=UNDER_WAY)

    with pytest.raises(IntegrityError, match="row damaged: 1 of 0 rows"):
        read_study(reopen(), spool, "1.2.4")


@pytest.mark.parametrize("column", ["study_instance_uid", "model", "report_sop_instance_uid"])
def test_a_damaged_result_is_never_taken_for_no_earlier_answer(
    location: Path, reopen: Opened, column: str
) -> None:
    damage(location, "results", column)
    database = reopen()

    with pytest.raises(IntegrityError, match="row damaged"):
        previous_answers(database, "1.2.3", "chest")
    assert previous_answers(database, "1.2.4", "chest") == ()


def test_a_damaged_series_never_gets_another_time(location: Path, reopen: Opened) -> None:
    damage(location, "series", "started_at")

    with pytest.raises(IntegrityError, match="row damaged"):
        series_started_at(reopen(), "2.25.9", now=DUE)


@pytest.mark.parametrize("column", ["study_instance_uid", "digest", "generation"])
def test_a_damaged_object_is_not_handed_out_and_its_delivery_is_parked(
    location: Path, reopen: Opened, column: str
) -> None:
    damage(location, "objects", column)
    database = reopen()

    with pytest.raises(IntegrityError, match="row damaged"):
        list_objects(database, "1.2.3")
    assert claim_deliveries(database, "pacs", worker="w", now=DUE, lease=LEASE, limit=9) == ()
    [delivery] = list_deliveries(database)
    assert (delivery.state, delivery.last_status) == (DeliveryState.PARKED, "row damaged")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sop_instance_uid", "2.25.404"),
        ("destination", "qacs"),
        ("state", "vaiting"),
        ("attempts", "x"),
        ("next_attempt_at", "x"),
        ("claimed_by", "nonsense"),
        ("last_status", b"\xff"),
    ],
)
def test_a_damaged_delivery_is_parked_and_the_others_go_on(
    location: Path, reopen: Opened, column: str, value: object
) -> None:
    database = reopen()
    claim = claim_study(database, worker="w", now=DUE, lease=LEASE)
    assert claim is not None
    finish_study(database, claim, done("2.25.2"), destinations=["pacs"], now=DUE)
    damage(location, "deliveries", column, value)
    database = reopen()

    due = DUE + timedelta(days=1)
    claimed = [
        parcel.sop_instance_uid
        for _ in range(3)
        for parcel in claim_deliveries(database, "pacs", worker="w", now=due, lease=LEASE, limit=1)
    ]
    find_damage(database, now=due)

    assert claimed == ["2.25.2"]
    [damaged, whole] = list_deliveries(database)
    assert (damaged.state, damaged.last_status) == (DeliveryState.PARKED, "row damaged")
    assert whole.state is DeliveryState.WAITING
    assert count_work(database, now=due).deliveries == {
        DeliveryState.PARKED: 1,
        DeliveryState.WAITING: 1,
    }
    with pytest.raises(IntegrityError):
        requeue_delivery(database, damaged.id, now=due)
    assert release_deliveries(database, lambda _: True, now=due) == 1


def test_a_damaged_quarantine_row_is_still_listed(location: Path, reopen: Opened) -> None:
    damage(location, "quarantine", "reason", b"\xff")

    [shown] = list_quarantined(reopen())

    assert shown.reason.startswith("row damaged")


def test_damage_is_told_once_and_forgotten_after_a_repair(
    location: Path, reopen: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(location, "studies", "accession_number", "ACC2", row=UNDER_WAY)
    database = reopen()

    assert find_damage(database, now=DUE) == {"studies": 1}
    assert find_damage(database, now=DUE) == {"studies": 1}
    assert capsys.readouterr().out.count("rows are not what was written") == 1

    damage(location, "studies", "accession_number", "ACC1", row=UNDER_WAY)
    database = reopen()
    assert find_damage(database, now=DUE) == {}
    assert claimed(database) == {"1.2.4", "1.2.5"}


def test_a_damaged_priority_is_shown_as_the_highest(location: Path, reopen: Opened) -> None:
    damage(location, "studies", "priority", "rtat", row=UNDER_WAY)

    shown = {each.state: each for each in list_studies(reopen(), now=DUE)}

    assert shown[StudyState.FAILED].priority is ReadingPriority.STAT
