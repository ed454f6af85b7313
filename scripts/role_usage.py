"""What the roles of a running node use: memory, processor time, descriptors and threads."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
# Each look costs some ms of what is measured.
_SAMPLE_S = 1.0


@dataclass(slots=True)
class Usage:
    """What one role uses, all its processes together; decoders are a role of their own."""

    processes: int = 0
    memory_bytes: int = 0
    processor_s: float = 0.0
    descriptors: int = 0
    threads: int = 0


def usage_by_role(pid: int) -> dict[str, Usage]:
    """Usage of each role under the `serve` process `pid`, at this moment."""
    usage: dict[str, Usage] = defaultdict(Usage)
    for role, process in role_processes(pid):
        try:
            with process.oneshot():
                cpu = process.cpu_times()
                found = usage[role]
                found.processes += 1
                found.memory_bytes += process.memory_info().rss
                found.processor_s += cpu.user + cpu.system
                found.descriptors += process.num_fds()
                found.threads += process.num_threads()
        except psutil.NoSuchProcess:
            continue
    return dict(usage)


def role_processes(pid: int) -> Iterator[tuple[str, psutil.Process]]:
    """Every process under `serve`, with the name that its title gives."""
    node = psutil.Process(pid)
    for process in (node, *node.children(recursive=True)):
        try:
            title = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        role = title.removeprefix("imaging-node: ").strip()
        if len(role.split()) == 1:
            yield role, process


class RoleMemory:
    """Owns a thread that samples the resident memory of each role; a context manager.

    Attributes:
        peak_bytes: Largest by role.
        peak_sum_bytes: Largest sum of all at one moment.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes: dict[str, int] = defaultdict(int)
        self.peak_sum_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_S):
            usage = usage_by_role(self._pid)
            for role, found in usage.items():
                self.peak_bytes[role] = max(self.peak_bytes[role], found.memory_bytes)
            self.peak_sum_bytes = max(
                self.peak_sum_bytes, sum(each.memory_bytes for each in usage.values())
            )
