"""One decoder process as the node sees it: what it says is checked like what a peer says."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imaging_node.dicom.decoder_process import MESSAGE_BYTES
from imaging_node.dicom.shared_pixels import SharedPixels
from imaging_node.domain.errors import NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    from imaging_node.dicom.forking import ForkServer
    from imaging_node.domain.finding import FloatImage

DECODES_PER_PROCESS: Final = 500
KEPT_MEMORY_BYTES: Final = 256 * 2**20
"""A process that holds more than this above its start is replaced."""

_START_LIMIT_S: Final = 10.0
_FLOAT_BYTES: Final = 4
_LONGEST_SIDE: Final = 65535  # Rows and Columns are US: PS3.3 C.7.6.3
_LONGEST_DETAIL: Final = 200
_LARGEST_ASPECT: Final = 10.0
_LARGEST_VALUE: Final = 2.0**40  # far beyond what 32 bits and any sane slope make
_SPARE_MEMORIES: Final = 2
_MOST_LENT: Final = 8
"""Images of one decoder that may be looked at in its memories; each takes two descriptors."""
_LEAST_WAIT_S: Final = 0.001  # a timeout of 0 would mean not to wait but to fail
_LARGEST_SPARE_BYTES: Final = 64 * 2**20


class DecoderEndedError(Exception):
    """The process died, was too slow, exceeded a limit, or answered nonsense."""


class DecoderReadingError(DecoderEndedError):
    """The process says that it cannot read the file, which the node must see for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a decoder.

    Attributes:
        path: The file.
        frame: Number of the frame to decode, from 1; None for a file with one.
        counts: Only say how many frames there are.
        is_presented: False for modality values instead of P-Values.
    """

    path: Path
    frame: int | None = None
    is_presented: bool = True
    counts: bool = False


class Decoder:
    """Owns one decoder process, the socket to it and the memories that only it may fill.

    A memory goes to no other decoder, so that one that was taken over by a hostile image could
    spoil its own images and none of another's.

    Raises:
        TemporaryError: The process did not start, or not confined.
    """

    def __init__(self, server: ForkServer, *, frame_limit_samples: int) -> None:
        self._server = server
        self.process, self._link = server.fork()
        self._frame_limit_samples = frame_limit_samples
        self._spare: deque[SharedPixels] = deque()
        self._lent: set[SharedPixels] = set()
        self._decodes = 0
        self._rss_bytes = 0
        try:
            self._receive(time.monotonic() + _START_LIMIT_S)
        except DecoderEndedError as error:
            # It has seen no file, so none is to blame.
            self.kill()
            raise TemporaryError(
                "A decoder process did not start; see the log", is_counted=False
            ) from error
        self._started_rss_bytes = self._rss_bytes

    @property
    def is_worn(self) -> bool:
        """True when the process should be replaced so that its memory returns."""
        grown = self._rss_bytes - self._started_rss_bytes
        return self._decodes >= DECODES_PER_PROCESS or grown > KEPT_MEMORY_BYTES

    def decode(self, request: Request, *, deadline: float) -> tuple[FloatImage, float]:
        """Pixels and aspect of a frame.

        Args:
            deadline: On the monotonic clock.

        Raises:
            DecoderEndedError: There is no answer, and the process must be killed.
            NotAnalysedError: The process refused the file.
            TemporaryError: The node has no memory or descriptor left for the pixels.
        """
        size = self._ask(request, deadline)
        rows, columns = (_whole(size, key, most=_LONGEST_SIDE) for key in ("rows", "columns"))
        if rows * columns > self._frame_limit_samples:
            raise DecoderEndedError
        memory = self._memory(rows * columns * _FLOAT_BYTES)
        try:
            socket.send_fds(self._link, [b"m"], [memory.descriptor])
        except OSError as error:
            raise DecoderEndedError from error
        aspect = self._receive(deadline).get("aspect")
        self._lent.add(memory)
        pixels = memory.image(rows, columns, release=self._keep)
        is_sound = isinstance(aspect, float) and 0 < aspect <= _LARGEST_ASPECT
        low, high = (0, 1) if request.is_presented else (-_LARGEST_VALUE, _LARGEST_VALUE)
        if not is_sound or not (pixels.min() >= low and pixels.max() <= high):  # NaN fails
            raise DecoderEndedError
        assert isinstance(aspect, float)
        # A series that is held as a whole must not take the node's last descriptor.
        return (pixels.copy() if len(self._lent) > _MOST_LENT else pixels), aspect

    def count_frames(self, request: Request, *, deadline: float) -> int:
        """How many frames a file says it holds.

        Raises:
            As `decode`.
        """
        return _whole(self._ask(request, deadline), "frames", most=2**31 - 1)

    def has_lost_server(self) -> bool:
        """Whether this process ended because what it was forked from did."""
        return self._server.ends_now()

    def interrupt(self) -> None:
        """Kill the process under a thread that waits for it and will clean up."""
        self.process.kill()

    def kill(self) -> None:
        """Kill the process and close the socket."""
        self.process.bury()
        self._link.close()
        self._spare.clear()

    def _ask(self, request: Request, deadline: float) -> dict[str, Any]:
        self._decodes += 1
        message = {
            "path": str(request.path.absolute()),
            "frame": request.frame,
            "counts": request.counts,
            "is_presented": request.is_presented,
            "cpu_s": max(0.0, deadline - time.monotonic()),
        }
        try:
            self._link.settimeout(max(_LEAST_WAIT_S, deadline - time.monotonic()))
            self._link.send(json.dumps(message).encode())
        except OSError as error:
            raise DecoderEndedError from error
        return self._receive(deadline)

    def _receive(self, deadline: float) -> dict[str, Any]:
        try:
            self._link.settimeout(max(_LEAST_WAIT_S, deadline - time.monotonic()))
            message = json.loads(self._link.recv(MESSAGE_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise DecoderEndedError from error
        if not isinstance(message, dict) or "exceeded" in message:
            raise DecoderEndedError
        if "failed" in message:
            raise DecoderReadingError
        if "rss" in message:
            self._rss_bytes = _whole(message, "rss", least=0, most=2**62)
        if "reason" in message:
            raise _refusal(message)
        return message

    def _memory(self, least_bytes: int) -> SharedPixels:
        with contextlib.suppress(IndexError):
            memory = self._spare.popleft()
            if least_bytes <= memory.size_bytes:
                return memory
        try:
            return SharedPixels(least_bytes)
        except OSError as error:
            raise TemporaryError(
                "There is no memory for pixels; try again", is_counted=False
            ) from error

    def _keep(self, memory: SharedPixels) -> None:
        """Use a memory again, as soon as no array looks at it any more."""
        self._lent.discard(memory)
        if len(self._spare) < _SPARE_MEMORIES and memory.size_bytes <= _LARGEST_SPARE_BYTES:
            self._spare.append(memory)


def _whole(message: dict[str, Any], key: str, *, most: int, least: int = 1) -> int:
    value = message.get(key)
    if type(value) is not int or not least <= value <= most:
        raise DecoderEndedError
    return value


def _refusal(message: dict[str, Any]) -> NotAnalysedError:
    try:
        reason = NotAnalysedReason[message["reason"]]
    except (KeyError, TypeError) as error:
        raise DecoderEndedError from error
    return NotAnalysedError(str(message.get("detail"))[:_LONGEST_DETAIL], reason=reason)
