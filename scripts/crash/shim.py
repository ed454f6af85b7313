"""The preloaded library of faults: made with cc, armed through ctypes, read when all is over."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

from imaging_node.domain.errors import OperatorError

SOURCE = Path(__file__).resolve().parents[1] / "faults.c"
_PHASES, _GROUPS, _WHAT_BYTES = 8, 3, 256
_TALLY = struct.Struct(f"={_PHASES * _GROUPS}qq{_WHAT_BYTES}s")


class Phase(IntEnum):
    """What the node is doing; points are numbered anew in each.

    A restart is a start on what an earlier kill, in the middle of scoring, has left.
    """

    START = 0
    RECEIVE = 1
    SCORE = 2
    DELIVER = 3
    RESTART = 4


class Group(IntEnum):
    """Which calls a fault counts."""

    ANY = 0
    SYNC = 1
    SPACE = 2


class Action(IntEnum):
    """What the library does at the armed point."""

    NOTHING = 0
    KILL = 1
    FAIL_SYNC = 2
    NO_SPACE_ONCE = 3
    NO_SPACE_FROM_HERE = 4


class Mode(StrEnum):
    """The faults of the campaign."""

    KILL = "kill"
    POWER = "power"
    EIO = "eio"
    ENOSPC = "enospc"

    @property
    def group(self) -> Group:
        """The calls that its points are numbered by."""
        return {Mode.EIO: Group.SYNC, Mode.ENOSPC: Group.SPACE}.get(self, Group.ANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One numbered point and what happens there.

    Attributes:
        number: Of the call within its phase and group, from 1.
    """

    mode: Mode
    phase: Phase
    number: int

    @property
    def action(self) -> Action:
        """For the library; a disk is full for one call or from there on, in turn."""
        if self.mode is Mode.ENOSPC:
            return Action.NO_SPACE_FROM_HERE if self.number % 2 else Action.NO_SPACE_ONCE
        return Action.FAIL_SYNC if self.mode is Mode.EIO else Action.KILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the library saw.

    Attributes:
        counts: Calls by phase and group.
        what: Call and file of the armed point; "" when it was not reached.
    """

    counts: Sequence[Sequence[int]]
    what: str


class FaultLibrary:
    """The library as preloaded into this process."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def watch(self, state: Path, shadow: Path, tally: Path) -> None:
        """Begin to count calls that concern `state`, and to keep what is durable in `shadow`.

        Raises:
            OperatorError: `tally` cannot be mapped.
        """
        if self._library.faults_watch(bytes(state), bytes(shadow), bytes(tally)):
            raise OperatorError(f"cannot map {tally}; free space there")

    def arm(self, fault: Fault, *, lies: int) -> None:
        """Choose the point; `lies`: 1 fsync of spooled files, 2 of folders does nothing."""
        self._library.faults_arm(fault.phase, fault.number, fault.action, lies)

    def enter(self, phase: Phase) -> None:
        """Number the calls from 1 again."""
        self._library.faults_phase(int(phase))


def compile_shim(folder: Path) -> Path:
    """The library, made from its source.

    Raises:
        OperatorError: There is no C compiler, or it refused.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise OperatorError("cannot make the faults: cc is not installed (Debian: build-essential)")
    library = folder / "faults.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OperatorError(f"cc refused {SOURCE.name}: {done.stderr.strip()[-500:]}")
    return library


def read_tally(path: Path) -> Tally:
    """What was counted, also by a process that is dead."""
    fields = _TALLY.unpack(path.read_bytes())
    numbers = fields[: _PHASES * _GROUPS]
    return Tally(
        counts=[numbers[start : start + _GROUPS] for start in range(0, len(numbers), _GROUPS)],
        what=fields[-1].split(b"\0", 1)[0].decode(errors="replace"),
    )
