"""Databases of earlier versions are brought to today's tables, whole or not at all."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import StorageError
from imaging_node.domain.lifecycle import StudyState
from imaging_node.store.answers import previous_answers, series_started_at
from imaging_node.store.arrivals import Arrival, read_study
from imaging_node.store.checksums import checked_tables, damaged_row_ids, register
from imaging_node.store.claims import claim_study
from imaging_node.store.database import open_database
from imaging_node.store.deliveries import claim_deliveries
from imaging_node.store.listings import list_studies
from tests.store.arriving import NOON, arriving, note

if TYPE_CHECKING:
    from imaging_node.store.spool import Spool


@pytest.fixture(params=["schema_1.sql", "schema_2.sql"])
def location(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A database as an earlier version of the node left it."""
    path = tmp_path / "node.sqlite"
    written = Path(__file__).parent / request.param
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(written.read_text())
    connection.close()
    return path


def schema_of(location: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(location)
    found = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return found


def test_a_database_of_an_earlier_version_goes_on_with_all_its_work(
    location: Path, spool: Spool
) -> None:
    database = open_database(f"sqlite:///{location}")

    studies = list_studies(database, now=NOON)
    assert [(each.study_instance_uid, each.state) for each in studies] == [
        ("1.2.3", StudyState.DONE),
        ("1.2.4", StudyState.RECEIVING),
    ]
    [image] = read_study(database, spool, "1.2.3").instances
    assert (image.digest, image.rows) == ("a" * 64, 512)
    assert len(previous_answers(database, "1.2.3", "chest")) == 1
    assert series_started_at(database, "2.25.9", now=NOON) == NOON + timedelta(seconds=6)
    later = NOON + timedelta(days=1)
    lease = timedelta(minutes=1)
    [parcel] = claim_deliveries(database, "pacs", worker="w", now=later, lease=lease, limit=9)
    assert (parcel.id, parcel.digest) == (5, "d" * 64)
    assert note(database, arriving("1.2.4", "1.2.4.1", patient="p2")) is Arrival.NEW
    claim = claim_study(database, worker="w", now=later, lease=lease)
    assert claim is not None
    assert claim.study_instance_uid == "1.2.4"
    with database.read() as connection:
        assert not any(damaged_row_ids(connection, table) for table in checked_tables())
    database.close()


def test_a_migrated_database_has_the_tables_of_a_new_one(location: Path, tmp_path: Path) -> None:
    open_database(f"sqlite:///{location}").close()
    open_database(f"sqlite:///{tmp_path / 'new.sqlite'}").close()

    assert schema_of(location) == schema_of(tmp_path / "new.sqlite")


def test_a_migration_that_fails_leaves_the_database_as_it_was(location: Path) -> None:
    with sqlite3.connect(location) as connection:
        register(connection)  # for the triggers of version 2
        connection.execute("UPDATE deliveries SET sop_instance_uid = '2.25.404'")
    connection.close()
    before = schema_of(location)

    with pytest.raises(StorageError, match="restore it from a backup"):
        open_database(f"sqlite:///{location}")

    assert schema_of(location) == before


def test_a_database_of_a_newer_node_is_refused(location: Path) -> None:
    with sqlite3.connect(location) as connection:
        connection.execute("UPDATE node SET value = '99'")
    connection.close()

    with pytest.raises(StorageError, match="schema 99"):
        open_database(f"sqlite:///{location}")
