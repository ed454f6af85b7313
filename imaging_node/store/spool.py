"""The spool: immutable files named by the digest of their content."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
from typing import TYPE_CHECKING

from imaging_node.domain.errors import IntegrityError, StorageError, TemporaryError
from imaging_node.store.content_digest import is_digest_of, is_digest_of_file
from imaging_node.store.spool_part import (
    Memories,
    SpoolPart,
    cannot_keep,
    error_name,
    fsync_failed,
)

if TYPE_CHECKING:
    from pathlib import Path

_INCOMING = "incoming"
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class Spool:
    """A folder of files that are durable once `write` has returned, and never change."""

    def __init__(self, folder: Path, *, min_free_bytes: int, min_free_inodes: int = 0) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._min_free_inodes = min_free_inodes
        self._incoming = str(folder / _INCOMING)
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._memories = Memories()
        (folder / _INCOMING).mkdir(mode=0o700, parents=True, exist_ok=True)
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
            return f"the spool cannot be looked at ({error_name(error)})"
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

    def begin(self) -> SpoolPart:
        """A file whose content comes piece by piece; whether there is room is not looked at."""
        path = f"{self._incoming}/{os.getpid()}.{self._run}.{next(self._numbers)}.part"
        return SpoolPart(path, self._memories)

    def settle(self, part: SpoolPart) -> str:
        """Give a part that is complete its name; on return it survives a power failure.

        Returns:
            Its digest, 64 hex digits.

        Raises:
            DurabilityError: An fsync failed.
            StorageError: The disk is full or failing.
        """
        digest = part.finish()
        try:
            folder = f"{self._folder}/{digest[:2]}"
            path = f"{folder}/{digest}.dcm"
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
            raise cannot_keep(error) from None
        _sync_folder(folder)
        return digest

    def write(self, payload: bytes) -> str:
        """Keep `payload`; on return it survives a power failure.

        Returns:
            Its digest, 64 hex digits.

        Raises:
            StorageError: The disk is full or failing; nothing was kept.
        """
        shortage = self.shortage(len(payload))
        if shortage:
            raise StorageError(
                f"cannot keep {len(payload)} bytes in the spool: {shortage}; free space"
            )
        part = self.begin()
        try:
            part.write(payload)
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
            _sync_folder(str(self._folder))


def read_verified(path: Path, digest: str) -> bytes:
    """The content of `path` if `digest` names it.

    Raises:
        IntegrityError: The file is missing, unreadable or changed.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise _unreadable(digest, error) from None
    if not is_digest_of(payload, digest):
        raise _changed(digest)
    return payload


def require_unchanged(path: Path, digest: str) -> None:
    """Read a file of any size piece by piece, and return if `digest` names its content.

    Raises:
        IntegrityError: The file is missing or changed.
        TemporaryError: It cannot be read now; counted unless descriptors are lacking, so that a
            sector that is lost does not keep its study waiting for ever.
    """
    try:
        is_unchanged = is_digest_of_file(path, digest)
    except FileNotFoundError as error:
        raise _unreadable(digest, error) from None
    except OSError as error:
        raise TemporaryError(
            str(_unreadable(digest, error)), is_counted=error.errno not in _NO_DESCRIPTORS
        ) from None
    if not is_unchanged:
        raise _changed(digest)


def _unreadable(digest: str, error: OSError) -> IntegrityError:
    return IntegrityError(
        f"cannot read the file {digest[:12]} ({error_name(error)}); restore it from a backup"
    )


def _changed(digest: str) -> IntegrityError:
    return IntegrityError(
        f"the file {digest[:12]} is not what was received: its digest changed;"
        " check the disk and restore it from a backup"
    )


def _sync_folder(folder: str) -> None:
    # A rename is durable only once the folder itself is.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_keep(error) from None
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise fsync_failed(error) from None
    finally:
        os.close(descriptor)
