"""Damaged rows: noticed, set aside, shown as failed, and never worked on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from imaging_node.domain.errors import IntegrityError
from imaging_node.store.checksums import checked_tables, damaged_row_ids, row_id
from imaging_node.store.schema import damaged_rows
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database

ROW_DAMAGED = "row damaged"
DAMAGE_REASON = f"{ROW_DAMAGED}: it is not what was written; restore the database from a backup"


def is_set_aside(table: sa.Table) -> sa.ColumnElement[bool]:
    """Condition that holds for rows that were found damaged."""
    return row_id(table).in_(
        sa.select(damaged_rows.c.row_id).where(damaged_rows.c.table_name == table.name)
    )


def choose_intact(
    connection: Connection, table: sa.Table, candidates: sa.Select[Any], *, now: datetime
) -> Sequence[int]:
    """Row ids that `candidates` selects, all of them intact; damaged ones are set aside instead.

    Args:
        candidates: Selects row ids of `table`, in order and with a limit.
    """
    while True:
        chosen = connection.scalars(candidates.where(sa.not_(is_set_aside(table)))).all()
        damaged = damaged_row_ids(connection, table, row_id(table).in_(chosen))
        if not damaged:
            return chosen
        set_aside(connection, table, damaged, now=now)


def set_aside(
    connection: Connection, table: sa.Table, row_ids: Sequence[int], *, now: datetime
) -> None:
    """Note that rows are damaged, and say so once."""
    if not row_ids:
        return
    changed = connection.execute(
        insert(damaged_rows)
        .values([{"table_name": table.name, "row_id": each, "noticed_at": now} for each in row_ids])
        .on_conflict_do_nothing()
    )
    if changed.rowcount:
        log(Event.ROWS_DAMAGED, where=table.name, count=changed.rowcount)


def find_damage(database: Database, *, now: datetime) -> dict[str, int]:
    """Verify every row there is, and set the damaged ones aside.

    Rows that were set aside and are whole again, after a repair, are worked with again.

    Returns:
        Number of damaged rows by table, of the tables that have any.

    Raises:
        StorageError: The database cannot be read.
    """
    with database.read() as connection:
        found = {table.name: damaged_row_ids(connection, table) for table in checked_tables()}
        noted = connection.execute(sa.select(damaged_rows)).all()
    current = {(name, each) for name, row_ids in found.items() for each in row_ids}
    if current != {(row.table_name, row.row_id) for row in noted}:
        with database.write() as connection:
            connection.execute(
                sa.delete(damaged_rows).where(
                    sa.tuple_(damaged_rows.c.table_name, damaged_rows.c.row_id).in_(
                        [
                            (row.table_name, row.row_id)
                            for row in noted
                            if (row.table_name, row.row_id) not in current
                        ]
                    )
                )
            )
            for table in checked_tables():
                set_aside(connection, table, found[table.name], now=now)
    return {name: len(row_ids) for name, row_ids in found.items() if row_ids}


def require_undamaged(database: Database) -> None:
    """Refuse to go on where all of the work must be known.

    Raises:
        IntegrityError: A row was found damaged.
    """
    with database.read() as connection:
        row = connection.execute(sa.select(damaged_rows).limit(1)).first()
    if row is not None:
        raise IntegrityError(
            f"row damaged: row {row.row_id} of the table {row.table_name} is not what was written;"
            " restore the database from a backup, or begin anew without it"
        )


def damaged_values(
    connection: Connection, table: sa.Table, row_ids: Sequence[int], columns: Sequence[str]
) -> list[dict[str, str | int | None]]:
    """What stands in damaged rows, each as it is, with its row id as "row_id": for listings only.

    Any of the values may be wrong. What is no text is "", what is no number None.
    """
    if not row_ids:
        return []
    # Without the columns' types, which would choke on damaged values.
    raw = [
        sa.literal_column(f"{table.name}.{name}", sa.types.NullType()).label(name)
        for name in columns
    ]
    rows = connection.execute(
        sa.select(row_id(table).label("row_id"), *raw)
        .select_from(table)
        .where(row_id(table).in_(row_ids))
        .order_by(row_id(table))
    ).mappings()
    return [{name: _plain(table, name, value) for name, value in row.items()} for row in rows]


def _plain(table: sa.Table, name: str, value: object) -> str | int | None:
    if name == "row_id" or isinstance(table.c[name].type, sa.Integer | sa.TypeDecorator):
        return value if isinstance(value, int) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
