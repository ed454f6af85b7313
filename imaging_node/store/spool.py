"""The spool: immutable files named by the SHA-256 of their content."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING

from imaging_node.domain.errors import IntegrityError, StorageError

if TYPE_CHECKING:
    from pathlib import Path


class Spool:
    """A folder of files that are durable once `write` has returned, and never change."""

    def __init__(self, folder: Path, *, min_free_bytes: int) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the file with this digest lies, whether it exists or not."""
        return self._folder / digest[:2] / f"{digest}.dcm"

    def write(self, payload: bytes) -> str:
        """Keep `payload`; on return it survives a power failure.

        Returns:
            Its SHA-256, 64 hex digits.

        Raises:
            StorageError: The disk is full or failing; nothing was kept.
        """
        digest = sha256(payload).hexdigest()
        path = self.path(digest)
        try:
            if _is_whole(path, digest):
                # Whoever renamed it may not have come to the folder yet.
                _sync_folder(path.parent)
                return digest
            self._require_free_space(len(payload))
            self._write_durably(path, payload)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "unknown")
            raise StorageError(
                f"cannot keep {len(payload)} bytes in the spool ({reason});"
                " free space on the disk of the state directory"
            ) from None
        return digest

    def read(self, digest: str) -> bytes:
        """The content of a kept file, its digest checked.

        Raises:
            IntegrityError: The file is missing or is not what was kept.
        """
        return read_verified(self.path(digest), digest)

    def _require_free_space(self, size_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes - size_bytes < self._min_free_bytes:
            raise StorageError(
                f"cannot keep {size_bytes} bytes in the spool: {free_bytes} bytes are free and"
                f" {self._min_free_bytes} must remain (spool.min_free_bytes); free space"
            )

    def _write_durably(self, path: Path, payload: bytes) -> None:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self._folder)
        part = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")
        try:
            with open(part, "wb", opener=_private) as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def read_verified(path: Path, digest: str) -> bytes:
    """The content of `path` if its SHA-256 is `digest`.

    Raises:
        IntegrityError: The file is missing, unreadable or changed.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "unknown")
        raise IntegrityError(
            f"cannot read the file {digest[:12]} ({reason}); restore it from a backup"
        ) from None
    if sha256(payload).hexdigest() != digest:
        raise IntegrityError(
            f"the file {digest[:12]} is not what was received: its digest changed;"
            " check the disk and restore it from a backup"
        )
    return payload


def _is_whole(path: Path, digest: str) -> bool:
    """Whether the file is there and undamaged: a good copy must never yield to a bad one."""
    try:
        read_verified(path, digest)
    except IntegrityError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    # A rename is durable only once the folder itself is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
