"""Pixels decoded in processes that may be killed: a bomb ends a child, never the node."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from imaging_node.dicom.decoder_process import HEADER_LENGTH
from imaging_node.dicom.pixels import MAXIMUM_PIXELS
from imaging_node.domain.errors import IntegrityError, NotAnalysedError, TemporaryError
from imaging_node.domain.finding import FloatImage, NotAnalysedReason
from imaging_node.domain.image import DecodedImage

START_LIMIT_S: Final = 60.0
DECODES_PER_PROCESS: Final = 500
KEPT_MEMORY_BYTES: Final = 256 * 2**20
"""A process that holds more than this above its start is replaced."""

_HEADER_LIMIT_BYTES: Final = 4096
_PIPE_BYTES: Final = 2**20
_PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]


class _DecoderEndedError(Exception):
    """The process died, was too slow, or answered nonsense."""


class _Decoder:
    """One decoder process and its pipes."""

    def __init__(self, *, memory_limit_bytes: int, time_limit_s: float) -> None:
        code = (
            f"import sys; sys.path.insert(0, {str(_PACKAGE_PARENT)!r})\n"
            "from imaging_node.dicom.decoder_process import main\n"
            f"main(parent_pid={os.getpid()}, memory_limit_bytes={memory_limit_bytes},"
            f" time_limit_s={time_limit_s})"
        )
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # a limit of the system; only speed is lost
                fcntl.fcntl(self._answers, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._decodes = 0
        self._rss_bytes = self._started_rss_bytes = 0

    def wait_until_ready(self) -> None:
        """Return once the imports are done.

        Raises:
            _DecoderEndedError: The process did not come up.
        """
        self._started_rss_bytes = self._receive_header(time.monotonic() + START_LIMIT_S)["rss"]

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_worn(self) -> bool:
        """True when the process should be replaced so that its memory returns."""
        grown = self._rss_bytes - self._started_rss_bytes
        return self._decodes >= DECODES_PER_PROCESS or grown > KEPT_MEMORY_BYTES

    def decode(self, path: Path, *, deadline: float) -> tuple[FloatImage, float]:
        """Pixels and aspect of a file.

        Raises:
            _DecoderEndedError: The process died or `deadline` passed.
            NotAnalysedError: The process refused the file.
            TemporaryError: The process was gone before it was asked.
        """
        self._decodes += 1
        request = json.dumps({"path": str(path.absolute())}).encode() + b"\n"
        try:
            self._requests.write(request)
        except OSError as error:
            # It died before it saw this file, which is therefore not to blame.
            raise TemporaryError("A decoder process was killed; try again") from error
        header = self._receive_header(deadline)
        self._rss_bytes = header["rss"]
        if "reason" in header:
            raise NotAnalysedError(header["detail"], reason=NotAnalysedReason[header["reason"]])
        rows, columns = header["rows"], header["columns"]
        if not 0 < rows * columns <= MAXIMUM_PIXELS:
            raise _DecoderEndedError
        pixels = np.empty((rows, columns), np.float32)
        self._receive(pixels.data.cast("B"), deadline)
        return pixels, header["aspect"]

    def interrupt(self) -> None:
        """Kill the process under a thread that waits for it and will clean up."""
        self._process.kill()

    def kill(self) -> None:
        """Kill the process and close its pipes."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._requests.close()
        self._process.wait()
        self._answers.close()

    def _receive_header(self, deadline: float) -> dict[str, Any]:
        prefix = bytearray(HEADER_LENGTH.size)
        self._receive(memoryview(prefix), deadline)
        (length,) = HEADER_LENGTH.unpack(prefix)
        if length > _HEADER_LIMIT_BYTES:
            raise _DecoderEndedError
        text = bytearray(length)
        self._receive(memoryview(text), deadline)
        try:
            header: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise _DecoderEndedError from error
        return header

    def _receive(self, view: memoryview, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while view:
            remaining_ms = max(0.0, (deadline - time.monotonic()) * 1000)
            if not poll.poll(remaining_ms):
                raise _DecoderEndedError
            count = os.readv(self._answers.fileno(), [view])
            if count == 0:
                raise _DecoderEndedError
            view = view[count:]


class DecodingPool:
    """Up to `processes` decoder processes, started when needed; safe to share by threads.

    Attributes are fixed at construction:
        processes: Most files decoded at the same time.
        memory_limit_bytes: What a decode may allocate above the imports of its process.
        time_limit_s: Wall-clock and processor seconds for one file.
    """

    def __init__(self, *, processes: int, memory_limit_bytes: int, time_limit_s: float) -> None:
        self._memory_limit_bytes = memory_limit_bytes
        self._time_limit_s = time_limit_s
        self._slots = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()
        self._is_closed = False
        # On Linux a child gets its parent-death signal when the *thread* that started it ends,
        # so one thread that lives as long as the pool starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")

    def decode(self, path: Path, sop_instance_uid: str) -> DecodedImage:
        """P-Values of the file at `path`, which holds one grayscale frame.

        Raises:
            NotAnalysedError: The pixels are missing, not one grayscale frame, or cannot be
                decoded within the limits.
            IntegrityError: The file is gone.
            TemporaryError: The pool is closed, or no process could be started.
        """
        if not path.is_file():
            raise IntegrityError("a spooled file is gone; restore it from a backup")
        with self._slots:
            decoder = self._take()
            is_usable = False
            try:
                deadline = time.monotonic() + self._time_limit_s
                pixels, aspect = decoder.decode(path, deadline=deadline)
                is_usable = not decoder.is_worn
            except _DecoderEndedError as error:
                if self._is_closed:
                    raise TemporaryError("The decoders are stopping; try again") from error
                raise NotAnalysedError(
                    "the decoder died or exceeded its limits",
                    reason=NotAnalysedReason.UNDECODABLE,
                ) from error
            except NotAnalysedError:
                is_usable = not decoder.is_worn
                raise
            finally:
                self._give_back(decoder, is_usable=is_usable)
        return DecodedImage(
            sop_instance_uid=sop_instance_uid, p_values=pixels, row_to_column_spacing=aspect
        )

    def close(self) -> None:
        """Kill every process; later calls of `decode` raise TemporaryError."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for decoder in self._all.difference(idle):
                decoder.interrupt()
            self._all.clear()
        for decoder in idle:
            decoder.kill()
        self._starter.shutdown()

    def _take(self) -> _Decoder:
        with self._lock:
            if self._is_closed:
                raise TemporaryError("The decoders are stopping; try again")
            while self._idle:
                decoder = self._idle.pop()
                if decoder.is_alive:
                    return decoder
                self._all.discard(decoder)
                decoder.kill()
            starting = self._starter.submit(
                _Decoder,
                memory_limit_bytes=self._memory_limit_bytes,
                time_limit_s=self._time_limit_s,
            )
            decoder = starting.result()
            self._all.add(decoder)
        try:
            decoder.wait_until_ready()
        except _DecoderEndedError as error:
            self._give_back(decoder, is_usable=False)
            raise TemporaryError("A decoder process did not start; see `doctor`") from error
        return decoder

    def _give_back(self, decoder: _Decoder, *, is_usable: bool) -> None:
        with self._lock:
            if is_usable and not self._is_closed:
                self._idle.append(decoder)
                return
            self._all.discard(decoder)
        decoder.kill()
