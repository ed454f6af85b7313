"""Threads, descriptors, memory and unfinished files of a node, before, during and after a fault."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from abuse.ground import Ground, UnexpectedError

if TYPE_CHECKING:
    from types import TracebackType

MIB = 1024 * 1024
MOST_MEMORY_BYTES = 64 * MIB
BACK_WITHIN_S = 60.0
WATCHED_ROLES = ("receive", "deliver")
_SAMPLE_S = 0.05
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What one role process holds.

    Attributes:
        descriptors: Without those of the database, whose connections are pooled.
    """

    pid: int
    threads: int
    descriptors: int
    resident_bytes: int


def levels(ground: Ground) -> dict[str, Level]:
    """What each watched role holds now."""
    found = {}
    for name in WATCHED_ROLES:
        process = ground.role(name)
        with process.oneshot():
            found[name] = Level(
                pid=process.pid,
                threads=process.num_threads(),
                descriptors=_descriptors(process.pid),
                resident_bytes=process.memory_info().rss,
            )
    return found


def _descriptors(pid: int) -> int:
    count = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += ".sqlite" not in str(each.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
    return count


def await_baseline(ground: Ground, before: dict[str, Level], *, may_restart: bool) -> float:
    """Seconds until everything is as it was before.

    Raises:
        UnexpectedError: It is not within 60 s, or a role died under way.
    """
    begun_s = time.monotonic()
    while True:
        excess = _excess(ground, before, may_restart=may_restart)
        if not excess:
            return time.monotonic() - begun_s
        if time.monotonic() - begun_s > BACK_WITHIN_S:
            raise UnexpectedError(f"{BACK_WITHIN_S:g} s later: {'; '.join(excess)}")
        time.sleep(_POLL_S)


def _excess(ground: Ground, before: dict[str, Level], *, may_restart: bool) -> list[str]:
    excess = [f"{len(parts)} unfinished files"] if (parts := ground.parts()) else []
    try:
        after = levels(ground)
    except (UnexpectedError, psutil.NoSuchProcess) as error:
        return [str(error)]
    for name, was in before.items():
        now = after[name]
        if now.pid != was.pid and not may_restart:
            excess.append(f"{name} died")
        if now.threads > was.threads:
            excess.append(f"{name} has {now.threads} threads, not {was.threads}")
        if now.descriptors > was.descriptors:
            excess.append(f"{name} has {now.descriptors} descriptors, not {was.descriptors}")
        if now.resident_bytes > was.resident_bytes + MOST_MEMORY_BYTES:
            more = (now.resident_bytes - was.resident_bytes) / MIB
            excess.append(f"{name} holds {more:.0f} MiB more")
    return excess


class MemoryPeak:
    """Owns a thread that samples the receiver's resident memory; a context manager.

    Attributes:
        peak_bytes: Most that was seen.
        most_parts: Most unfinished files that were seen at a time.
    """

    def __init__(self, ground: Ground) -> None:
        self.peak_bytes = 0
        self.most_parts = 0
        self._ground = ground
        self._process = ground.role("receive")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample_on(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.wait(_SAMPLE_S)
            try:
                self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
                self.most_parts = max(self.most_parts, len(self._ground.parts()))
            except psutil.NoSuchProcess:
                return
            except OSError:
                continue  # a part that was removed under way
