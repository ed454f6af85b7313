"""Build from the settings what the roles share."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

from imaging_node import __version__
from imaging_node.domain.errors import StorageError
from imaging_node.domain.result_object import NodeIdentity
from imaging_node.store.audit_log import AuditLog
from imaging_node.store.audit_message import this_process
from imaging_node.store.audit_trail import AuditTrail
from imaging_node.store.database import Database, open_database
from imaging_node.store.lock_file import LockFile
from imaging_node.store.recovery import holds_files
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Pseudonyms, read_or_create_key

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.settings import Settings

MANUFACTURER = "imaging-node project"


def now() -> datetime:
    """The node's clock."""
    return datetime.now(UTC)


def open_state(settings: Settings) -> tuple[Database, Spool, Pseudonyms]:
    """Open, or create, the database, the spool and the key of hashes.

    As long as the process lives, no recovery takes it for gone.

    Raises:
        StorageError: The state directory cannot be used, or its database is missing.
    """
    folder = state_folder(settings)
    open_spool_lock(settings).share()
    try:
        spool = Spool(
            folder / "spool",
            min_free_bytes=settings.spool.min_free_bytes,
            min_free_inodes=settings.spool.min_free_inodes,
        )
        pseudonyms = Pseudonyms(read_or_create_key(folder / "hash.key"))
    except OSError as error:
        raise unusable(settings, error) from error
    database = open_database(settings.database_url, may_create=not holds_files(folder / "spool"))
    return database, spool, pseudonyms


def state_folder(settings: Settings) -> Path:
    """The state directory, made when it is not there yet.

    Raises:
        StorageError: It cannot be made.
    """
    try:
        settings.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(settings, error) from error
    return settings.state_directory


def open_spool_lock(settings: Settings) -> LockFile:
    """The lock that every process shares that may write to the spool.

    Raises:
        StorageError: The state directory cannot be used.
    """
    try:
        return LockFile(state_folder(settings) / "spool.lock")
    except OSError as error:
        raise unusable(settings, error) from error


def open_audit_log(settings: Settings) -> AuditLog:
    """Open, or create, the audit log that all roles share.

    Raises:
        StorageError: The state directory cannot be used.
    """
    try:
        return AuditLog(settings.state_directory / "audit")
    except OSError as error:
        raise unusable(settings, error) from error


def open_trail(settings: Settings, role: str) -> AuditTrail:
    """Begin the audit trail of this process.

    Raises:
        StorageError: The state directory cannot be used.
    """
    return AuditTrail(open_audit_log(settings), this_process(settings.dicom.ae_title), role=role)


def node_identity(settings: Settings) -> NodeIdentity:
    """What result objects say of this installation: nothing that changes from run to run."""
    return NodeIdentity(
        ae_title=settings.dicom.ae_title,
        manufacturer=MANUFACTURER,
        model_name="imaging-node",
        software_version=__version__,
        serial_number=settings.dicom.ae_title,
    )


def worker_name(role: str) -> str:
    """Name of this process in claims: host, process id and when that process began."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}"


def is_dead(worker: str) -> bool:
    """Whether a worker of this host has ended; of other hosts nothing is known."""
    host, pid, began = worker.partition("@")[2].rsplit(":", 2)
    if host != socket.gethostname():
        return False
    return not psutil.pid_exists(int(pid)) or str(_began(int(pid))) != began


def _began(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


def unusable(settings: Settings, error: OSError) -> StorageError:
    """What to raise when the state directory refused."""
    return StorageError(
        f"cannot use the state directory {settings.state_directory} ({error.strerror});"
        " name a folder that the node's user may write"
    )
