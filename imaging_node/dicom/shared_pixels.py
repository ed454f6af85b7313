"""Memory that one decoder fills and the node reads: pixels cross no pipe and are not copied.

The node makes and seals it, so that nobody can shrink it under the node's mapping, which would
end the node with SIGBUS. A decoder that dies leaves it as it is.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import weakref
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.domain.finding import FloatImage

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_GRANULE_BYTES: Final = 2**20
_FLOAT_BYTES: Final = 4


class SharedPixels:
    """Owns a sealed memory file and the node's own mapping of it, which cannot write.

    Attributes:
        descriptor: To be handed to the one decoder that fills it.
        size_bytes: A multiple of 1 MiB.
    """

    def __init__(self, least_bytes: int) -> None:
        self.size_bytes = -(-least_bytes // _GRANULE_BYTES) * _GRANULE_BYTES
        self.descriptor = os.memfd_create("p-values", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, self.size_bytes)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._mapping = mmap.mmap(
            self.descriptor, self.size_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ
        )

    def image(
        self, rows: int, columns: int, *, release: Callable[[SharedPixels], None]
    ) -> FloatImage:
        """What the decoder wrote, shape (rows, columns), read only.

        Args:
            release: Called with this memory when no array looks at it any more; any thread may
                be the one that calls, at any time, so it must not wait for a lock.
        """
        values = np.frombuffer(self._mapping, np.float32, rows * columns)
        # Views keep this array alive as their base, so it goes last.
        weakref.finalize(values, release, self).atexit = False
        return values.reshape(rows, columns)


def receive(
    link: socket.socket, rows: int, columns: int, *, admit: Callable[[int], None]
) -> FloatImage:
    """In the decoder: the image to write; it is unmapped when no array looks at it any more.

    Args:
        link: The next message on it brings the memory.
        admit: Called with the size before it is mapped.

    Raises:
        OSError: No memory came, or it may not be mapped.
    """
    _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
    (descriptor,) = descriptors
    length = rows * columns * _FLOAT_BYTES
    admit(length)
    # Populated at once: a page fault for each 4 KiB costs three times as much.
    mapping = mmap.mmap(descriptor, length, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    os.close(descriptor)
    return np.frombuffer(mapping, np.float32).reshape(rows, columns)
