"""The whole node on one machine: every role a child process, restarted when it dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from imaging_node import __version__
from imaging_node.dicom.listening_socket import bind
from imaging_node.domain.errors import BundleError, StorageError
from imaging_node.node.certificates import require_valid_certificates
from imaging_node.node.recovery import hold_state, recover_state
from imaging_node.node.wiring import now
from imaging_node.telemetry import Event, configure_logging, log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imaging_node.settings import Settings

ROLES = ("receive", "score", "deliver", "web")
_FIRST_RESTART_S = 0.5
_LONGEST_RESTART_S = 30.0
# A role that ran this long before it died begins again with the shortest wait.
_STABLE_S = 60.0
_STOP_LIMIT_S = 25.0
_POLL_S = 0.1
# TensorRT builds the engines of a bundle for minutes the first time.
_MODELS_LIMIT_S = 15 * 60.0
# The roles of a node that was killed are gone within this time ...
_ORPHANS_GONE_S = 20.0
# ... and mostly soon after the last of its ports is free.
_LAST_WORDS_S = 5.0
# A hospital's proxy does not know this machine's loopback.
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(slots=True)
class _Child:
    """One role's process, and when it may be started again.

    Attributes:
        name: The role's, with a number for a second receiver or scorer and those after it.
    """

    role: str
    name: str
    process: subprocess.Popen[bytes]
    started_at: float = field(default_factory=time.monotonic)
    restarts: int = 0
    restart_at: float | None = None


class Node:
    """Owns the role processes from their start until the last of them is gone."""

    def __init__(self, settings: Settings, config: Path | None) -> None:
        self._settings = settings
        self._arguments = [] if config is None else ["--config", str(config)]
        self._stopping = threading.Event()
        self._children: list[_Child] = []
        self._listening: socket.socket | None = None
        self._is_ready = False

    def run(self, say_ready: Callable[[str], None]) -> int:
        """Serve until SIGTERM or SIGINT.

        Args:
            say_ready: Called once, with the line that names AE title, port and page.

        Returns:
            0 after a drain; 1 when the node could not start.

        Raises:
            BundleError: The models could not be verified in time.
            SettingsError: A certificate cannot be used or has expired.
            StorageError: Another node is at work in the state directory, a port is in use, or the
                database is damaged or missing.
        """
        setproctitle("imaging-node: serve")
        configure_logging("serve")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self._stopping.set())
        lock, was_killed = hold_state(self._settings)
        try:
            return self._serve(say_ready, patience_s=_ORPHANS_GONE_S if was_killed else 0.0)
        finally:
            lock.mark("")

    def _serve(self, say_ready: Callable[[str], None], *, patience_s: float) -> int:
        # A second node would otherwise mistake the first one's answers for its own.
        dicom, web = self._settings.dicom, self._settings.web
        self._await_free_port(dicom.host, dicom.port, "dicom.port", patience_s=patience_s)
        self._await_free_port(web.host, web.port, "web.port", patience_s=patience_s)
        require_valid_certificates(self._settings, now())
        if not self._models_are_sound():
            return 0 if self._stopping.is_set() else 1
        recover_state(self._settings, patience_s=min(patience_s, _LAST_WORDS_S))
        try:
            # One socket for all receivers, which outlives each of them: while one is started
            # again, the kernel keeps who calls.
            self._listening = bind(dicom.host, dicom.port)
            for role, name in self._names():
                self._children.append(_Child(role, name, self._start(role, name)))
            while not self._stopping.wait(_POLL_S):
                if not self._keep_alive():
                    return 1
                if not self._is_ready and self._answers():
                    self._is_ready = True
                    line = self._ready_line()
                    log(Event.NODE_READY, version=__version__)
                    say_ready(line)
        finally:
            self._stop()
        return 0

    def _await_free_port(self, host: str, port: int, setting: str, *, patience_s: float) -> None:
        """Wait for the roles of a node that was killed, which end when they notice.

        Raises:
            StorageError: Something else listens there.
        """
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not self._stopping.is_set():
            try:
                require_free_port(host, port, setting)
            except StorageError:
                self._stopping.wait(_POLL_S)
            else:
                return
        require_free_port(host, port, setting)

    def _models_are_sound(self) -> bool:
        """Whether every bundle answers its golden cases; False as well when told to stop.

        Raises:
            BundleError: It took too long.
        """
        process = subprocess.Popen(  # noqa: S603 - our own command
            self._command("models", "verify", "--in-service"), stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _MODELS_LIMIT_S
        try:
            while process.poll() is None and not self._stopping.is_set():
                if time.monotonic() >= deadline:
                    raise BundleError(
                        "the golden cases of the models in service were not answered within"
                        f" {_MODELS_LIMIT_S / 60:.0f} minutes; see `imaging-node doctor`, or"
                        " choose another scoring.provider"
                    )
                self._stopping.wait(_POLL_S)
        finally:
            _end(process, limit_s=_LAST_WORDS_S)
        return process.returncode == 0

    def _names(self) -> list[tuple[str, str]]:
        processes = {
            "receive": self._settings.dicom.receivers,
            "score": len(self._settings.scoring.devices),
        }
        return [(role, role) for role in ROLES] + [
            (role, f"{role}-{number}")
            for role, count in processes.items()
            for number in range(2, count + 1)
        ]

    def _device_id(self, name: str) -> int:
        """GPU of a scorer: the first one's name has no number."""
        number = name.partition("-")[2] or "1"
        return self._settings.scoring.devices[int(number) - 1]

    def _start(self, role: str, name: str) -> subprocess.Popen[bytes]:
        arguments = [role, "--supervisor-pid", str(os.getpid())]
        inherited: tuple[int, ...] = ()
        if role == "receive" and self._listening is not None:
            inherited = (self._listening.fileno(),)
            arguments += ["--name", name, "--listening-descriptor", str(*inherited)]
        if role == "score":
            arguments += ["--name", name, "--device", str(self._device_id(name))]
        return subprocess.Popen(  # noqa: S603 - our own command
            self._command(*arguments), stdin=subprocess.DEVNULL, pass_fds=inherited
        )

    def _start_again(self, child: _Child) -> None:
        if child.role == "receive":
            self._recover_intake()
        child.process = self._start(child.role, child.name)
        child.started_at = time.monotonic()
        child.restart_at = None

    def _recover_intake(self) -> None:
        """Remove what a dead receiver left half-written."""
        try:
            recover_state(self._settings)
        except StorageError as error:
            log(Event.DATABASE_FAILED, role="serve", reason=str(error))

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "imaging_node", *arguments, *self._arguments]

    def _keep_alive(self) -> bool:
        """Restart what died; False when a role cannot start at all."""
        for child in self._children:
            exit_code = child.process.poll()
            if exit_code is None:
                continue
            if child.restart_at is None:
                if exit_code == 1 and not self._is_ready and not child.restarts:
                    return False  # it has said why: a port in use, an unwritable folder
                if time.monotonic() - child.started_at > _STABLE_S:
                    child.restarts = 0
                wait_s = min(_LONGEST_RESTART_S, _FIRST_RESTART_S * 2.0**child.restarts)
                child.restart_at = time.monotonic() + wait_s
                child.restarts += 1
                log(Event.ROLE_DIED, role=child.name, exit_code=exit_code, wait_s=wait_s)
            elif time.monotonic() >= child.restart_at:
                self._start_again(child)
        return True

    def _answers(self) -> bool:
        """Whether every role has reported: the listener does once it accepts connections."""
        url = f"{self._page_address()}readyz"
        try:
            with _WITHOUT_PROXY.open(url, timeout=2) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except (urllib.error.URLError, OSError):
            return False

    def _ready_line(self) -> str:
        dicom = self._settings.dicom
        return (
            f"ready: AE title {dicom.ae_title}, DICOM {dicom.host} port {dicom.port},"
            f" page {self._page_address()}"
        )

    def _page_address(self) -> str:
        return f"http://{_reachable(self._settings.web.host)}:{self._settings.web.port}/"

    def _stop(self) -> None:
        log(Event.NODE_STOPPING)
        deadline = time.monotonic() + _STOP_LIMIT_S
        processes = [child.process for child in self._children]
        for process in processes:
            if process.poll() is None:
                process.terminate()
        if self._listening is not None:
            # The receivers have their own: once they are gone, who calls must not wait in vain.
            self._listening.close()
        for process in processes:
            _end(process, limit_s=max(0.1, deadline - time.monotonic()))


def _end(process: subprocess.Popen[bytes], *, limit_s: float) -> None:
    """Ask a process to end if it still runs, and see to it after `limit_s`."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def require_free_port(host: str, port: int, setting: str) -> None:
    """Find out before anything starts.

    Raises:
        StorageError: Something else listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StorageError(
                f"cannot listen on {host} port {port} ({error.strerror});"
                f" free the port or change {setting}"
            ) from error


def _reachable(host: str) -> str:
    """An address of this machine for a listener's address: "every address" cannot be called."""
    if host in ("0.0.0.0", ""):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
