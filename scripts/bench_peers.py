"""The DICOM peers of the benchmarks: DCMTK's sender and receiver, with small waits switched off."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LOOPBACK = "127.0.0.1"
_START_LIMIT_S = 60.0
_MOST_STARTS = 5
_POLL_S = 0.05


def require_tools(*names: str) -> None:
    """End with a sentence when a program is missing."""
    missing = [each for each in names if shutil.which(each) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not installed (Debian: dcmtk)")


def without_nagle() -> dict[str, str]:
    """An environment in which DCMTK does not wait 40 ms for each instance."""
    return {**os.environ, "TCP_NODELAY": "1"}


def load() -> str:
    """Load averages of the machine."""
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """DCMTK's receiver on a free port, a process for each association; its port."""
    folder.mkdir()
    process, port = _start_storescp(folder)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def _start_storescp(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A receiver that listens, and its port: another may take a free one just before it.

    It writes what comes in as it comes (+B): a peer that parses and encodes each object again
    would take processor time from the sender that is measured.
    """
    for _ in range(_MOST_STARTS):
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        process = subprocess.Popen(
            ["storescp", "--fork", "+B", "-od", folder, "-pdu", "131072", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=without_nagle(),
        )
        deadline = time.monotonic() + _START_LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((LOOPBACK, port)) == 0:
                    return process, port
            time.sleep(_POLL_S)
        process.kill()
        process.wait()
    raise SystemExit("storescp did not start")


def await_listener(port: int) -> None:
    """Return once something listens on a port."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing listens on port {port}")
        time.sleep(_POLL_S)


def start_dcmsend(paths: Sequence[Path], port: int, ae_title: str) -> subprocess.Popen[bytes]:
    """DCMTK's sender over one association with these files."""
    return subprocess.Popen(
        ["dcmsend", "-nuc", "--max-send-pdu", "131072", "-aec", ae_title, LOOPBACK, str(port),
         *paths],
        stdout=subprocess.DEVNULL,
        env=without_nagle(),
    )  # fmt: skip


def send_over(paths: Sequence[Path], port: int, ae_title: str, associations: int) -> float:
    """Send files over so many associations at once; returns the seconds it took."""
    began = time.monotonic()
    shares = [paths[begin::associations] for begin in range(associations)]
    senders = [start_dcmsend(share, port, ae_title) for share in shares if share]
    exits = [sender.wait() for sender in senders]
    if any(exits):
        raise SystemExit("dcmsend could not send all of its files")
    return time.monotonic() - began
