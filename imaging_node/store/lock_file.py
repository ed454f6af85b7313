"""Locks between processes that end with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LockFile:
    """Owns the descriptor of a lock file, which children do not inherit.

    Until `close`, or else the end of the process, the lock is held: an object that is dropped
    keeps it.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises OSError."""
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)

    def take(self) -> bool:
        """Hold it alone; False when another process holds it, alone or shared."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def share(self) -> None:
        """Hold it together with others, once nobody holds it alone."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def mark(self, text: str) -> None:
        """Leave a word for the next holder."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def marked(self) -> str:
        """The word that the last holder left."""
        return os.pread(self._descriptor, 256, 0).decode("utf-8", "replace")

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)
