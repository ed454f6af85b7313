"""Pixels decoded in processes that may be killed: a bomb ends a child, never the node."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from imaging_node.dicom.decoder import (
    Decoder,
    DecoderEndedError,
    DecoderReadingError,
    Request,
)
from imaging_node.dicom.decoding_budget import DecodingBudget
from imaging_node.dicom.forking import ForkServer
from imaging_node.domain.errors import IntegrityError, NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.image import DecodedImage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeVar

    from imaging_node.domain.finding import FloatImage

    Answer = TypeVar("Answer")

FIRST_TRY: Final = 0.75
"""Part of the time limit after which a first try is given up: a slow image gets most of it, and
one that hung by accident needs little of the rest."""

_DEFAULT_BUDGET: Final = DecodingBudget()
_CHUNK_BYTES: Final = 2**20


class DecodingPool:
    """Up to `processes` decoder processes, started when needed; safe to share by threads.

    Attributes are fixed at construction:
        processes: Most files decoded at the same time.
        memory_limit_bytes: What a decode may allocate above the imports of its process and
            the pixels that it hands over.
        time_limit_s: Wall-clock and processor seconds for one file, both tries together.
        budget: What a file may claim before it is decoded.
    """

    def __init__(
        self,
        *,
        processes: int,
        memory_limit_bytes: int,
        time_limit_s: float,
        budget: DecodingBudget = _DEFAULT_BUDGET,
    ) -> None:
        self._memory_limit_bytes = memory_limit_bytes
        self._time_limit_s = time_limit_s
        self._budget = budget
        self._slots = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[Decoder] = []
        self._all: set[Decoder] = set()
        self._server: ForkServer | None = None
        self._starts = 0
        self._is_closed = False
        # On Linux a child gets its parent-death signal when the *thread* that started it ends,
        # so one thread that lives as long as the pool starts the fork server.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")

    @property
    def starts(self) -> int:
        """Decoder processes started so far: more than the pool's size means deaths, or wear."""
        return self._starts

    def decode(
        self, path: Path, sop_instance_uid: str, *, frame: int | None = None
    ) -> DecodedImage:
        """P-Values of one grayscale frame of the file at `path`.

        Args:
            frame: Its number, from 1. None: the file's only one, several are refused.

        Raises:
            NotAnalysedError: The pixels are missing, not grayscale, not one frame, or cannot be
                decoded within the limits, in two processes one after the other.
            IntegrityError: The file is gone.
            TemporaryError: The pool is closed, no process could be started, or the file cannot
                be read; counted only if no decoder can read what the node can.
        """
        pixels, aspect = self._ask(Request(path=path, frame=frame), Decoder.decode)
        return DecodedImage(
            sop_instance_uid=sop_instance_uid, p_values=pixels, row_to_column_spacing=aspect
        )

    def modality_values(self, path: Path) -> FloatImage:
        """Values of a file's only frame after Modality LUT or rescale: HU for CT.

        Raises:
            NotAnalysedError, IntegrityError, TemporaryError: As `decode`.
        """
        pixels, _ = self._ask(Request(path=path, is_presented=False), Decoder.decode)
        return pixels

    def count_frames(self, path: Path) -> int:
        """How many frames the file at `path` says it holds; `decode` may still refuse them.

        Raises:
            NotAnalysedError: There is no pixel data, or the header exceeds the budget.
            IntegrityError, TemporaryError: As `decode`.
        """
        return self._ask(Request(path=path, counts=True), Decoder.count_frames)

    def close(self) -> None:
        """Kill every process; later calls of `decode` raise TemporaryError."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for decoder in self._all.difference(idle):
                decoder.interrupt()
            self._all.clear()
            server, self._server = self._server, None
        for decoder in idle:
            decoder.kill()
        if server is not None:
            server.close()
        self._starter.shutdown()

    def _ask(self, request: Request, how: Callable[..., Answer]) -> Answer:
        """The answer of a decoder, or of a fresh one when it ended over the file."""
        _require_there(request.path)
        with self._slots:
            decoder = self._take()
            begun = time.monotonic()
            until = begun + FIRST_TRY * self._time_limit_s
            try:
                return self._ask_once(decoder, request, how, until)
            except DecoderEndedError:
                left_s = self._time_limit_s - (time.monotonic() - begun)
                is_image_at_fault = not decoder.has_lost_server()
            decoder = self._fork()
            try:
                return self._ask_once(decoder, request, how, time.monotonic() + left_s)
            except DecoderEndedError as error:
                if self._is_closed:
                    raise _stopping() from error
                if not is_image_at_fault or decoder.has_lost_server():
                    # It ended all decoders at work, so neither try says anything of the image.
                    raise TemporaryError(
                        "The decoders were ended; try again", is_counted=False
                    ) from error
                _require_readable(request.path)
                if isinstance(error, DecoderReadingError):
                    raise TemporaryError(
                        "The decoders cannot read a file that the node can; see `doctor`"
                    ) from error
                raise NotAnalysedError(
                    "two decoders died or exceeded their limits",
                    reason=NotAnalysedReason.UNDECODABLE,
                ) from error

    def _ask_once(
        self, decoder: Decoder, request: Request, how: Callable[..., Answer], deadline: float
    ) -> Answer:
        is_usable = False
        try:
            answer = how(decoder, request, deadline=deadline)
            is_usable = not decoder.is_worn
        except NotAnalysedError:
            is_usable = not decoder.is_worn
            raise
        finally:
            self._give_back(decoder, is_usable=is_usable)
        return answer

    def _take(self) -> Decoder:
        with self._lock:
            while self._idle:
                decoder = self._idle.pop()
                if decoder.process.is_alive:
                    return decoder
                self._all.discard(decoder)
                decoder.kill()
        return self._fork()

    def _fork(self) -> Decoder:
        """A fresh decoder process.

        Raises:
            TemporaryError: The pool is closed, or no process could be started.
        """
        server = self._running_server()
        decoder = Decoder(server, frame_limit_samples=self._budget.frame_samples)
        with self._lock:
            self._starts += 1
            if not self._is_closed:
                self._all.add(decoder)
                return decoder
        decoder.kill()
        raise _stopping()

    def _running_server(self) -> ForkServer:
        with self._lock:
            if self._is_closed:
                raise _stopping()
            if self._server is not None and self._server.is_alive:
                return self._server
            if self._server is not None:
                self._server.close()
            starting = self._starter.submit(
                ForkServer, memory_limit_bytes=self._memory_limit_bytes, budget=self._budget
            )
            try:
                self._server = starting.result()
            except OSError as error:
                raise TemporaryError(
                    "The decoders did not start; see `doctor`", is_counted=False
                ) from error
            return self._server

    def _give_back(self, decoder: Decoder, *, is_usable: bool) -> None:
        with self._lock:
            if is_usable and not self._is_closed:
                self._idle.append(decoder)
                return
            self._all.discard(decoder)
        decoder.kill()


def _require_there(path: Path) -> None:
    """Refuse a file that is gone, before a decoder is blamed for it.

    Raises:
        IntegrityError: It is gone.
        TemporaryError: The disk does not say.
    """
    try:
        path.stat()
    except FileNotFoundError as error:
        raise IntegrityError("a spooled file is gone; restore it from a backup") from error
    except OSError as error:
        raise _unreadable() from error


def _require_readable(path: Path) -> None:
    """Read a file to its end: a page that the disk cannot give ends the decoder that maps it.

    A decoder that an image took over may say, or die, what it likes: this is not asked of it.

    Raises:
        IntegrityError, TemporaryError: As `_require_there`.
    """
    _require_there(path)
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(_CHUNK_BYTES):
                pass
    except OSError as error:
        raise _unreadable() from error


def _unreadable() -> TemporaryError:
    return TemporaryError("A spooled file cannot be read; check the disk", is_counted=False)


def _stopping() -> TemporaryError:
    return TemporaryError("The decoders are stopping; try again", is_counted=False)
