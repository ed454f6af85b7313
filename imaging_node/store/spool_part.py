"""A file of the spool while it is written: gathered in memory, then past the page cache.

Written around the page cache (O_DIRECT), an instance costs no second copy and drives nothing else
out of memory; and whoever verifies it later reads what the disk holds, not what was meant for it.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import contextmanager, suppress
from fcntl import F_SETFL, fcntl
from typing import TYPE_CHECKING

from imaging_node.domain.errors import DurabilityError, StorageError
from imaging_node.store.content_digest import begin_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Room for a whole CT slice of 512 x 512: hashed in one call and written in one.
_MEMORY_BYTES = 5 * 128 * 1024
# What is written past the page cache begins and ends at blocks of the disk, in memory as in the
# file: no disk in use has longer ones.
_BLOCK_BYTES = 4096
# A shorter file is written faster through the page cache.
_LEAST_DIRECT_BYTES = 256 * 1024
# More than most headers need.
_BEGINNING_BYTES = 32 * 1024
_MOST_KEPT = 16
# Of Linux, and not of all its file systems.
_O_DIRECT = getattr(os, "O_DIRECT", 0)


class Memories:
    """Owns pieces of memory for parts under way, used again: a fresh one costs a fault a page."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """640 KiB that begin at a page; what lies in them is of no meaning."""
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, _MEMORY_BYTES))

    def give_back(self, memory: memoryview) -> None:
        """Keep it for the next part, unless there are enough."""
        if len(self._free) < _MOST_KEPT:
            self._free.append(memory)


class SpoolPart:
    """Owns a file under way; `Spool.settle` gives it its name, `discard` removes it.

    Attributes:
        size_bytes: Given so far.
    """

    def __init__(self, path: str, memories: Memories) -> None:
        self._path = path
        self._memories = memories
        self._memory: memoryview | None = memories.take()
        self._used = 0
        self._descriptor = -1
        self._is_direct = False
        self._is_moved = False
        self._digest = begin_digest()
        self._beginning = b""
        self.size_bytes = 0

    def write(self, piece: bytes | memoryview) -> None:
        """Append `piece`; the file is made when the memory is full, or by `finish`.

        Raises:
            StorageError: The disk is full or failing.
        """
        memory = self._memory
        assert memory is not None  # nothing follows `finish`
        self.size_bytes += len(piece)
        left = memoryview(piece)
        while left:
            count = min(len(left), len(memory) - self._used)
            memory[self._used : self._used + count] = left[:count]
            self._used += count
            left = left[count:]
            if self._used == len(memory):
                self._empty(memory)

    @property
    def beginning(self) -> bytes:
        """The first 32 KiB of what was given, or all of it."""
        if self._beginning or self._memory is None:
            return self._beginning
        return bytes(self._memory[: min(self._used, _BEGINNING_BYTES)])

    @contextmanager
    def mapped(self) -> Iterator[mmap.mmap]:
        """All that was given, as memory that is read from the disk where it is touched.

        Raises:
            StorageError: It cannot be written or mapped.
        """
        self.finish()
        try:
            whole = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"cannot read an instance in the spool ({type(error).__name__}); check the disk"
            ) from None
        with whole:
            yield whole

    def finish(self) -> str:
        """Write what is left in memory.

        Returns:
            The digest of all that was given, 64 hex digits.

        Raises:
            StorageError: The disk is full or failing.
        """
        if self._memory is not None:
            self._empty(self._memory)
            self._let_go()
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Return once the content survives a power failure.

        Raises:
            DurabilityError: The fsync failed.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise fsync_failed(error) from None

    def take_name(self, path: str) -> bool:
        """Be found at `path` unless a file is there already; raises OSError.

        A rename would put this copy, not durable yet, over one that another has just answered
        for.
        """
        try:
            os.link(self._path, path)
        except FileExistsError:
            return False
        return True

    def replace(self, path: str) -> None:
        """Take the place of the file at `path`; raises OSError."""
        os.rename(self._path, path)  # noqa: PTH104 - `Path` costs more than the call it makes
        self._is_moved = True

    def discard(self) -> None:
        """Close the file and take away the name that it had under way."""
        self._let_go()
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if not self._is_moved:
            with suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108 - as above

    def _let_go(self) -> None:
        if self._memory is not None:
            self._memories.give_back(self._memory)
            self._memory = None

    def _empty(self, memory: memoryview) -> None:
        """Hash and write what was gathered."""
        gathered, self._used = memory[: self._used], 0
        self._digest.update(gathered)
        try:
            if self._descriptor < 0:
                self._beginning = bytes(gathered[:_BEGINNING_BYTES])
                self._open(is_direct=len(gathered) >= _LEAST_DIRECT_BYTES)
            if self._is_direct:
                blocks = len(gathered) - len(gathered) % _BLOCK_BYTES
                self._put(gathered[:blocks])
                gathered = gathered[blocks:]
                if gathered:  # the end of the file, within a block
                    self._go_through_cache()
            self._put(gathered)
        except OSError as error:
            raise cannot_keep(error) from None

    def _open(self, *, is_direct: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        if is_direct and _O_DIRECT:
            try:
                self._descriptor = os.open(self._path, flags | _O_DIRECT, 0o600)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                with suppress(FileNotFoundError):  # some file systems make it and then refuse
                    os.unlink(self._path)  # noqa: PTH108 - as above
            else:
                self._is_direct = True
                return
        self._descriptor = os.open(self._path, flags, 0o600)

    def _put(self, piece: memoryview) -> None:
        while piece:
            try:
                # A disk that fills up takes a part before it says so.
                count = os.write(self._descriptor, piece)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._go_through_cache()  # this file system wants other blocks
                continue
            piece = piece[count:]

    def _go_through_cache(self) -> None:
        fcntl(self._descriptor, F_SETFL, 0)
        self._is_direct = False


def cannot_keep(error: OSError) -> StorageError:
    """What to say of a write that failed."""
    return StorageError(
        f"cannot keep an instance in the spool ({error_name(error)});"
        " free space on the disk of the state directory, or replace it"
    )


def fsync_failed(error: OSError) -> DurabilityError:
    """What to say of an fsync that failed."""
    return DurabilityError(
        f"the disk of the state directory did not take what was written ({error_name(error)});"
        " check it before anything else"
    )


def error_name(error: OSError) -> str:
    """Its symbol, e.g. ENOSPC; the message may hold a path."""
    return errno.errorcode.get(error.errno or 0, "unknown")
