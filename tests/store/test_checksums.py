"""No bit of a row changes unseen."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from imaging_node.domain.errors import StorageError
from imaging_node.store.checksums import checked_tables, damaged_row_ids, row_checksum
from imaging_node.store.database import open_database
from tests.store.damaging import damage, fill, integrity

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = [
    (table.name, column.name)
    for table in checked_tables()
    for column in table.columns
    if not (column.name == "id" and column.primary_key) and column.info.get("is_sealed", True)
]


@pytest.fixture
def location(tmp_path: Path) -> Path:
    path = tmp_path / "node.sqlite"
    fill(path)
    return path


def damaged(location: Path) -> dict[str, list[int]]:
    database = open_database(f"sqlite:///{location}")
    with database.read() as connection:
        found = {table.name: damaged_row_ids(connection, table) for table in checked_tables()}
    database.close()
    return {name: row_ids for name, row_ids in found.items() if row_ids}


def test_every_table_of_work_is_checked_and_whole_after_ordinary_work(location: Path) -> None:
    assert {table.name for table in checked_tables()} >= {
        "studies", "instances", "results", "objects", "deliveries", "quarantine", "series",
    }  # fmt: skip
    assert damaged(location) == {}
    with closing(sqlite3.connect(location)) as connection:
        for table in checked_tables():
            count = connection.execute(f"SELECT count(*) FROM {table.name}")  # noqa: S608 - our own table
            assert count.fetchone()[0]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_one_changed_bit_of_any_value_is_found_though_sqlite_sees_nothing(
    location: Path, table: str, column: str
) -> None:
    damage(location, table, column)

    # Words of a closed list are the exception.
    assert integrity(location)[0] in ("ok", f"CHECK constraint failed in {table}")
    assert damaged(location) == {table: [1]}


@pytest.mark.parametrize(
    "value", [b"ACC1", b"\xff\xfe", "ACC1 ", 7, 1.5, b""], ids=["blob", "no text", "", "", "", ""]
)
def test_a_value_of_another_type_or_length_is_found(location: Path, value: object) -> None:
    damage(location, "studies", "accession_number", value)

    assert damaged(location) == {"studies": [1]}


def test_a_change_to_a_damaged_row_has_no_effect_and_never_hides_the_damage(
    location: Path,
) -> None:
    damage(location, "studies", "patient_digest")
    database = open_database(f"sqlite:///{location}")

    with database.write() as connection:
        changed = connection.execute(
            sa.text("UPDATE studies SET reason = 'changed' RETURNING study_instance_uid")
        ).all()

    assert [row.study_instance_uid for row in changed] == ["1.2.4"]
    database.close()
    assert damaged(location) == {"studies": [1]}


def test_a_change_by_whoever_does_not_know_the_checksum_is_refused(location: Path) -> None:
    with (
        closing(sqlite3.connect(location)) as connection,
        pytest.raises(sqlite3.OperationalError, match="row_checksum"),
    ):
        connection.execute("UPDATE studies SET reason = 'changed'")


def test_neighbouring_values_do_not_merge_in_the_checksum() -> None:
    assert len({row_checksum(*each) for each in ((b"ab", b""), (b"a", b"b"), (b"ab", None))}) == 3


def content(location: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(location)) as connection:
        connection.text_factory = bytes
        return {
            table.name: connection.execute(
                f"SELECT * FROM {table.name} NOT INDEXED"  # noqa: S608 - our own table
            ).fetchall()
            for table in checked_tables()
        }


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_anywhere_in_the_file_is_never_silently_wrong_data(
    location: Path, seed: int
) -> None:
    whole = location.read_bytes()
    right = content(location)
    written = [position for position, byte in enumerate(whole) if byte and position >= 100]
    choose = random.Random(seed)  # noqa: S311 - the same flips in every run
    unseen_by_sqlite = 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[choose.choice(written)] ^= 1 << choose.randrange(8)
        for leftover in location.parent.glob("node.sqlite*"):
            leftover.unlink()
        location.write_bytes(flipped)
        try:
            is_sound = integrity(location) == ["ok"]
            is_right = content(location) == right
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # a message quotes damaged text
            # The node refuses it, finds it, or mends it: the text of a trigger is written anew.
            with contextlib.suppress(StorageError):
                assert damaged(location) or content(location) == right
            continue
        if not is_sound or is_right:
            continue
        unseen_by_sqlite += 1
        try:
            found = damaged(location)
        except StorageError:
            continue
        assert found, "wrong data that nothing noticed"
    assert unseen_by_sqlite
