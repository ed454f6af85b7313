"""What codecs write to standard output and error: the only way some of them tell of damage.

libjpeg fills what is missing with grey, writes "Corrupt JPEG data" and calls that a success. The
text itself goes nowhere: it may quote a header.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from typing import Final

_LONGEST_READ: Final = 65536
# GDCM asks its codec for 8 bits whether it can read the frame before it asks the one for 12; an
# encoder of radiographs states spectral selection where there is none, which codecs ignore.
_HARMLESS: Final = re.compile(
    rb"^(Unsupported JPEG data precision \d+|Invalid SOS parameters for sequential JPEG)\n",
    re.MULTILINE,
)


class CodecOutput:
    """Owns a pipe that stands where standard output and error were; for a process of one thread.

    What Python itself prints or warns of goes to neither, so that it counts as no codec's word.
    """

    def __init__(self) -> None:
        self._flush = ctypes.CDLL(None).fflush
        # Nobody reads while a codec writes, so a pipe that is full must not make it wait.
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def stand_in(self) -> None:
        """Take the place of standard output and error, from now on and for good."""
        python_output = os.fdopen(self._nowhere, "w", encoding="utf-8")
        sys.stdout = sys.stderr = python_output
        self._flush(None)
        os.dup2(self._nowhere, 0)
        os.dup2(self._writing, 1)
        os.dup2(self._writing, 2)
        os.close(self._writing)

    def take(self) -> bool:
        """Whether a codec wrote anything since the last call that may tell of damage."""
        self._flush(None)
        written = bytearray()
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._reading, _LONGEST_READ):
                written += more
        return bool(_HARMLESS.sub(b"", bytes(written)))
