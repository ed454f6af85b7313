"""The node's side of the fork server: starts it, and asks it for decoder processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imaging_node.dicom.fork_server import FAILED, FORK, PID_BYTES, READY
from imaging_node.domain.errors import TemporaryError

if TYPE_CHECKING:
    from imaging_node.dicom.decoding_budget import DecodingBudget

START_LIMIT_S: Final = 60.0

_FORK_LIMIT_S: Final = 10.0
_END_SHOWS_S: Final = 0.05
_DEATH_LIMIT_MS: Final = 2000
_PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildProcess:
    """A process that another one forked.

    Attributes:
        pid: For people and tests; it may be another process's once this one has ended.
        descriptor: Of pidfd_open(2): it stays with this process, so signals cannot hit another.
    """

    pid: int
    descriptor: int

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not _has_ended(self.descriptor, 0)

    def kill(self) -> None:
        """Kill it, dead or not."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)

    def bury(self) -> None:
        """Kill it, wait until it is gone and forget it."""
        self.kill()
        _has_ended(self.descriptor, _DEATH_LIMIT_MS)
        os.close(self.descriptor)


class ForkServer:
    """Owns the fork server's process and the socket to it; safe to share by threads.

    It must be made by a thread that lives as long: the process ends with that thread.
    """

    def __init__(self, *, memory_limit_bytes: int, budget: DecodingBudget) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        # Libraries that start threads of their own when imported would not survive a fork.
        alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        code = (
            f"import json, os, sys; os.environ.update({alone!r})\n"
            f"sys.path.insert(0, {str(_PACKAGE_PARENT)!r})\n"
            "from imaging_node.dicom.fork_server import main\n"
            f"main(parent_pid={os.getpid()}, control={theirs.fileno()},"
            f" memory_limit_bytes={memory_limit_bytes},"
            f" budget=json.loads({json.dumps(asdict(budget))!r}))"
        )
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._is_ready = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ends_now(self) -> bool:
        """Whether it ended; asked when one that it forked did, which the kernel may show first."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SHOWS_S)
        return not self.is_alive

    def fork(self) -> tuple[ChildProcess, socket.socket]:
        """A new decoder process, and the socket to it.

        Raises:
            TemporaryError: None could be started.
        """
        with contextlib.ExitStack() as closing:
            try:
                link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:  # the node's own descriptors: the decoders at work go on
                raise _not_started() from error
            closing.enter_context(link)
            with self._asking, theirs:
                answer, descriptors = self._exchange(theirs)
            if answer == FAILED or not descriptors:
                # One process too many, or no descriptor left for it: those at work go on. A decoder
                # that nobody holds ends when its socket does.
                raise _not_started()
            closing.pop_all()
        (descriptor,) = descriptors
        return ChildProcess(pid=int.from_bytes(answer, "little"), descriptor=descriptor), link

    def _exchange(self, theirs: socket.socket) -> tuple[bytes, list[int]]:
        """One request and its answer; a server that is out of step with them ends."""
        try:
            self._await_ready()
            self._control.settimeout(_FORK_LIMIT_S)
            socket.send_fds(self._control, [FORK], [theirs.fileno()])
            answer, descriptors, _, _ = socket.recv_fds(self._control, PID_BYTES + len(FAILED), 1)
        except OSError as error:
            self.kill()
            raise _not_started() from error
        if answer != FAILED and len(answer) != PID_BYTES:
            self.kill()
            raise _not_started()
        return answer, descriptors

    def kill(self) -> None:
        """End the process and, with it, all that it forked."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and close the socket; `fork` must not be called any more."""
        self.kill()
        self._control.close()

    def _await_ready(self) -> None:
        if self._is_ready:
            return
        self._control.settimeout(START_LIMIT_S)
        if self._control.recv(len(READY)) != READY:
            raise OSError("the fork server ended while it started")
        self._is_ready = True


def _not_started() -> TemporaryError:
    return TemporaryError("A decoder process did not start; see `doctor`", is_counted=False)


def _has_ended(descriptor: int, limit_ms: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(limit_ms))
