"""Recover the state directory at a start, and keep a second node out of it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import psutil

from imaging_node.domain.errors import StorageError
from imaging_node.node.wiring import now, open_spool_lock, state_folder, unusable
from imaging_node.store.database import open_database
from imaging_node.store.lock_file import LockFile
from imaging_node.store.recovery import check_database, clean_spool, holds_files
from imaging_node.store.role_reports import forget_roles
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from imaging_node.settings import Settings

NODE_LOCK = "node.lock"
RESCUE_FOLDER = "rescued"
_POLL_S = 0.1


def hold_state(settings: Settings) -> tuple[LockFile, bool]:
    """Keep every other node out of the state directory.

    Returns:
        The lock, and whether the last node was killed: its roles may live for a moment.

    Raises:
        StorageError: Another node is at work there, or the folder cannot be used.
    """
    folder = state_folder(settings)
    lock = LockFile(folder / NODE_LOCK)
    if not lock.take():
        raise StorageError(
            f"another node is at work in the state directory {folder}; stop it, or name another"
            " state_directory"
        )
    was_killed = lock.marked() != ""
    lock.mark(str(os.getpid()))
    return lock, was_killed


def recover_state(settings: Settings, *, patience_s: float = 0.0) -> None:
    """Verify the database, and clean the spool of what an earlier run left.

    While other processes use the spool, only what is certainly left over is removed, and the
    database is not verified: it was, when the first of them started.

    Args:
        patience_s: How long to wait for those that are about to end.

    Raises:
        StorageError: The database is damaged or missing, or the disk fails.
    """
    started = time.monotonic()
    folder = state_folder(settings)
    spool = folder / "spool"
    try:
        spool.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise unusable(settings, error) from error
    lock = open_spool_lock(settings)
    try:
        while not (is_alone := lock.take()) and time.monotonic() - started < patience_s:
            time.sleep(_POLL_S)
        database = open_database(settings.database_url, may_create=not holds_files(spool))
        try:
            damaged = check_database(database, now=now()) if is_alone else {}
            if is_alone:
                # Nobody is there: what dead roles last said is no sign of life.
                forget_roles(database)
            cleaned = clean_spool(
                database,
                spool,
                rescue_folder=folder / RESCUE_FOLDER,
                is_alone=is_alone,
                is_dead=_has_ended,
                now=now(),
            )
        finally:
            database.close()
    finally:
        lock.close()
    for table, count in damaged.items():
        log(Event.ROWS_DAMAGED, where=table, count=count)
    for event, count in (
        (Event.PARTS_REMOVED, cleaned.parts),
        (Event.FILES_REMOVED, cleaned.unreferenced),
        (Event.FILES_RESCUED, cleaned.rescued),
        (Event.FILES_MISSING, cleaned.missing),
    ):
        if count:
            log(event, count=count)
    log(Event.STATE_RECOVERED, seconds=round(time.monotonic() - started, 3))


def _has_ended(process_id: int, wrote_at: float) -> bool:
    """Whether a process is gone; one that began after `wrote_at` has only the same number."""
    try:
        return psutil.Process(process_id).create_time() > wrote_at
    except psutil.NoSuchProcess:
        return True
