"""A change that fails leaves the way free for the next one."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from imaging_node.domain.errors import DurabilityError, RowRefusedError, StorageError
from imaging_node.store.schema import node

if TYPE_CHECKING:
    from imaging_node.store.database import Database


def put(database: Database, key: str) -> None:
    with database.write() as connection:
        connection.execute(node.insert().values(key=key, value="1"))


def put_and_fail(database: Database) -> None:
    with database.write() as connection:
        connection.execute(node.insert().values(key="lost", value="1"))
        raise RuntimeError


def keys(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.scalars(sa.select(node.c.key))) - {"schema_version"}


def test_what_raises_within_a_change_undoes_it_and_the_next_one_is_made(
    database: Database,
) -> None:
    put(database, "there")
    with pytest.raises(StorageError):
        put(database, "there")
    with pytest.raises(RuntimeError):
        put_and_fail(database)

    put(database, "kept")

    assert keys(database) == {"there", "kept"}


def test_a_commit_that_fails_undoes_its_change_and_the_next_one_is_made(
    database: Database,
) -> None:
    def fail(_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    event.listen(database._engine, "commit", fail)
    with pytest.raises(DurabilityError):
        put(database, "lost")
    event.remove(database._engine, "commit", fail)

    put(database, "kept")

    assert keys(database) == {"kept"}


def test_a_database_that_another_process_has_locked_is_refused_and_then_taken(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imaging_node.store.database.BUSY_TIMEOUT_MS", 50)
    put(database, "before")
    other = sqlite3.connect(database._engine.url.database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        put(database, "lost")
    other.execute("ROLLBACK")
    other.close()

    put(database, "kept")

    assert keys(database) == {"before", "kept"}


def test_a_writer_waits_for_another_process(database: Database) -> None:
    other = sqlite3.connect(
        database._engine.url.database or "", isolation_level=None, check_same_thread=False
    )
    for key in ("first", "second"):
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.2, other.execute, ["COMMIT"])
        release.start()
        put(database, key)
        assert not other.in_transaction
        release.join()
    other.close()

    assert keys(database) == {"first", "second"}


def test_threads_take_turns(database: Database) -> None:
    is_at_work = threading.Lock()

    def add(number: int) -> None:
        with database.write() as connection:
            assert is_at_work.acquire(blocking=False)
            connection.execute(node.insert().values(key=str(number), value="1"))
            is_at_work.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(200)))

    assert len(keys(database)) == 200


def test_many_threads_read_at_once_and_a_write_that_failed_locks_nobody_out(
    database: Database,
) -> None:
    readers = 40
    together = threading.Barrier(readers)

    def read() -> int:
        with database.read() as connection:
            together.wait(20)  # all of them have a connection now
            return int(connection.scalar(sa.text("SELECT 1")) or 0)

    with contextlib.suppress(RuntimeError):
        put_and_fail(database)
    with ThreadPoolExecutor(readers) as threads:
        found = list(threads.map(lambda _: read(), range(readers)))

    assert found == [1] * readers
    assert database.is_writable()
    assert len(database._readers) <= 8


def test_a_row_that_the_database_refuses_is_told_from_a_disk_that_fails(
    database: Database,
) -> None:
    with (
        pytest.raises(RowRefusedError, match=r"UNIQUE constraint failed: node\.key"),
        database.write() as connection,
    ):
        connection.execute(sa.text("INSERT INTO node VALUES ('schema_version', 'again')"))
