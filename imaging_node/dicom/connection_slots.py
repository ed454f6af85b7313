"""How many connections are served at a time, in total and from one address.

The counts are kept in a file that all receiver processes of a node share, because the kernel
hands connections of one listening socket to whichever process is free.
"""

from __future__ import annotations

import fcntl
import ipaddress
import mmap
import os
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imaging_node.domain.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SLOT = struct.Struct("<I16s")
_FREE = bytes(_SLOT.size)


class ConnectionSlots:
    """Owns a table of the connections being served; safe among threads and processes.

    A slot of a process that has died is free again.
    """

    def __init__(self, path: Path, *, total: int, per_address: int) -> None:
        """Open, or create, the table.

        Raises:
            StorageError: The file cannot be used.
        """
        self._per_address = per_address
        self._total = total
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._descriptor, total * _SLOT.size)
            self._table = mmap.mmap(self._descriptor, total * _SLOT.size)
        except OSError as error:
            raise StorageError(
                f"cannot use {path} ({error.strerror}); check the state directory"
            ) from error

    def take(self, address: str) -> int | None:
        """A slot for a connection from `address`, or None when a limit is reached."""
        key = _key(address)
        with self._alone():
            free, from_address, alive = None, 0, {os.getpid(): True}
            for number in range(self._total):
                pid, taken_by = _SLOT.unpack_from(self._table, number * _SLOT.size)
                if pid and not _is_alive(pid, alive):
                    self._clear(number)
                    pid = 0
                if not pid:
                    free = number if free is None else free
                elif taken_by == key:
                    from_address += 1
            if free is None or from_address >= self._per_address:
                return None
            _SLOT.pack_into(self._table, free * _SLOT.size, os.getpid(), key)
            return free

    def give_back(self, slot: int) -> None:
        """Free a slot that `take` gave."""
        with self._alone():
            self._clear(slot)

    def close(self) -> None:
        """Let go of the table."""
        self._table.close()
        os.close(self._descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # flock excludes other processes, the lock other threads, which share the descriptor.
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _clear(self, slot: int) -> None:
        self._table[slot * _SLOT.size : (slot + 1) * _SLOT.size] = _FREE


def _key(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return packed.rjust(16, b"\0")


def _is_alive(pid: int, known: dict[int, bool]) -> bool:
    if pid not in known:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            known[pid] = False
        except PermissionError:
            known[pid] = True
        else:
            known[pid] = True
    return known[pid]
