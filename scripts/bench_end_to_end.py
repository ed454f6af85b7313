"""Benchmark of the whole node: C-STORE in to the report at the PACS."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import psutil
import typer

from imaging_node.demonstration.local_node import LOOPBACK, LocalNode
from imaging_node.dicom.phantom import DEMO_STUDIES, phantom_dataset
from imaging_node.dicom.sender import Caller
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.flow.sending import send_files
from imaging_node.node.wiring import now, open_state
from imaging_node.settings import PeerSettings
from imaging_node.store.listings import count_work

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1024 * 1024
PICTURES = 8
QUIET_PERIOD_S = 1.0


def end_to_end(
    studies: Annotated[int, typer.Option(min=1, help="Chest studies to send.")] = 200,
    associations: Annotated[int, typer.Option(min=1, max=32, help="Senders at a time.")] = 4,
    limit_s: Annotated[float, typer.Option(help="Give up after this many seconds.")] = 900,
) -> None:
    """Send chest studies to a node and wait until the PACS has an SR for each of them."""
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as folder:
        films = render(Path(folder), studies)
        typer.echo(f"load before: {load()}, {os.cpu_count()} cores")
        with LocalNode(Path(folder), {"study": {"quiet_period_s": QUIET_PERIOD_S}}) as node:
            with RoleMemory(node.process.pid) as memory:
                began = time.monotonic()
                sent_at = send_all(node, films, associations)
                sending_s = time.monotonic() - began
                await_all(node, studies, deadline=began + limit_s)
                elapsed_s = time.monotonic() - began
            report(node, sent_at, elapsed_s=elapsed_s, sending_s=sending_s)
            for role, peak_bytes in sorted(memory.peak_bytes.items()):
                typer.echo(f"peak memory {role:>9}: {peak_bytes / MIB:6.0f} MiB")
            typer.echo(f"peak memory all roles: {memory.peak_sum_bytes / MIB:.0f} MiB")
            typer.echo(f"load after: {load()}")


def render(folder: Path, count: int) -> dict[str, Path]:
    """Films by Study Instance UID: few pictures, every one a study of its own."""
    chests = [each for each in DEMO_STUDIES if each.part == "chest frontal"]
    plain = [each for each in chests if each.encoding == "plain"][:PICTURES]
    pictures = [each.picture() for each in plain]
    films = {}
    for number in range(count):
        index = number % len(plain)
        dataset = phantom_dataset(
            plain[index], run=f"{time.time_ns()}-{number}", picture=pictures[index]
        )
        path = folder / f"film-{number:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        films[str(dataset.StudyInstanceUID)] = path
    return films


def send_all(node: LocalNode, films: dict[str, Path], associations: int) -> dict[str, datetime]:
    """Send every film over so many associations; when each study's last byte was answered."""
    listener = PeerSettings(
        ae_title=node.settings.dicom.ae_title, host=LOOPBACK, port=node.settings.dicom.port
    )
    caller = Caller(ae_title="BENCH", timeout_s=60)
    sent_at: dict[str, datetime] = {}

    def send_some(mine: Sequence[tuple[str, Path]]) -> None:
        for uid, path in mine:
            outcome = send_files([path], listener, caller, advance=lambda: None)
            if outcome.stored != 1:
                raise SystemExit(f"the node refused a film: {outcome.refused}")
            sent_at[uid] = datetime.now(UTC)

    items = list(films.items())
    with ThreadPoolExecutor(associations) as pool:
        list(pool.map(send_some, [items[begin::associations] for begin in range(associations)]))
    return sent_at


def await_all(node: LocalNode, studies: int, *, deadline: float) -> None:
    """Wait until every study has ended and nothing waits for delivery."""
    database, _, _ = open_state(node.settings)
    while time.monotonic() < deadline:
        counts = count_work(database, now=now())
        ended = sum(counts.studies.get(each, 0) for each in StudyState if each.is_final)
        if ended == studies and not counts.deliveries.get(DeliveryState.WAITING):
            break
        time.sleep(0.2)
    database.close()


def report(
    node: LocalNode, sent_at: dict[str, datetime], *, elapsed_s: float, sending_s: float
) -> None:
    """Print what was answered, how fast, and how long each study waited."""
    stored_at = {
        each.study_instance_uid: each.stored_at for each in node.pacs.stored if each.is_report
    }
    answered = sent_at.keys() & stored_at.keys()
    captures = sum(not each.is_report for each in node.pacs.stored)
    typer.echo(f"studies answered: {len(answered)} of {len(sent_at)}, captures: {captures}")
    typer.echo(f"sending: {sending_s:.1f} s, all answered after {elapsed_s:.1f} s")
    typer.echo(f"studies per minute: {len(answered) / elapsed_s * 60:.0f}")
    waits_s = sorted((stored_at[uid] - sent_at[uid]).total_seconds() for uid in answered)
    if waits_s:
        typer.echo(
            f"last image to SR stored, quiet period of {QUIET_PERIOD_S:g} s included:"
            f" minimum {waits_s[0]:.1f} s, median {statistics.median(waits_s):.1f} s,"
            f" maximum {waits_s[-1]:.1f} s"
        )
    if len(answered) < len(sent_at):
        raise SystemExit(1)


def load() -> str:
    """Load averages of the machine."""
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


class RoleMemory:
    """Owns a thread that samples the resident memory of each role; a context manager.

    Attributes:
        peak_bytes: Largest by role; decoders are a role of their own here.
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
        while not self._is_over.wait(0.2):
            now_bytes: dict[str, int] = defaultdict(int)
            node = psutil.Process(self._pid)
            for process in (node, *node.children(recursive=True)):
                try:
                    role = " ".join(process.cmdline()).removeprefix("imaging-node: ").strip()
                    if len(role.split()) == 1:
                        now_bytes[role] += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            for role, size_bytes in now_bytes.items():
                self.peak_bytes[role] = max(self.peak_bytes[role], size_bytes)
            self.peak_sum_bytes = max(self.peak_sum_bytes, sum(now_bytes.values()))
