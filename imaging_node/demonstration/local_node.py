"""A whole node on loopback with a state directory of its own, and the PACS it answers to."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

import yaml

from imaging_node.dicom.pacs import ReceivingPacs
from imaging_node.domain.errors import OperatorError
from imaging_node.settings import Settings, free_environment, load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

LOOPBACK = "127.0.0.1"
# Films that are quickly drawn, unlike the rendered ones of the demo, do not pass the gates.
DRAWN_FILMS_MODELS = [{"name": "chest_xray_pneumonia", "gates": "report"}]
PACS_AE_TITLE = "DEMO_PACS"
_START_LIMIT_S = 120.0
_STOP_LIMIT_S = 40.0


class LocalNode:
    """Owns a `serve` process and a receiving PACS; a context manager.

    Attributes:
        settings: The node's settings.
        pacs: What the node sends its results to.
        process: The `serve` process.
    """

    def __init__(self, folder: Path, changes: Mapping[str, Any]) -> None:
        """Start both and wait until the node says that it is ready.

        Args:
            folder: For the settings file, the state and the log.
            changes: Settings beside ports, peers and state directory. Without `models` the
                shipped one answers, its image gates report only.

        Raises:
            OperatorError: The node did not become ready.
        """
        dicom_port, web_port, pacs_port = free_ports(3)
        config = folder / "node.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "state_directory": str(folder / "state"),
                    "dicom": {"host": LOOPBACK, "port": dicom_port},
                    "web": {"host": LOOPBACK, "port": web_port},
                    "destinations": ["pacs"],
                    # Temporary folders may lie on a small disk.
                    "spool": {"min_free_bytes": 64 * 1024 * 1024, "min_free_inodes": 0},
                    "models": DRAWN_FILMS_MODELS,
                    **changes,
                    "peers": {
                        **changes.get("peers", {}),
                        "pacs": {"ae_title": PACS_AE_TITLE, "host": LOOPBACK, "port": pacs_port},
                    },
                }
            ),
            encoding="utf-8",
        )
        self.config = config
        self.settings: Settings = load_settings(config)
        self.log = folder / "node.log"
        self.pacs = ReceivingPacs(ae_title=PACS_AE_TITLE, host=LOOPBACK, port=pacs_port)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "imaging_node", "serve", "--config", str(config)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=free_environment(),
            )
        self._await_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Drain the node and stop the PACS; returns the exit status of `serve`."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.pacs.close()
        return self.process.returncode

    def _await_ready(self) -> None:
        assert self.process.stdout is not None  # PIPE
        line: list[bytes] = []
        reader = threading.Thread(
            target=lambda stream: line.append(stream.readline()),
            args=(self.process.stdout,),
            daemon=True,
        )
        reader.start()
        deadline = time.monotonic() + _START_LIMIT_S
        while reader.is_alive() and time.monotonic() < deadline:
            reader.join(timeout=0.2)
        if not line or not line[0].startswith(b"ready"):
            self.process.kill()
            self.process.wait()
            self.pacs.close()
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise OperatorError("the node did not become ready: " + " | ".join(last))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
