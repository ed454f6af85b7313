"""Connections to the database: SQLite in WAL mode with synchronous FULL."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from imaging_node.domain.errors import StorageError
from imaging_node.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_MS = 20_000


class Database:
    """Owns the connections; every change is one transaction that is durable when it returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that takes the write lock at once; committed and fsynced at the end.

        Raises:
            StorageError: The database is locked, full or damaged.
        """
        with self._translated("write to"), self._engine.connect() as connection:
            options = connection.execution_options(begin="IMMEDIATE")
            with options.begin():
                yield options

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the database.

        Raises:
            StorageError: The database is locked or damaged.
        """
        with self._translated("read"), self._engine.connect() as connection, connection.begin():
            yield connection

    def is_writable(self) -> bool:
        """Whether a write transaction succeeds now."""
        try:
            with self.write() as connection:
                connection.execute(
                    sa.update(schema.node)
                    .where(schema.node.c.key == "schema_version")
                    .values(value=schema.node.c.value)
                )
        except StorageError:
            return False
        return True

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            # Not the statement or its parameters: they hold patients' data.
            raise StorageError(
                f"cannot {verb} the node's database ({error.orig});"
                " check the disk of the state directory and that one node alone uses it"
            ) from None


def open_database(url: str) -> Database:
    """Open the database at `url`, creating or checking its schema.

    Raises:
        StorageError: It cannot be opened, or was written by another version of the node.
    """
    location = sa.make_url(url).database
    if location:
        Path(location).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    database = Database(engine)
    with database.write() as connection:
        schema.metadata.create_all(connection)
        version = connection.scalar(
            sa.select(schema.node.c.value).where(schema.node.c.key == "schema_version")
        )
        if version is None:
            connection.execute(
                schema.node.insert().values(key="schema_version", value=str(schema.SCHEMA_VERSION))
            )
        elif version != str(schema.SCHEMA_VERSION):
            raise StorageError(
                f"the database has schema {version}, this node needs {schema.SCHEMA_VERSION};"
                " use the version of the node that wrote it"
            )
    if location:
        # Its journal takes the same permissions; a state directory made by others may be open.
        Path(location).chmod(0o600)
    return database


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    # SQLAlchemy's events begin transactions; sqlite3 must not begin its own.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")
