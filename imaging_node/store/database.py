"""Connections to the database: SQLite in WAL mode with synchronous FULL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex

from imaging_node.domain.errors import DurabilityError, RowRefusedError, StorageError
from imaging_node.store import checksums, migration, schema, watching_schema
from imaging_node.store.prepared import driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_MS = 20_000
_FIRST_NAP_S, _LONGEST_NAP_S = 0.0002, 0.005
# Idle ones that are kept; more are opened and closed again as threads ask for them.
_MOST_READERS = 8
_FSYNC_FAILED = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """Owns the connections; every change is one transaction that is durable when it returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # One writer at a time, as SQLite has it, without its waiting in ever longer naps; and the
        # writer's connection stays open, since taking it from the pool costs as much as a commit.
        self._turn = threading.Lock()
        self._writing: Connection | None = None
        # For the same reason; whoever reads takes one that is free.
        self._readers: deque[Connection] = deque()

    @property
    def dialect(self) -> sa.Dialect:
        """What converts values of Python to those of the database."""
        return self._engine.dialect

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that takes the write lock at once; committed and fsynced at the end.

        Raises:
            StorageError: The database is locked, full or damaged.
        """
        with self._translated("write to"), self._turn, ExitStack() as failed:
            failed.callback(self._let_go)  # whatever state the connection is in then
            if self._writing is None:
                self._writing = self._engine.connect().execution_options(begin="IMMEDIATE")
                _wait_at_most(self._writing, 0)
            with self._writing.begin():
                yield self._writing
            failed.pop_all()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the database.

        Raises:
            StorageError: The database is locked or damaged.
        """
        with self._translated("read"), ExitStack() as failed:
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._engine.connect()
            failed.callback(connection.close)  # whatever state it is in then
            with connection.begin():
                yield connection
            failed.pop_all()
            if len(self._readers) < _MOST_READERS:
                self._readers.append(connection)
            else:
                connection.close()

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
        with self._turn:
            self._let_go()
        while self._readers:
            self._readers.pop().close()
        self._engine.dispose()

    def _let_go(self) -> None:
        """Give the writer's connection back to the pool, which ends what is under way on it."""
        connection, self._writing = self._writing, None
        if connection is not None:
            try:
                _wait_at_most(connection, BUSY_TIMEOUT_MS)
            finally:
                connection.close()

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError:
            # SQLite quotes a damaged schema in its message, and Python cannot read that.
            raise _damaged(verb, "malformed database schema") from None
        except (DBAPIError, sqlite3.Error) as error:
            cause = getattr(error, "orig", error)
            # Not the statement or its parameters: they hold patients' data.
            code = getattr(cause, "sqlite_errorcode", 0)
            if code in _FSYNC_FAILED:
                raise DurabilityError(
                    f"cannot {verb} the node's database ({cause}): the disk did not take"
                    " what was written; check it before anything else"
                ) from None
            if code & 0xFF == sqlite3.SQLITE_CONSTRAINT:
                raise RowRefusedError(
                    f"cannot {verb} the node's database ({cause}): a defect, or damage; if it comes"
                    " again, stop the node and restore node.sqlite from a backup"
                ) from None
            if code & 0xFF in _DAMAGED:
                raise _damaged(verb, str(cause)) from None
            raise StorageError(
                f"cannot {verb} the node's database ({cause});"
                " check the disk of the state directory and that one node alone uses it"
            ) from None


