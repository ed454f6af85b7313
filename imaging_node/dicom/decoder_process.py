"""The process that decodes pixels, made to be killed: whatever a file does, it does it here.

It is forked by `fork_server`, reads one JSON message for each file from its socket and answers
with JSON; the pixels go into memory that it is handed. It ends when its parent does.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from setproctitle import setproctitle

from imaging_node import confinement
from imaging_node.dicom import shared_pixels
from imaging_node.dicom.codec_output import CodecOutput
from imaging_node.dicom.image_decoding import count_frames, decode_file
from imaging_node.dicom.spooled_file import UnreadableFileError
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    import socket

    from imaging_node.dicom.decoding_budget import DecodingBudget
    from imaging_node.domain.finding import FloatImage

PROCESS_TITLE: Final = "imaging-node: decode"
MESSAGE_BYTES: Final = 65536
"""Longest message either way; a path is the longest thing in one."""
EXCEEDED_MEMORY: Final = "memory"
FAILED_READING: Final = "reading"

_PAGE_BYTES: Final = resource.getpagesize()
_CPU_MARGIN_S: Final = 2


def serve(
    link: socket.socket, *, parent_pid: int, memory_limit_bytes: int, budget: DecodingBudget
) -> None:
    """Say that it is ready, then answer decode requests until the other end of `link` closes.

    Raises:
        OSError: The kernel takes no system-call filter.
    """
    setproctitle(PROCESS_TITLE)
    confinement.end_with(parent_pid)
    process = _Process(memory_limit_bytes)
    output = CodecOutput()
    confinement.confine()
    output.stand_in()  # last: until now a failure to confine could still be printed
    link.send(json.dumps({"rss": process.rss_bytes()}).encode())
    while message := link.recv(MESSAGE_BYTES):
        request = json.loads(message)
        process.prepare(request["cpu_s"])
        answer = _answer(link, request, budget, process, output)
        link.send(json.dumps({**answer, "rss": process.rss_bytes()}).encode())


class _Process:
    """Owns the descriptor that tells this process's size, and its limits."""

    def __init__(self, memory_limit_bytes: int) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        # Above what the imports need, which is not the fault of any file.
        self._memory_limit_bytes = self._pages(0) * _PAGE_BYTES + memory_limit_bytes

    def prepare(self, cpu_s: float) -> None:
        """Set the limits for one file."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        used_s = used.ru_utime + used.ru_stime
        confinement.limit(resource.RLIMIT_CPU, int(used_s + cpu_s) + _CPU_MARGIN_S)
        self.admit(0)

    def admit(self, shared_bytes: int) -> None:
        """Let so much memory be mapped that is not this process's own."""
        confinement.limit(resource.RLIMIT_AS, self._memory_limit_bytes + shared_bytes)

    def rss_bytes(self) -> int:
        """Memory of its own that is in use, without what it shares."""
        return (self._pages(1) - self._pages(2)) * _PAGE_BYTES

    def _pages(self, field: int) -> int:
        return int(os.pread(self._statm, 128, 0).split()[field])


def _answer(
    link: socket.socket,
    request: dict[str, Any],
    budget: DecodingBudget,
    process: _Process,
    output: CodecOutput,
) -> dict[str, str | int | float]:
    path = Path(request["path"])

    def place(rows: int, columns: int) -> FloatImage:
        if output.take():
            raise NotAnalysedError(
                "the codec reported damage", reason=NotAnalysedReason.UNDECODABLE
            )
        link.send(json.dumps({"rows": rows, "columns": columns}).encode())
        return shared_pixels.receive(link, rows, columns, admit=process.admit)

    output.take()
    try:
        if request["counts"]:
            return {"frames": count_frames(path, budget=budget)}
        _, aspect = decode_file(
            path,
            frame=request["frame"],
            is_presented=request["is_presented"],
            budget=budget,
            place=place,
        )
    except NotAnalysedError as error:
        return {"reason": error.reason.name, "detail": str(error)}
    except UnreadableFileError:
        return {"failed": FAILED_READING}
    except MemoryError:
        return {"exceeded": EXCEEDED_MEMORY}
    return {"aspect": aspect}
