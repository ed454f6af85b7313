"""What a start finds of the last run: the database verified, the spool without leavings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.errors import StorageError
from imaging_node.store.checksums import checked_tables, damaged_row_ids
from imaging_node.store.damage import find_damage
from imaging_node.store.schema import instances, metadata, roles, transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database

# Beside others at work: a file may be waiting for its row, but not for this long.
_SURELY_FORGOTTEN_S = 3600.0
# Roles report to the database every two seconds: a file this much newer than the last report
# was kept by a run that the database knows nothing of.
_UNKNOWN_RUN_S = 60.0
_INDEX_MESSAGE = re.compile(r"\bindex\b|\bUNIQUE\b")
_ROW_MESSAGE = re.compile(r"CHECK constraint failed in |\S+ value in ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What was found in the spool.

    Attributes:
        parts: Files that were never finished, removed.
        unreferenced: Files that no row names, removed.
        rescued: Files that are newer than the database, moved to the folder of rescued files.
        missing: Files that rows name and that are not there.
    """

    parts: int
    unreferenced: int
    rescued: int
    missing: int


def holds_files(folder: Path) -> bool:
    """Whether anything was ever kept in the spool `folder`."""
    return any(True for _ in folder.glob("??/*.dcm"))


def check_database(database: Database, *, now: datetime) -> dict[str, int]:
    """Verify the database's structure and every row; repair indexes.

    Returns:
        Number of damaged rows by table; they are set aside.

    Raises:
        StorageError: It is damaged beyond single rows.
    """
    messages = _integrity(database)
    _require_structure(messages)
    damaged = find_damage(database, now=now)
    if any(_INDEX_MESSAGE.search(each) for each in messages):
        with database.write() as connection:
            for table in metadata.sorted_tables:
                # The index of a damaged row is right, and finds it under its right key.
                if table.name not in damaged:
                    connection.exec_driver_sql(f"REINDEX {table.name}")
        _require_structure(_integrity(database))
    return damaged


def clean_spool(
    database: Database,
    folder: Path,
    *,
    rescue_folder: Path,
    is_alone: bool,
    is_dead: Callable[[int, float], bool],
    now: datetime,
) -> Cleaned:
    """Remove what a run that was cut short left in the spool.

    A file that no row names was never acknowledged, unless the database is older than the
    spool: restored from a backup, say. Then it is moved to `rescue_folder`, from where it can
    be sent again.

    Args:
        is_alone: Whether no other process writes to the spool. If one does, a file may be
            waiting for its row: only what is old is removed.
        is_dead: Whether the process with this id, which wrote at this time, has ended.

    Raises:
        StorageError: The database cannot be read, or the disk fails.
    """
    with database.read() as connection:
        referenced = _referenced(connection)
        last_report = _last_report(connection)
        # A damaged row may name any file.
        is_certain = not any(
            damaged_row_ids(connection, table) for table in checked_tables() if "digest" in table.c
        )
    parts = unreferenced = rescued = 0
    found: set[str] = set()
    try:
        for entry in _files(folder):
            name, _, ending = entry.name.rpartition(".")
            if ending == "part":
                if is_alone or _is_forgotten(entry, name, is_dead, now):
                    Path(entry.path).unlink()
                    parts += 1
            elif ending != "dcm":
                continue
            elif name in referenced:
                found.add(name)
            elif is_certain and (is_alone or _age_s(entry, now) > _SURELY_FORGOTTEN_S):
                if last_report - entry.stat().st_mtime < -_UNKNOWN_RUN_S:
                    rescue_folder.mkdir(mode=0o700, exist_ok=True)
                    Path(entry.path).rename(rescue_folder / entry.name)
                    rescued += 1
                else:
                    Path(entry.path).unlink()
                    unreferenced += 1
    except OSError as error:
        raise StorageError(
            f"cannot clean the spool {folder} ({error.strerror}); check the disk of the state"
            " directory and who owns its files"
        ) from None
    return Cleaned(
        parts=parts,
        unreferenced=unreferenced,
        rescued=rescued,
        missing=len(referenced - found),
    )


def _integrity(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(sa.text("PRAGMA integrity_check(1000)")))


def _require_structure(messages: list[str]) -> None:
    """Refuse damage that is more than values of rows or a stale index.

    Raises:
        StorageError: There is some.
    """
    for each in messages:
        if each != "ok" and not _INDEX_MESSAGE.search(each) and not _ROW_MESSAGE.match(each):
            raise StorageError(
                f"the node's database is damaged ({each.splitlines()[-1]}): restore node.sqlite"
                " from a backup; the files in the spool stay as they are"
            )


def _referenced(connection: Connection) -> set[str]:
    """Digests of all files that rows say are in the spool."""
    found: set[str] = set()
    for table in metadata.sorted_tables:
        if "digest" in table.c:
            where = [table.c.path == ""] if "path" in table.c else []
            found.update(connection.scalars(sa.select(table.c.digest).where(*where)))
    return found


def _last_report(connection: Connection) -> float:
    """When the database was last written to, as far as it says, in seconds since 1970."""
    moments = [
        connection.scalar(sa.select(sa.func.max(column)))
        for column in (roles.c.heartbeat_at, transitions.c.moved_at, instances.c.received_at)
    ]
    return max((each.timestamp() for each in moments if each is not None), default=0.0)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file of the spool, in its folders and in its own."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry
                continue
            with os.scandir(entry.path) as files:
                yield from (each for each in files if each.is_file(follow_symlinks=False))


def _is_forgotten(
    entry: os.DirEntry[str], name: str, is_dead: Callable[[int, float], bool], now: datetime
) -> bool:
    """Whether the process that wrote a part has ended; its id is the beginning of the name."""
    try:
        wrote_at = entry.stat().st_mtime
    except FileNotFoundError:
        return False  # a living writer has finished it meanwhile
    process_id = name.partition(".")[0]
    if process_id.isdecimal() and len(process_id) < 10:  # noqa: PLR2004 - ids have at most 22 bits
        return is_dead(int(process_id), wrote_at)
    return now.timestamp() - wrote_at > _SURELY_FORGOTTEN_S


def _age_s(entry: os.DirEntry[str], now: datetime) -> float:
    return now.timestamp() - entry.stat().st_mtime
