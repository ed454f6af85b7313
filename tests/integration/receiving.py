"""The `receive` role alone, what it keeps, and a peer that keeps the same for comparison."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil
import yaml
from pydicom.filereader import read_file_meta_info

from imaging_node.demonstration.local_node import free_ports
from imaging_node.dicom.storage_classes import STORAGE_CLASSES, VERIFICATION
from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from imaging_node.settings import free_environment

if TYPE_CHECKING:
    from pathlib import Path

_START_LIMIT_S = 60.0
_META_BEGIN = 132


@dataclass(frozen=True, slots=True)
class Kept:
    """One dataset as it lies behind the file meta information."""

    transfer_syntax_uid: str
    dataset: bytes


class ReceiveRole:
    """Owns a listener process with a state directory of its own; a context manager.

    Attributes:
        port: Where it listens.
        state: Its state directory.
        log: What it said.
    """

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", **dicom: object) -> None:
        [self.port] = free_ports(1)
        self.state = folder / "state"
        self.log = folder / "receive.log"
        self.config = folder / "receive.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "state_directory": str(self.state),
                    "dicom": {"host": host, "port": self.port, **dicom},
                    "spool": {"min_free_bytes": 64 * 1024 * 1024, "min_free_inodes": 0},
                }
            )
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "imaging_node", "receive", "--config", str(self.config)],
                stderr=log,
                env=free_environment(),
            )
        deadline_s = time.monotonic() + _START_LIMIT_S
        while not listens(self.process.pid, self.port):
            if time.monotonic() > deadline_s or self.process.poll() is not None:
                self.close()
                raise AssertionError(f"the listener did not start: {self.log.read_text()}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drain it."""
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kept(self) -> dict[str, Kept]:
        """What lies in the spool, by SOP Instance UID."""
        return kept_in(self.state / "spool")


class KeepingPeer:
    """Owns DCMTK's storescp, told to write what it reads bit by bit; a context manager."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        folder.mkdir()
        profile = folder.with_suffix(".cfg")
        profile.write_text(_profile())
        deadline_s = time.monotonic() + _START_LIMIT_S
        self._start(program, profile)
        while not listens(self._process.pid, self.port):
            assert time.monotonic() < deadline_s, "storescp did not start"
            if self._process.poll() is not None:
                # It takes the port on every address, where something else may have it.
                self._start(program, profile)
            time.sleep(0.05)

    def _start(self, program: str, profile: Path) -> None:
        [self.port] = free_ports(1)
        self._process = subprocess.Popen(
            [
                program, "+B", "-xf", str(profile), "All",
                "--output-directory", str(self.folder), str(self.port),
            ]
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def kept(self) -> dict[str, Kept]:
        """What it wrote, by SOP Instance UID."""
        return kept_in(self.folder)


def _profile() -> str:
    """What DCMTK accepts: the image classes, in the node's syntaxes and its order."""
    syntaxes = "\n".join(
        f"TransferSyntax{number} = {uid}" for number, uid in enumerate(TRANSFER_SYNTAXES, start=1)
    )
    contexts = "\n".join(
        f"PresentationContext{number} = {uid}\\All"
        for number, uid in enumerate((VERIFICATION, *STORAGE_CLASSES), start=1)
    )
    return (
        f"[[TransferSyntaxes]]\n[All]\n{syntaxes}\n"
        f"[[PresentationContexts]]\n[All]\n{contexts}\n"
        "[[Profiles]]\n[All]\nPresentationContexts = All\n"
    )


def listens(pid: int, port: int) -> bool:
    """Whether a process listens on a port."""
    try:
        connections = psutil.Process(pid).net_connections("inet")
    except psutil.Error:
        return False
    return any(
        each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections
    )


def kept_in(folder: Path) -> dict[str, Kept]:
    """The DICOM files below a folder by SOP Instance UID; each UID must occur once."""
    found = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if content[128:_META_BEGIN] != b"DICM":
            continue
        meta = read_file_meta_info(path)
        uid = str(meta.MediaStorageSOPInstanceUID)
        assert uid not in found, "kept twice, with other bytes"
        found[uid] = Kept(str(meta.TransferSyntaxUID), dataset_of(content))
    return found


def dataset_of(content: bytes) -> bytes:
    """What follows the file meta information of a Part 10 file (PS3.10 7.1)."""
    # (0002,0000) UL 4: the length of what follows of the group.
    length = int.from_bytes(content[_META_BEGIN + 8 : _META_BEGIN + 12], "little")
    return content[_META_BEGIN + 12 + length :]
