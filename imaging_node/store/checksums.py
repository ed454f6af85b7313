"""Checksums of rows: kept by the database at every change, verified before a row is worked with.

`PRAGMA integrity_check` sees a damaged page, not a flipped bit in a value. Triggers write the
checksum whoever changes a row. They also refuse to change a row whose checksum is wrong: a
change would give the damage a right one. Such a change has no effect, as if the row were gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import sqlalchemy as sa

from imaging_node.domain.errors import IntegrityError
from imaging_node.store.schema import instances, metadata, objects, results

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

    from sqlalchemy.engine import Connection

# Tables whose rows the study's row counts.
COUNTED_TABLES = (instances, results, objects)
_FUNCTION = "row_checksum"


def row_checksum(*values: str | bytes | None) -> int:
    """CRC-32 over values of a row, each with its length and whether it is there.

    Every flip of bits within 32 neighbouring ones is found, other damage but for one in 2**32.
    """
    # The notation of bytes is ASCII, has its own quotes, and is the same in every Python.
    return crc32(repr(values).encode())


def register(connection: sqlite3.Connection) -> None:
    """Make the function known that the triggers call."""
    connection.create_function(_FUNCTION, -1, row_checksum, deterministic=True)


def checked_tables() -> list[sa.Table]:
    """Tables whose rows carry a checksum."""
    return [table for table in metadata.sorted_tables if "checksum" in table.c]


def row_id(table: sa.Table) -> sa.ColumnElement[int]:
    """The number by which SQLite itself finds a row: the one key that no damage to it changes."""
    return sa.literal_column(f"{table.name}.rowid", sa.Integer())


def is_intact(table: sa.Table) -> sa.ColumnElement[bool]:
    """Condition that holds for rows that are what was written.

    Where rows are found through an index, SQLite may take values from the index: verify by
    `damaged_row_ids`, which reads the rows themselves.
    """
    return sa.literal_column(
        f"({table.name}.checksum IS {_expression(table, table.name)})", sa.Boolean()
    )


def damaged_row_ids(
    connection: Connection, table: sa.Table, *where: sa.ColumnElement[bool]
) -> list[int]:
    """Row ids of the rows that are not what was written, of all or of those `where` selects."""
    query = sa.select(row_id(table)).select_from(table).where(sa.not_(is_intact(table)))
    if where:
        chosen = sa.select(row_id(table)).select_from(table).where(*where).correlate(None)
        query = query.where(row_id(table).in_(chosen))
    return list(connection.scalars(query))


def require_intact(connection: Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> None:
    """Verify rows before they are worked with.

    Raises:
        IntegrityError: One of them is not what was written.
    """
    damaged = damaged_row_ids(connection, table, *where)
    if damaged:
        raise row_damaged(table, damaged[0])


def row_damaged(table: sa.Table, number: int) -> IntegrityError:
    """What to say of a row that is not what was written."""
    return IntegrityError(
        f"row damaged: row {number} of the table {table.name} is not what was written;"
        " restore the database from a backup"
    )


def seal_all(connection: Connection) -> None:
    """Count and checksum every row as it stands: for rows that were written without."""
    counts = ", ".join(
        f"{table.name}_rows = (SELECT count(*) FROM {table.name}"  # noqa: S608 - names of our own tables
        f" WHERE {table.name}.study_instance_uid = studies.study_instance_uid)"
        for table in COUNTED_TABLES
    )
    connection.exec_driver_sql(f"UPDATE studies SET {counts}")  # noqa: S608 - same
    for table in checked_tables():
        connection.exec_driver_sql(
            f"UPDATE {table.name} SET checksum = {_expression(table, table.name)}"  # noqa: S608 - same
        )


def create_triggers(connection: Connection) -> None:
    """Let the database keep checksums and counts from now on."""
    for table in checked_tables():
        for statement in _triggers(table):
            connection.exec_driver_sql(statement)
    for table in COUNTED_TABLES:
        for when, row, step in (("INSERT", "NEW", "+ 1"), ("DELETE", "OLD", "- 1")):
            count = (
                f"UPDATE studies SET {table.name}_rows = {table.name}_rows {step}"  # noqa: S608 - same
                f" WHERE study_instance_uid = {row}.study_instance_uid;"
            )
            connection.exec_driver_sql(
                f"CREATE TRIGGER IF NOT EXISTS {table.name}_counted_at_{when.lower()}"
                f" AFTER {when} ON {table.name} BEGIN {count} END"
            )


def _triggers(table: sa.Table) -> Iterator[str]:
    name = table.name
    columns = ", ".join(each.name for each in _sealed(table))
    # From the row as it is kept: NEW holds what was asked for, before the types of the columns.
    seal = (
        f"UPDATE {name} SET checksum = {_expression(table, name)}"  # noqa: S608 - same
        " WHERE rowid = NEW.rowid;"
    )
    yield (
        f"CREATE TRIGGER IF NOT EXISTS {name}_verified BEFORE UPDATE OF {columns} ON {name}"
        f" WHEN OLD.checksum IS NOT {_expression(table, 'OLD')}"
        " BEGIN SELECT RAISE(IGNORE); END"
    )
    yield (
        f"CREATE TRIGGER IF NOT EXISTS {name}_sealed_at_update AFTER UPDATE OF {columns}"
        f" ON {name} BEGIN {seal} END"
    )
    # Whoever has computed it already is spared the way through the database and back.
    yield (
        f"CREATE TRIGGER IF NOT EXISTS {name}_sealed_at_insert AFTER INSERT ON {name}"
        f" WHEN NEW.checksum IS NULL BEGIN {seal} END"
    )


def _sealed(table: sa.Table) -> list[sa.Column[Any]]:
    return [
        column
        for column in table.columns
        if column.name != "checksum" and column.info.get("is_sealed", True)
    ]


def _expression(table: sa.Table, row: str) -> str:
    """SQL that computes the checksum of `row`: OLD, NEW or the table's name."""
    return f"{_FUNCTION}({sealed_values(table, row)})"


def sealed_values(table: sa.Table, row: str) -> str:
    """SQL of what the checksum of `row` is computed over, a list of values."""
    # As bytes, since damaged text may be no text. That drops the type; a text that became a
    # blob of the same bytes, the one such flip, is told by the type of the greatest value.
    columns = _sealed(table)
    present = ", ".join(f"{row}.{each.name}" for each in columns if not each.nullable)
    values = ", ".join(f"CAST({row}.{each.name} AS BLOB)" for each in columns)
    return f"typeof(max({present})), {values}"


def checksum_of(table: sa.Table, row: Mapping[str, str | int | None]) -> int:
    """The checksum of a new row of text and integers, as the database computes it.

    Args:
        row: Every sealed column's value as SQLite keeps it; one of them is text and never null.
    """
    values = [row[each.name] for each in _sealed(table)]
    return row_checksum("text", *(None if each is None else str(each).encode() for each in values))
