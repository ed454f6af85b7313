"""The spool: immutable files named by the SHA-256 of their content."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import secrets
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from imaging_node.domain.errors import DurabilityError, IntegrityError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_INCOMING = "incoming"
_BEGINNING_BYTES = 128 * 1024


class Spool:
    """A folder of files that are durable once `write` has returned, and never change."""

    def __init__(self, folder: Path, *, min_free_bytes: int, min_free_inodes: int = 0) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._min_free_inodes = min_free_inodes
        self._incoming = folder / _INCOMING
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_folders()

    def path(self, digest: str) -> Path:
        """Where the file with this digest lies, whether it exists or not."""
        return self._folder / digest[:2] / f"{digest}.dcm"

    def shortage(self, size_bytes: int = 0) -> str:
        """Why no more may be kept, in words; "" while there is room."""
        if not self._min_free_bytes and not self._min_free_inodes:
            return ""
        try:
            free = os.statvfs(self._folder)
        except OSError as error:
            return f"the spool cannot be looked at ({_name(error)})"
        free_bytes = free.f_bavail * free.f_frsize
        if self._min_free_bytes and free_bytes - size_bytes < self._min_free_bytes:
            return (
                f"{free_bytes} bytes are free and {self._min_free_bytes} must remain"
                " (spool.min_free_bytes)"
            )
        # Some file systems make inodes as they need them, and say 0 of 0.
        if self._min_free_inodes and free.f_files and free.f_favail < self._min_free_inodes:
            return (
                f"{free.f_favail} inodes are free and {self._min_free_inodes} must remain"
                " (spool.min_free_inodes)"
            )
        return ""

    def begin(self, beginning: bytes = b"") -> SpoolPart:
        """Open a file whose content comes piece by piece.

        Raises:
            StorageError: There is no room, or the disk fails.
        """
        shortage = self.shortage()
        if shortage:
            raise StorageError(f"cannot keep an instance: {shortage}; free space")
        path = self._incoming / f"{os.getpid()}.{self._run}.{next(self._numbers)}.part"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _cannot_keep(error) from None
        part = SpoolPart(path, descriptor)
        try:
            part.write(memoryview(beginning))
        except StorageError:
            # On a full disk a file may still be made; nobody else knows of it yet.
            part.discard()
            raise
        return part

    def settle(self, part: SpoolPart) -> str:
        """Give a part that is complete its name; on return it survives a power failure.

        Returns:
            Its SHA-256, 64 hex digits.

        Raises:
            DurabilityError: An fsync failed.
            StorageError: The disk is full or failing.
        """
        digest = part.digest
        path = self.path(digest)
        try:
            # First the name, then both fsyncs: the file system commits them together. A name
            # without its content is a file that no row names, and a start removes it.
            if part.take_name(path):
                part.sync()
            else:
                # Whoever has the name may have been killed before its fsync, or that may have
                # failed: what is read back from memory proves nothing of the disk. And what
                # rows name must not yield to what is not durable yet.
                part.sync()
                part.replace(path)
        except OSError as error:
            raise _cannot_keep(error) from None
        _sync_folder(path.parent)
        return digest

    def write(self, payload: bytes) -> str:
        """Keep `payload`; on return it survives a power failure.

        Returns:
            Its SHA-256, 64 hex digits.

        Raises:
            StorageError: The disk is full or failing; nothing was kept.
        """
        shortage = self.shortage(len(payload))
        if shortage:
            raise StorageError(
                f"cannot keep {len(payload)} bytes in the spool: {shortage}; free space"
            )
        part = self.begin(payload)
        try:
            return self.settle(part)
        finally:
            part.discard()

    def read(self, digest: str) -> bytes:
        """The content of a kept file, its digest checked.

        Raises:
            IntegrityError: The file is missing or is not what was kept.
        """
        return read_verified(self.path(digest), digest)

    def _make_folders(self) -> None:
        """Make all folders that digests begin with, once, so that no instance waits for one."""
        missing = [each for each in range(256) if not (self._folder / f"{each:02x}").exists()]
        for each in missing:
            (self._folder / f"{each:02x}").mkdir(mode=0o700, exist_ok=True)
        if missing:
            _sync_folder(self._folder)


class SpoolPart:
    """Owns a file under way; `settle` gives it its name, `discard` removes it.

    Attributes:
        size_bytes: Written so far.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._hash = sha256()
        self._is_moved = False
        self._beginning = bytearray()
        self.size_bytes = 0

    def write(self, piece: memoryview) -> None:
        """Append `piece`.

        Raises:
            StorageError: The disk is full or failing.
        """
        self._hash.update(piece)
        if len(self._beginning) < _BEGINNING_BYTES:
            self._beginning += piece[: _BEGINNING_BYTES - len(self._beginning)]
        try:
            while piece:
                # A disk that fills up takes a part before it says so.
                count = os.write(self._descriptor, piece)
                self.size_bytes += count
                piece = piece[count:]
        except OSError as error:
            raise _cannot_keep(error) from None

    @property
    def beginning(self) -> bytes:
        """The first 128 KiB of what was written, or all of it: more than most headers need."""
        return bytes(self._beginning)

    @contextmanager
    def mapped(self) -> Iterator[mmap.mmap]:
        """All that was written, as memory that is read from the disk where it is touched.

        Raises:
            StorageError: It cannot be mapped.
        """
        try:
            whole = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"cannot read an instance in the spool ({type(error).__name__}); check the disk"
            ) from None
        with whole:
            yield whole

    @property
    def digest(self) -> str:
        """SHA-256 of what was written so far, 64 hex digits."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Return once the content survives a power failure.

        Raises:
            DurabilityError: The fsync failed.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _fsync_failed(error) from None

    def take_name(self, path: Path) -> bool:
        """Be found at `path` unless a file is there already; raises OSError.

        A rename would put this copy, not durable yet, over one that another has just answered
        for.
        """
        try:
            path.hardlink_to(self._path)
        except FileExistsError:
            return False
        return True

    def replace(self, path: Path) -> None:
        """Take the place of the file at `path`; raises OSError."""
        self._path.rename(path)
        self._is_moved = True

    def discard(self) -> None:
        """Close the file and take away the name that it had under way."""
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if not self._is_moved:
            self._path.unlink(missing_ok=True)


def read_verified(path: Path, digest: str) -> bytes:
    """The content of `path` if its SHA-256 is `digest`.

    Raises:
        IntegrityError: The file is missing, unreadable or changed.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"cannot read the file {digest[:12]} ({_name(error)}); restore it from a backup"
        ) from None
    if sha256(payload).hexdigest() != digest:
        raise IntegrityError(
            f"the file {digest[:12]} is not what was received: its digest changed;"
            " check the disk and restore it from a backup"
        )
    return payload


def _sync_folder(folder: Path) -> None:
    # A rename is durable only once the folder itself is.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _cannot_keep(error) from None
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise _fsync_failed(error) from None
    finally:
        os.close(descriptor)


def _cannot_keep(error: OSError) -> StorageError:
    return StorageError(
        f"cannot keep an instance in the spool ({_name(error)});"
        " free space on the disk of the state directory, or replace it"
    )


def _fsync_failed(error: OSError) -> DurabilityError:
    return DurabilityError(
        f"the disk of the state directory did not take what was written ({_name(error)});"
        " check it before anything else"
    )


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")
