"""Benchmark of sending: our Storage SCU beside DCMTK's dcmsend, to one DCMTK storescp."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from bench_peers import LOOPBACK, load, require_tools, storescp, without_nagle
from bench_workloads import WORKLOADS, render

from imaging_node.dicom.sender import Caller, open_storage
from imaging_node.settings import PeerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def send(
    dx: Annotated[int, typer.Option(min=1, help="DX instances of 10 MB.")] = 30,
    ct: Annotated[int, typer.Option(min=1, help="CT instances of 0.5 MB.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
) -> None:
    """Send to DCMTK storescp, in turns with dcmsend, one association each."""
    require_tools("storescp", "dcmsend")
    memory = Path("/dev/shm")  # noqa: S108 - the network is measured, not a disk
    with tempfile.TemporaryDirectory(
        prefix="imaging-node-bench-", dir=memory if memory.is_dir() else None
    ) as folder:
        files = {
            name: render(Path(folder) / name, name, count)
            for name, count in (("DX", dx), ("CT", ct))
        }
        typer.echo(f"load before: {load()}, {os.cpu_count()} cores, TCP_NODELAY on both sides")
        with storescp(Path(folder) / "received") as port:
            for name, paths in files.items():
                compare(name, paths, port, rounds)
        typer.echo(f"load after: {load()}")


def compare(name: str, paths: Sequence[Path], port: int, rounds: int) -> None:
    """Print what both senders did with the same files, in turns."""
    senders: dict[str, Callable[[], None]] = {
        "dcmsend": lambda: send_by_dcmsend(paths, port),
        "imaging-node": lambda: send_by_node(name, paths, port),
    }
    seconds: dict[str, list[float]] = {each: [] for each in senders}
    for each in senders.values():
        each()  # caches, imports and the receiver are warm for both
    for _ in range(rounds):
        for sender, run in senders.items():
            began = time.perf_counter()
            run()
            seconds[sender].append(time.perf_counter() - began)
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    reference = statistics.median(seconds["dcmsend"])
    for sender, taken in seconds.items():
        median = statistics.median(taken)
        typer.echo(
            f"{name} {sender:>12}: median {megabytes / median:5.0f} MB/s,"
            f" {len(paths) / median:5.0f} instances/s,"
            f" {megabytes / max(taken):.0f} to {megabytes / min(taken):.0f} MB/s"
            f" in {rounds} rounds, {reference / median:.2f} of dcmsend"
        )


def send_by_node(name: str, paths: Sequence[Path], port: int) -> None:
    """All files over one association of our own."""
    peer = PeerSettings(ae_title="STORESCP", host=LOOPBACK, port=port)
    kind = (WORKLOADS[name].sop_class_uid, EXPLICIT_VR_LITTLE_ENDIAN)
    with open_storage(peer, Caller(ae_title="BENCH", timeout_s=30), [kind]) as association:
        for path in paths:
            association.store(path, sop_class_uid=kind[0], transfer_syntax_uid=kind[1])


def send_by_dcmsend(paths: Sequence[Path], port: int) -> None:
    """All files over one association of DCMTK's dcmsend."""
    subprocess.run(
        ["dcmsend", "-nuc", "--max-send-pdu", "131072", LOOPBACK, str(port), *paths],
        check=True,
        stdout=subprocess.DEVNULL,
        env=without_nagle(),
    )


if __name__ == "__main__":
    typer.run(send)
