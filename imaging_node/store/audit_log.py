"""The local audit log: numbered lines with a checksum, appended to by all roles.

Files are named after the number of their first line. None is deleted or renamed by the node:
an operator may archive every file but the one with the highest number.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from imaging_node.domain.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAXIMUM_FILE_BYTES = 64 * 1024 * 1024
_CHECK_DIGITS = 16
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One message on its way into the log.

    Attributes:
        occurred_at: ISO 8601 with time zone; role, pid: who says it. None holds a space.
        xml: One line.
    """

    occurred_at: str
    role: str
    pid: int
    xml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One message of the log, and its number: counted from 1, over all processes."""

    sequence: int
    entry: AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditBatch:
    """What was read.

    Attributes:
        damaged: Lines that were skipped: torn by a power failure, or changed since.
    """

    records: tuple[AuditRecord, ...]
    damaged: int


class AuditLog:
    """Owns the folder's files; several processes may append, one line never mixes with another."""

    def __init__(self, folder: Path, *, maximum_file_bytes: int = MAXIMUM_FILE_BYTES) -> None:
        """Make the folder when it is not there.

        Raises:
            OSError: It cannot be made or used.
        """
        self._folder = folder
        self._maximum_file_bytes = maximum_file_bytes
        self._is_file_suspect = False
        self._read_up_to: tuple[Path, int] | None = None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(folder.parent)
        with self._locked():
            pass

    def append(self, entries: Sequence[AuditEntry]) -> None:
        """Add lines in this order; on return they survive a power failure.

        Raises:
            StorageError: The disk is full or failing; none was added.
        """
        try:
            with self._locked():
                self._append(entries)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "unknown")
            raise StorageError(
                f"cannot write {len(entries)} messages to the audit log ({reason});"
                " free space on the disk of the state directory"
            ) from None

    def read_after(self, sequence: int, *, limit: int) -> AuditBatch:
        """The next messages behind number `sequence`, in order; only durable ones.

        Raises:
            StorageError: The log cannot be read.
        """
        try:
            with self._locked():
                files = self._files()
                if not files:
                    return AuditBatch(records=(), damaged=0)
                # Lines of a process that was killed before its own fsync.
                end = _sync_file(files[-1])
            return self._read(files, end, sequence, limit)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "unknown")
            raise StorageError(
                f"cannot read the audit log ({reason}); check the disk of the state directory"
            ) from None

    def shipped(self) -> int:
        """Number of the last message that was shipped; 0 when none was."""
        try:
            return int((self._folder / "shipped").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0  # shipped again rather than not at all

    def note_shipped(self, sequence: int) -> None:
        """Durably note the last message that was shipped.

        Raises:
            StorageError: The disk is full or failing; the messages will be shipped again.
        """
        part = self._folder / "shipped.part"
        try:
            descriptor = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            try:
                _write_all(descriptor, f"{sequence}\n".encode("ascii"))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            part.rename(self._folder / "shipped")
            _sync_folder(self._folder)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "unknown")
            raise StorageError(
                f"cannot note what was shipped of the audit log ({reason});"
                " free space on the disk of the state directory"
            ) from None

    def _append(self, entries: Sequence[AuditEntry]) -> None:
        files = self._files()
        first = (self._last_sequence(files[-1]) if files else self.shipped()) + 1
        if not files or self._is_file_suspect or _size(files[-1]) >= self._maximum_file_bytes:
            path = self._folder / f"audit-{first:015d}.log"
        else:
            path = files[-1]
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            lines = [_line(first + index, entry) for index, entry in enumerate(entries)]
            if before and os.pread(descriptor, 1, before - 1) != b"\n":
                lines.insert(0, b"\n")  # ends a line that was torn
            try:
                _write_all(descriptor, b"".join(lines))
                os.fsync(descriptor)
            except OSError:
                # Whether the kernel still holds these pages is not known any more: they are
                # taken back, and the next lines go into a new file.
                self._is_file_suspect = True
                with suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        if path not in files:
            _sync_folder(self._folder)
        self._is_file_suspect = False

    def _read(self, files: Sequence[Path], end: int, sequence: int, limit: int) -> AuditBatch:
        records: list[AuditRecord] = []
        damaged = 0
        for path in files[_index_of(files, sequence + 1) :]:
            stop = end if path == files[-1] else _size(path)
            offset = 0
            if self._read_up_to is not None and self._read_up_to[0] == path:
                offset = self._read_up_to[1]
            with path.open("rb") as file:
                file.seek(offset)
                while offset < stop and len(records) < limit:
                    line = file.readline()
                    record = _parsed(line)
                    if record is not None and record.sequence > sequence:
                        records.append(record)
                    offset += len(line)
                    if not records:  # passed for good: the next call begins here
                        damaged += record is None and line != b"\n"
                        self._read_up_to = (path, offset)
            if len(records) >= limit:
                break
        return AuditBatch(records=tuple(records), damaged=damaged)

    def _last_sequence(self, path: Path) -> int:
        """Number of the last whole line; one less than the file's name when there is none."""
        size = _size(path)
        with path.open("rb") as file:
            for start in (max(0, size - _TAIL_BYTES), 0):
                file.seek(start)
                for line in reversed(file.read().splitlines(keepends=True)):
                    record = _parsed(line)
                    if record is not None:
                        return record.sequence
        return _first_sequence(path) - 1

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("audit-*.log"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _line(sequence: int, entry: AuditEntry) -> bytes:
    said = f"{entry.occurred_at} {entry.role} {entry.pid} {entry.xml}"
    return f"{sequence} {_check(sequence, said)} {said}\n".encode()


def _parsed(line: bytes) -> AuditRecord | None:
    """The record of a line; None when it is torn or changed."""
    try:
        sequence, check, said = line.decode().removesuffix("\n").split(" ", 2)
        if not line.endswith(b"\n") or check != _check(int(sequence), said):
            return None
        occurred_at, role, pid, xml = said.split(" ", 3)
        entry = AuditEntry(occurred_at=occurred_at, role=role, pid=int(pid), xml=xml)
        return AuditRecord(sequence=int(sequence), entry=entry)
    except ValueError:
        return None


def _check(sequence: int, said: str) -> str:
    return sha256(f"{sequence} {said}".encode()).hexdigest()[:_CHECK_DIGITS]


def _first_sequence(path: Path) -> int:
    return int(path.stem.removeprefix("audit-"))


def _index_of(files: Sequence[Path], sequence: int) -> int:
    """Index of the file that holds a number, or of the first file when it is older than all."""
    before = [index for index, path in enumerate(files) if _first_sequence(path) <= sequence]
    return before[-1] if before else 0


def _size(path: Path) -> int:
    return path.stat().st_size


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_file(path: Path) -> int:
    """Make a file durable; returns its size."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
