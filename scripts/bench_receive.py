"""Benchmark of intake: the node beside Orthanc, DCMTK and stock pynetdicom, in one run."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import own_network
import typer
from bench_receivers import AE_TITLE, RECEIVERS, Receiver, Running, running
from bench_workloads import SMALL, WORKLOADS, render

from imaging_node.demonstration.local_node import LOOPBACK
from imaging_node.dicom.sender import Caller, open_storage
from imaging_node.settings import PeerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence


MEGABYTE = 1e6
SEND_LIMIT_S = 300.0
LATENCY_INSTANCES = 200
WARM_UP_INSTANCES = 16
SMALL_NAME = "8 kB"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
NODE = "imaging-node"
PEER = "Orthanc"
TARGETS = (
    ("DX", "MB/s at 8 associations", 2.0, "at least"),
    ("CT", "MB/s at 8 associations", 1.3, "at least"),
    ("DX", "CPU s/GB at 8 associations", 0.75, "at most"),
    ("CT", "CPU s/GB at 8 associations", 0.75, "at most"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the table."""

    receiver: str
    workload: str
    associations: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of a case."""

    megabytes_per_s: float
    cpu_s_per_gigabyte: float


def receive(
    dx: Annotated[int, typer.Option(min=8, help="DX instances of 10 MB.")] = 192,
    ct: Annotated[int, typer.Option(min=8, help="CT instances of 0.5 MB.")] = 1920,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    associations: Annotated[str, typer.Option(help="Senders at a time.")] = "1,4,8",
    workloads: Annotated[str, typer.Option(help="Of DX and CT.")] = "DX,CT",
    only: Annotated[str, typer.Option(help="Receivers, by parts of their names.")] = "",
    folder: Annotated[
        Path | None, typer.Option(help="On the disk to measure; default: the temporary folder.")
    ] = None,
) -> None:
    """Receive from DCMTK dcmsend; the state lies on a disk, TCP_NODELAY is set everywhere."""
    own_network.enter()
    chosen = [
        each
        for each in RECEIVERS.values()
        if not only or any(part in each.name for part in only.split(","))
    ]
    counts = [int(each) for each in associations.split(",")]
    kinds = workloads.split(",")
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-", dir=folder) as root:
        # What is sent lies in memory, so that only the receivers use the disk.
        with tempfile.TemporaryDirectory(prefix="imaging-node-bench-", dir=_memory()) as memory:
            files = {
                name: render(Path(memory) / name, name, number)
                for name, number in (("DX", dx), ("CT", ct), (SMALL_NAME, LATENCY_INSTANCES))
                if name in (*kinds, SMALL_NAME)
            }
            for name in kinds:
                before = max(WARM_UP_INSTANCES, len(files[name]) // 4)
                files[f"{name} before"] = render(Path(memory) / f"{name}-before", name, before)
            say_conditions("before", Path(root))
            samples, latencies_ms = measure(chosen, files, counts, rounds, Path(root))
        print_table(chosen, kinds, counts, samples)
        print_latencies(chosen, latencies_ms)
        print_targets(samples, latencies_ms)
        say_conditions("after", Path(root))


def measure(
    chosen: Sequence[Receiver],
    files: dict[str, list[Path]],
    counts: Sequence[int],
    rounds: int,
    root: Path,
) -> tuple[dict[Case, list[Sample]], dict[str, list[float]]]:
    """Every case once a round, the receivers in a new order each time."""
    samples: dict[Case, list[Sample]] = defaultdict(list)
    latencies_ms: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for receiver in random.sample(chosen, len(chosen)):
            with running(receiver, root / "receiver") as peer:
                latencies_ms[receiver.name] += latency_ms(peer, files[SMALL_NAME])
            for workload in (each for each in WORKLOADS if each in files):
                for count in counts:
                    with running(receiver, root / "receiver") as peer:
                        # Folders made, journals grown: a receiver is not new every day.
                        send(peer, files[f"{workload} before"], count)
                        case = Case(receiver.name, workload, count)
                        samples[case].append(send(peer, files[workload], count))
    return samples, latencies_ms


def send(peer: Running, files: Sequence[Path], associations: int) -> Sample:
    """Send all files over so many associations of dcmsend."""
    cpu_before_s, begun_s = peer.cpu_s(), time.perf_counter()
    senders = [
        subprocess.Popen(
            [
                "dcmsend", "-aec", AE_TITLE, "--max-send-pdu", "131072", "--no-uid-checks",
                LOOPBACK, str(peer.port), *(str(each) for each in files[number::associations]),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TCP_NODELAY": "1"},
        )
        for number in range(associations)
    ]  # fmt: skip
    for sender in senders:
        if sender.wait(timeout=SEND_LIMIT_S):
            raise SystemExit(f"a sender failed: exit status {sender.returncode}")
    elapsed_s = time.perf_counter() - begun_s
    size_bytes = sum(each.stat().st_size for each in files)
    return Sample(
        size_bytes / MEGABYTE / elapsed_s, (peer.cpu_s() - cpu_before_s) / size_bytes * 1e9
    )


def latency_ms(peer: Running, files: Sequence[Path]) -> list[float]:
    """From the first byte of each small instance to its answer, on one association."""
    kind = (SMALL.sop_class_uid, EXPLICIT_VR_LITTLE_ENDIAN)
    receiver = PeerSettings(ae_title=AE_TITLE, host=LOOPBACK, port=peer.port)
    found = []
    with open_storage(receiver, Caller(ae_title="BENCH_SCU", timeout_s=30), [kind]) as association:
        for path in files:
            payload = path.read_bytes()
            begun_s = time.perf_counter()
            association.store(payload, sop_class_uid=kind[0], transfer_syntax_uid=kind[1])
            found.append((time.perf_counter() - begun_s) * 1000)
    return found


def print_table(
    chosen: Sequence[Receiver],
    kinds: Sequence[str],
    counts: Sequence[int],
    samples: dict[Case, list[Sample]],
) -> None:
    """Medians with minimum and maximum, as Markdown."""
    for workload in kinds:
        typer.echo(
            f"\n{workload}, {WORKLOADS[workload].megabytes:g} MB each: MB/s (minimum-maximum)"
        )
        heads = " | ".join(f"{each} assoc." for each in counts)
        typer.echo(f"| receiver | durable | {heads} | CPU s/GB at {counts[-1]} |")
        typer.echo("| --- " * (len(counts) + 3) + "|")
        for receiver in chosen:
            cells = []
            for count in counts:
                found = samples[Case(receiver.name, workload, count)]
                speeds = [each.megabytes_per_s for each in found]
                cells.append(
                    f"{statistics.median(speeds):.0f} ({min(speeds):.0f}-{max(speeds):.0f})"
                )
            cpu = _median_cpu(samples[Case(receiver.name, workload, counts[-1])])
            durable = "yes" if receiver.is_durable else "no"
            typer.echo(f"| {receiver.name} | {durable} | {' | '.join(cells)} | {cpu:.1f} |")


def print_latencies(chosen: Sequence[Receiver], latencies_ms: dict[str, list[float]]) -> None:
    """Median and 99th percentile of the small instances, as Markdown."""
    typer.echo("\n8 kB instance, request to answer: ms")
    typer.echo("| receiver | median | 99 % |\n| --- | --- | --- |")
    for receiver in chosen:
        found = sorted(latencies_ms[receiver.name])
        worst = found[int(len(found) * 0.99)]
        typer.echo(f"| {receiver.name} | {statistics.median(found):.2f} | {worst:.2f} |")


def print_targets(samples: dict[Case, list[Sample]], latencies_ms: dict[str, list[float]]) -> None:
    """The node in ratio to Orthanc, of one run, beside what is to be reached."""
    if not latencies_ms[PEER]:
        return
    for node in (name for name in RECEIVERS if name.startswith(NODE) and latencies_ms[name]):
        typer.echo(f"\n{node} in ratio to {PEER}")
        for workload, what, wanted, side in TARGETS:
            ours, theirs = (samples[Case(name, workload, 8)] for name in (node, PEER))
            if not ours or not theirs:
                continue
            if what.startswith("MB/s"):
                ratio = _median_speed(ours) / _median_speed(theirs)
            else:
                ratio = _median_cpu(ours) / _median_cpu(theirs)
            typer.echo(f"{workload} {what}: {ratio:.2f} ({side} {wanted})")
        ratio = statistics.median(latencies_ms[node]) / statistics.median(latencies_ms[PEER])
        typer.echo(f"8 kB instance latency, median: {ratio:.2f} (at most 1.5)")


def say_conditions(when: str, root: Path) -> None:
    """Load, cores and the disk's own fsync: figures of another machine are another matter."""
    load = " ".join(f"{each:.2f}" for each in os.getloadavg())
    path = root / "probe"
    costs_ms = []
    with path.open("wb", buffering=0) as probe:
        for _ in range(50):
            probe.write(bytes(4096))
            begun_s = time.perf_counter()
            os.fsync(probe.fileno())
            costs_ms.append((time.perf_counter() - begun_s) * 1000)
    free = shutil.disk_usage(root).free / 1e9
    typer.echo(
        f"load {when}: {load}, {os.cpu_count()} cores;"
        f" fsync of 4 kB {statistics.median(costs_ms):.2f} ms, {free:.0f} GB free"
    )


def _median_speed(found: Sequence[Sample]) -> float:
    return statistics.median(each.megabytes_per_s for each in found)


def _median_cpu(found: Sequence[Sample]) -> float:
    return statistics.median(each.cpu_s_per_gigabyte for each in found)


def _memory() -> Path | None:
    memory = Path("/dev/shm")  # noqa: S108 - files to send, so that they cost no disk
    return memory if memory.is_dir() else None
