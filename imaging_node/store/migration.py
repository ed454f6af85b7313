"""Bring a database that an earlier version of the node wrote to today's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.errors import StorageError
from imaging_node.store.checksums import create_triggers, seal_all
from imaging_node.store.schema import SCHEMA_VERSION, metadata, node

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

MIGRATED_VERSIONS = ("1", "2")
_OLD = "migrated_"


def written_version(connection: Connection) -> str | None:
    """Schema version that the database says it has; None when it holds nothing yet."""
    if not sa.inspect(connection).has_table(node.name):
        return None
    version: str | None = connection.scalar(
        sa.select(node.c.value).where(node.c.key == "schema_version")
    )
    return version


def migrate(connection: Connection) -> None:
    """Write every table anew with today's columns and constraints, and seal its rows.

    The caller's transaction is the whole of it: a crash leaves the database as it was. Its
    connection must neither enforce foreign keys nor follow renamed tables.

    Raises:
        StorageError: Rows point at rows that are not there: the database is damaged.
    """
    version = written_version(connection)
    if version not in MIGRATED_VERSIONS:
        return  # another process was first
    existing = set(sa.inspect(connection).get_table_names())
    renamed = [table for table in metadata.sorted_tables if table.name in existing]
    for table in renamed:
        for index in sa.inspect(connection).get_indexes(table.name):
            connection.exec_driver_sql(f'DROP INDEX "{index["name"]}"')
        connection.exec_driver_sql(f"ALTER TABLE {table.name} RENAME TO {_OLD}{table.name}")
    metadata.create_all(connection)
    for table in renamed:
        old = sa.Table(f"{_OLD}{table.name}", sa.MetaData(), autoload_with=connection)
        kept = [column.name for column in table.columns if column.name in old.c]
        # Columns that the old table lacks take their defaults.
        connection.execute(
            table.insert().from_select(
                kept, sa.select(*(old.c[name] for name in kept)).order_by(sa.text("rowid"))
            )
        )
        connection.exec_driver_sql(f"DROP TABLE {_OLD}{table.name}")
    seal_all(connection)
    create_triggers(connection)
    connection.execute(
        node.update().where(node.c.key == "schema_version").values(value=str(SCHEMA_VERSION))
    )
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise StorageError(
            f"cannot migrate the database from schema {version}: rows point at rows that are"
            " missing; restore it from a backup"
        )
