"""Memory in which the fragments of a dataset lie one behind the other until they are written."""

from __future__ import annotations


class Gathering:
    """Owns one piece of memory that an association uses again and again.

    A call of the system or of the hash hands Python's lock to another thread, and a large
    allocation stops all of them: one copy here saves several of both.
    """

    def __init__(self, size_bytes: int) -> None:
        self._memory = memoryview(bytearray(size_bytes))
        self._used = 0

    def has_room(self, fragment: memoryview) -> bool:
        """Whether `add` may be called."""
        return self._used + len(fragment) <= len(self._memory)

    def add(self, fragment: memoryview) -> None:
        """Copy a fragment behind those before."""
        end = self._used + len(fragment)
        self._memory[self._used : end] = fragment
        self._used = end

    def take(self) -> memoryview:
        """What was gathered; it stands until the next `add`."""
        gathered, self._used = self._memory[: self._used], 0
        return gathered