def open_database(url: str, *, may_create: bool = True) -> Database:
    """Open the database at `url`: create it, or bring it to today's schema.

    Args:
        may_create: False where something was kept before: then its database must be there.

    Raises:
        StorageError: It cannot be opened, is damaged or missing, or a newer node wrote it.
    """
    location = sa.make_url(url).database
    if location:
        Path(location).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_journal(Path(location))
        if not may_create and not Path(location).exists():
            raise _missing(location)
    database = Database(_engine(url))
    with database.read() as connection:
        version = migration.written_version(connection)
    if version is None and not may_create:
        raise _missing(location)
    if version in migration.MIGRATED_VERSIONS:
        # On a connection of its own: foreign keys cannot be put aside in a transaction.
        old = Database(_engine(url, _put_references_aside))
        with old.write() as connection:
            migration.migrate(connection)
        old.close()
    elif version not in (None, str(schema.SCHEMA_VERSION)):
        raise StorageError(
            f"the database has schema {version}, this node needs {schema.SCHEMA_VERSION};"
            " use the version of the node that wrote it"
        )
    with database.write() as connection:
        # Those of `schema` are in it, too.
        metadata = watching_schema.observations.metadata
        metadata.create_all(connection)
        for table in metadata.sorted_tables:
            for index in table.indexes:  # of a database that was made before there was one
                # Not by looking which there are: SQLAlchemy cannot read a damaged schema.
                connection.execute(CreateIndex(index, if_not_exists=True))
        checksums.create_triggers(connection)
        connection.execute(
            insert(schema.node)
            .values(key="schema_version", value=str(schema.SCHEMA_VERSION))
            .on_conflict_do_nothing()
        )
    if location:
        # Its journal takes the same permissions; a state directory made by others may be open.
        Path(location).chmod(0o600)
    return database


def _engine(url: str, *prepare: Callable[[DBAPIConnection, ConnectionPoolEntry], None]) -> Engine:
    # Whoever asks for a connection gets one, however many threads do; those in use again are kept
    # by `Database` itself.
    engine = sa.create_engine(
        url,
        poolclass=sa.NullPool,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
    )
    for each in (_prepare, *prepare):
        event.listen(engine, "connect", each)
    event.listen(engine, "begin", _begin)
    return engine


def _damaged(verb: str, what: str) -> StorageError:
    return StorageError(
        f"cannot {verb} the node's database ({what}): it is damaged; stop the node and restore"
        " node.sqlite from a backup"
    )


def _missing(location: str | None) -> StorageError:
    return StorageError(
        f"the database {location} is missing or empty, but the spool beside it holds files: restore"
        " it from a backup, or move the spool away to begin anew"
    )


def _require_journal(location: Path) -> None:
    """Refuse to go on from before the last commits: SQLite would, when its journal is gone.

    Raises:
        StorageError: The journal's index is there without the journal.
    """
    # SQLite creates the journal before its index, and removes it after.
    journal, index = (location.with_name(f"{location.name}-{end}") for end in ("wal", "shm"))
    if index.exists() and not journal.exists():
        raise StorageError(
            f"{journal.name} is missing beside {location.name}: what was committed last would be"
            f" lost; restore it, or remove {index.name} to go on without"
        )


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    # SQLAlchemy's events begin transactions; sqlite3 must not begin its own.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        # Moving pages into the database holds up the commit that it falls on: seldom, then.
        "wal_autocheckpoint=4000",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    # Damaged text is shown as such: one bad byte must not make a whole listing fail.
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
    checksums.register(connection)


def _put_references_aside(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("PRAGMA legacy_alter_table=ON")


def _begin(connection: Connection) -> None:
    # Not as a statement of SQLAlchemy, which costs more than SQLite's work for it.
    raw = driver(connection)
    if connection.get_execution_options().get("begin") == "IMMEDIATE":
        _begin_to_write(raw)
    else:
        raw.execute("BEGIN")


def _wait_at_most(connection: Connection, limit_ms: int) -> None:
    driver(connection).execute(f"PRAGMA busy_timeout={limit_ms}")


def _begin_to_write(raw: sqlite3.Connection) -> None:
    """Wait for the write lock; SQLite's own naps grow beyond another process's whole transaction.

    Raises:
        OperationalError: Another process has held it for 20 s, or the database is damaged.
    """
    deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    nap_s = _FIRST_NAP_S
    while True:
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline_s:
                raise
        else:
            return
        time.sleep(nap_s)
        nap_s = min(1.5 * nap_s, _LONGEST_NAP_S)
