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
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_node.domain.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Process id, when that process began, and the address.
_SLOT = struct.Struct("<IQ16s")
_FREE = bytes(_SLOT.size)


class ConnectionSlots:
    """Owns a table of the connections being served; safe among threads and processes.

    A slot of a process that has died is free again, also when another one got its number: after
    a restart of the machine, or of a container, the numbers are the same.
    """

    def __init__(self, path: Path, *, total: int, per_address: int) -> None:
        """Open, or create, the table.

        Raises:
            StorageError: The file cannot be used.
        """
        self._per_address = per_address
        self._total = total
        self._lock = threading.Lock()
        self._began = _began(os.getpid()) or 0
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
            free, from_address = None, 0
            known: dict[int, int | None] = {os.getpid(): self._began}
            for number in range(self._total):
                pid, began, taken_by = _SLOT.unpack_from(self._table, number * _SLOT.size)
                if pid and pid not in known:
                    known[pid] = _began(pid)
                if pid and known[pid] != began:
                    self._clear(number)
                    pid = 0
                if not pid:
                    free = number if free is None else free
                elif taken_by == key:
                    from_address += 1
            if free is None or from_address >= self._per_address:
                return None
            _SLOT.pack_into(self._table, free * _SLOT.size, os.getpid(), self._began, key)
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


def _began(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # Field 22 of proc(5); the name before it may hold anything, and ends at the last bracket.
    return int(text.rpartition(")")[2].split()[19])
