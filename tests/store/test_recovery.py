"""What a start finds of a run that was cut short."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from imaging_node.domain.errors import StorageError
from imaging_node.domain.records import RoleStatus
from imaging_node.store.answers import finish_study
from imaging_node.store.checksums import checked_tables, register
from imaging_node.store.claims import claim_study
from imaging_node.store.database import open_database
from imaging_node.store.quarantine import add_to_quarantine
from imaging_node.store.recovery import Cleaned, check_database, clean_spool, holds_files
from imaging_node.store.role_reports import beat
from tests.store.arriving import NOON, QUIET, arriving, note
from tests.store.damaging import damage, fill, integrity
from tests.store.test_studies import DUE, LEASE, done

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

NOTHING = Cleaned(parts=0, unreferenced=0, rescued=0, missing=0)
LIVING, DEAD = 1, 4194303


def clean(database: Database, folder: Path, *, is_alone: bool) -> Cleaned:
    return clean_spool(
        database,
        folder / "spool",
        rescue_folder=folder / "rescued",
        is_alone=is_alone,
        is_dead=lambda process_id, _: process_id == DEAD,
        now=NOON,
    )


def age(path: Path, seconds: float) -> Path:
    """Let a file have been written `seconds` before noon."""
    path.touch()
    os.utime(path, (NOON.timestamp() - seconds,) * 2)
    return path


@pytest.fixture
def kept(database: Database, spool: Spool) -> list[Path]:
    """Files of an instance, of a result and of a quarantined instance, and a database in use."""
    digests = [spool.write(content) for content in (b"instance", b"quarantined", b"result")]
    note(database, arriving(digest=digests[0]))
    with database.write() as connection:
        add_to_quarantine(
            connection, arriving("1.2.9", "1.2.9.1", digest=digests[1]), reason="other", now=NOON
        )
    claim = claim_study(database, worker="w", now=DUE, lease=LEASE)
    assert claim is not None
    ending = replace(done(), objects=((done().objects[0][0], digests[2]),))
    assert finish_study(database, claim, ending, destinations=["pacs"], now=DUE)
    beat(
        database,
        RoleStatus(role="receive", pid=LIVING, started_at=NOON, heartbeat_at=NOON, counters={}),
    )
    return [spool.path(digest) for digest in digests]


def test_unfinished_and_unnamed_files_are_removed_and_named_ones_stay(
    database: Database, spool: Spool, tmp_path: Path, kept: list[Path]
) -> None:
    unnamed = age(spool.path(spool.write(b"never acknowledged")), 1)
    (tmp_path / "spool" / "incoming").mkdir(exist_ok=True)
    parts = [
        age(tmp_path / "spool" / "incoming" / f"{LIVING}.0.part", 1),
        age(kept[0].with_suffix(".1234.part"), 1),
    ]

    assert clean(database, tmp_path, is_alone=True) == replace(NOTHING, parts=2, unreferenced=1)

    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in (unnamed, *parts))
    assert clean(database, tmp_path, is_alone=True) == NOTHING


def test_beside_living_writers_only_what_is_surely_left_over_is_removed(
    database: Database, spool: Spool, tmp_path: Path, kept: list[Path]
) -> None:
    incoming = tmp_path / "spool" / "incoming"
    incoming.mkdir(exist_ok=True)
    staying = [
        *kept,
        age(incoming / f"{LIVING}.0.part", 7200),
        age(spool.path(spool.write(b"row under way")), 60),
        age(kept[0].with_suffix(".12ab.part"), 60),
    ]
    going = [
        age(incoming / f"{DEAD}.1.2.part", 1),
        age(spool.path(spool.write(b"forgotten")), 7200),
        age(kept[0].with_suffix(".34cd.part"), 7200),
    ]

    assert clean(database, tmp_path, is_alone=False) == replace(NOTHING, parts=2, unreferenced=1)

    assert all(path.exists() for path in staying)
    assert not any(path.exists() for path in going)


def test_parts_that_living_writers_finish_meanwhile_do_not_stop_the_cleaning(
    database: Database, tmp_path: Path
) -> None:
    incoming = tmp_path / "spool" / "incoming"
    incoming.mkdir(parents=True)
    parts = [incoming / f"{LIVING}.{each}.part" for each in range(3)]
    for path in parts:
        path.touch()
    left = age(incoming / f"{DEAD}.0.part", 1)

    def finish_all(process_id: int, _: float) -> bool:
        for path in parts:
            path.unlink(missing_ok=True)
        return process_id == DEAD

    # In whatever order the folder lists them, all but one of the living writer's are gone by then.
    clean_spool(
        database,
        tmp_path / "spool",
        rescue_folder=tmp_path / "rescued",
        is_alone=False,
        is_dead=finish_all,
        now=NOON,
    )

    assert not left.exists()


def test_files_newer_than_the_database_are_rescued_not_removed(
    database: Database, spool: Spool, tmp_path: Path, kept: list[Path]
) -> None:
    digest = spool.write(b"acknowledged after the backup")
    age(spool.path(digest), -600)

    assert clean(database, tmp_path, is_alone=True) == replace(NOTHING, rescued=1)

    assert (tmp_path / "rescued" / f"{digest}.dcm").read_bytes().startswith(b"acknowledged")
    assert all(path.exists() for path in kept)


def test_no_file_is_removed_while_a_row_that_may_name_it_is_damaged(
    database: Database, spool: Spool, tmp_path: Path, kept: list[Path]
) -> None:
    unnamed = age(spool.path(spool.write(b"whose?")), 1)
    database.close()
    damage(tmp_path / "node.sqlite", "instances", "digest")
    reopened = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")

    assert clean(reopened, tmp_path, is_alone=True) == replace(NOTHING, missing=1)

    assert unnamed.exists()
    assert all(path.exists() for path in kept)
    reopened.close()


def test_missing_files_are_counted(database: Database, tmp_path: Path, kept: list[Path]) -> None:
    kept[2].unlink()

    assert clean(database, tmp_path, is_alone=True) == replace(NOTHING, missing=1)


def test_a_spool_holds_files_once_anything_was_kept(spool: Spool, tmp_path: Path) -> None:
    assert not holds_files(tmp_path / "spool")
    spool.write(b"instance")
    assert holds_files(tmp_path / "spool")


@pytest.fixture
def location(tmp_path: Path) -> Path:
    path = tmp_path / "filled" / "node.sqlite"
    fill(path)
    return path


def check(location: Path) -> dict[str, int]:
    database = open_database(f"sqlite:///{location}")
    try:
        return check_database(database, now=DUE)
    finally:
        database.close()


def rows_of(location: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(location)) as connection:
        return {
            table.name: connection.execute(
                f"SELECT * FROM {table.name} NOT INDEXED"  # noqa: S608 - our own table
            ).fetchall()
            for table in checked_tables()
        }


def test_a_truncated_database_is_refused_with_what_to_do(location: Path) -> None:
    content = location.read_bytes()
    for size in (50, 4096, len(content) // 2, len(content) - 4096):
        location.write_bytes(content[:size])
        with pytest.raises(StorageError, match="from a backup"):
            check(location)


def test_a_zeroed_page_is_refused_or_its_rows_are_found(location: Path) -> None:
    content = location.read_bytes()
    right = rows_of(location)
    refused = 0
    for page in range(len(content) // 4096):
        for leftover in location.parent.glob("node.sqlite-*"):
            leftover.unlink()
        location.write_bytes(content[: page * 4096] + bytes(4096) + content[(page + 1) * 4096 :])
        try:
            damaged = check(location)
        except StorageError:
            refused += 1
        else:
            assert damaged or rows_of(location) == right
    assert refused > len(content) // 4096 // 2


def test_an_index_that_lost_its_rows_is_built_anew(location: Path) -> None:
    with closing(sqlite3.connect(location)) as connection, connection:
        register(connection)
        connection.execute("PRAGMA writable_schema=ON")
        where = "WHERE name = 'studies_by_due'"
        [entry] = connection.execute(f"SELECT * FROM sqlite_master {where}").fetchall()  # noqa: S608 - constant
        connection.execute(f"DELETE FROM sqlite_master {where}")  # noqa: S608 - constant
    with closing(sqlite3.connect(location)) as connection, connection:
        register(connection)
        connection.execute("UPDATE studies SET due_at = due_at + 1")
    with closing(sqlite3.connect(location)) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry)
    assert "index studies_by_due" in integrity(location)[0]

    assert check(location) == {}

    assert integrity(location) == ["ok"]


@pytest.mark.parametrize("seed", range(2))
def test_after_any_flipped_bit_a_start_refuses_or_knows_the_rows_or_all_is_right(
    location: Path, tmp_path: Path, seed: int
) -> None:
    content = location.read_bytes()
    right = rows_of(location)
    written = [position for position, byte in enumerate(content) if byte and position >= 100]
    choose = random.Random(seed)  # noqa: S311 - the same flips in every run
    refused = noticed = 0
    for number in range(150):
        flipped = bytearray(content)
        flipped[choose.choice(written)] ^= 1 << choose.randrange(8)
        copy = tmp_path / f"{number}" / "node.sqlite"
        copy.parent.mkdir()
        copy.write_bytes(flipped)
        try:
            damaged = check(copy)
        except StorageError:
            refused += 1
        else:
            noticed += bool(damaged)
            assert damaged or rows_of(copy) == right
        shutil.rmtree(copy.parent)
    assert refused
    assert noticed


def test_one_damaged_row_does_not_keep_a_node_from_starting(location: Path) -> None:
    damage(location, "studies", "state", "qone")

    assert check(location) == {"studies": 1}


def test_claims_after_a_check_leave_the_damaged_study_alone(location: Path) -> None:
    damage(location, "studies", "urgency", 99, row=2)
    check(location)
    database = open_database(f"sqlite:///{location}")
    note(database, arriving("1.2.5", "1.2.5.1", digest="e" * 64), at=NOON - QUIET)

    claim = claim_study(database, worker="w", now=DUE + timedelta(days=1), lease=LEASE)

    assert claim is not None
    assert claim.study_instance_uid == "1.2.5"
    database.close()
