"""The receivers that `bench receive` compares, each started on a port and a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from imaging_node.demonstration.local_node import LOOPBACK, free_ports
from imaging_node.settings import free_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

AE_TITLE = "BENCH_SCP"
_START_LIMIT_S = 60.0
_STOCK = Path(__file__).with_name("stock_receiver.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """One receiver of the comparison.

    Attributes:
        command: Folder and port to the command that listens there.
        says_ready: What it prints once all of it has started; b"" when a C-ECHO is enough.
        is_durable: Whether it says that what it acknowledges survives a power failure.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    is_durable: bool
    says_ready: bytes = b""


def _node(receivers: int) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        [web_port] = free_ports(1)
        config = folder / "node.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "state_directory": str(folder / "state"),
                    "dicom": {"ae_title": AE_TITLE, "port": port, "receivers": receivers},
                    "web": {"port": web_port},
                    # The other roles run, but nothing becomes due while it is measured.
                    "study": {"quiet_period_s": 3600},
                    "spool": {"min_free_bytes": 1 << 30, "min_free_inodes": 0},
                }
            ),
            encoding="utf-8",
        )
        return [sys.executable, "-m", "imaging_node", "serve", "--config", str(config)]

    return command


def _orthanc(folder: Path, port: int) -> list[str]:
    store = folder / "orthanc"
    store.mkdir()
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "Name": "bench", "StorageDirectory": str(store), "IndexDirectory": str(store),
                "StorageCompression": False, "DicomAet": AE_TITLE, "DicomPort": port,
                "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
                "HttpServerEnabled": False, "RemoteAccessAllowed": False,
                "DicomThreadsCount": 8, "OverwriteInstances": True, "SyncStorageArea": True,
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    orthanc = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return [orthanc or "Orthanc", str(config)]


def _storescp(folder: Path, port: int) -> list[str]:
    (folder / "storescp").mkdir()
    return [
        "storescp", "--fork", "-aet", AE_TITLE, "-pdu", "131072",
        "-od", str(folder / "storescp"), str(port),
    ]  # fmt: skip


def _stock(folder: Path, port: int) -> list[str]:
    return [sys.executable, str(_STOCK), str(port), str(folder / "stock"), AE_TITLE]


RECEIVERS = {
    each.name: each
    for each in (
        Receiver(name="imaging-node", command=_node(1), is_durable=True, says_ready=b"ready:"),
        Receiver(
            name="imaging-node, 2 receivers",
            command=_node(2),
            is_durable=True,
            says_ready=b"ready:",
        ),
        Receiver(name="Orthanc", command=_orthanc, is_durable=True),
        Receiver(name="DCMTK storescp --fork", command=_storescp, is_durable=False),
        Receiver(name="stock pynetdicom", command=_stock, is_durable=False),
    )
}


class Running:
    """A receiver that listens, with the processes it consists of."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port = port
        self._process = process

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far, those that ended and were waited for too."""
        ticks = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == self._process.pid:  # its session
                ticks += sum(int(each) for each in fields[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(receiver: Receiver, root: Path) -> Iterator[Running]:
    """Start a receiver in a new folder under `root`, and wait until it accepts connections.

    What it kept is emptied, not removed: for minutes ext4 without a journal steps over inodes
    that were removed, one by one, whenever a file is made, and the next receiver would pay.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root))
    [port] = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            receiver.command(folder, port),
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=free_environment(TCP_NODELAY="1"),
        )
    try:
        _await_start(receiver, port, process, folder)
        yield Running(process, port)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for path in folder.rglob("*"):
            if path.is_file():
                os.truncate(path, 0)


def _await_start(
    receiver: Receiver, port: int, process: subprocess.Popen[bytes], folder: Path
) -> None:
    """Until C-ECHO is answered and, of the node, all roles have started."""
    deadline_s = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        echo = subprocess.run(
            ["echoscu", "-aec", AE_TITLE, LOOPBACK, str(port)], check=False, capture_output=True
        )
        if echo.returncode == 0 and receiver.says_ready in (folder / "log").read_bytes():
            # Let what else starts with it come to rest.
            time.sleep(1)
            return
        time.sleep(0.1)
    raise SystemExit(f"a receiver did not start: {(folder / 'log').read_text()[-500:]}")
