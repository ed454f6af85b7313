"""One trial: a life with a fault, what the fault leaves, a second life, and the promises."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from crash.films import FilmMaker
from crash.invariants import check, missing
from crash.life import LOOPBACK, PACS_AE_TITLE, Orders
from crash.peers import Sender
from crash.power import hold_all, lose_power
from crash.shim import Fault, Mode, Phase, Tally, read_tally
from crash.variants import Variant
from crash.zygote import Zygote
from imaging_node.demonstration.local_node import free_ports
from imaging_node.dicom.pacs import ReceivingPacs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LIFE_LIMIT_S = 60.0
# All is received, a study is claimed and some of its results are in the spool.
_BEFORE_A_RESTART = Fault(mode=Mode.KILL, phase=Phase.SCORE, number=40)


@dataclass(slots=True)
class Life:
    """How a life went.

    Attributes:
        kept: What the node found to be whole when it started; None: it did not come to that.
        unfinished: Studies and deliveries that wait at its end; None: it did not come to that.
        error: Why it gave up, if it did.
        exit_status: Negative: the signal that ended it.
    """

    kept: list[str] | None = None
    unfinished: int | None = None
    error: str = ""
    exit_status: int = 0


@dataclass(slots=True)
class TrialOutcome:
    """What came of a trial.

    Attributes:
        is_hit: Whether the fault's point was reached.
        what: The call at that point.
    """

    fault: Fault | None
    variant: Variant
    is_hit: bool
    what: str
    tally: Tally
    violations: list[str] = field(default_factory=list)


class Stage:
    """Owns a zygote and a PACS, for one trial after the other; a context manager."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._folder = folder
        self._library = library
        self._films = FilmMaker()
        [self._pacs_port] = free_ports(1)
        self._pacs = ReceivingPacs(ae_title=PACS_AE_TITLE, host=LOOPBACK, port=self._pacs_port)
        self._zygote = Zygote(library)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._zygote.__exit__(*error)
        self._pacs.close()

    def run(
        self, number: int, fault: Fault | None, variant: Variant = Variant.AS_DESIGNED
    ) -> TrialOutcome:
        """One trial on a fresh state directory, which stays only if a promise was broken."""
        folder = self._folder / f"trial-{number:05d}"
        for name in ("state", "shadow", "files"):
            (folder / name).mkdir(parents=True)
        sender = Sender(self._films.make(folder / "files", number))
        before = len(self._pacs.stored)

        age = 1
        if fault is not None and fault.phase is Phase.RESTART:
            self._live(folder, age, _BEFORE_A_RESTART, variant, sender)
            hold_all(folder / "state", folder / "shadow")
            age = 2
        first = self._live(folder, age, fault, variant, sender)
        tally = read_tally(folder / f"tally-{age}")
        outcome = TrialOutcome(fault, variant, bool(tally.what), tally.what, tally)
        acknowledged = set(sender.acknowledged)
        if fault is not None and fault.mode in (Mode.POWER, Mode.EIO):
            lose_power(folder / "state", folder / "shadow")
        second = self._live(folder, age + 1, None, variant, sender)

        outcome.violations = [*_judge_first(first, fault), *_judge_second(second, acknowledged)]
        if second.unfinished is not None:
            stored = self._pacs.stored[before:]
            outcome.violations += check(folder / "state", sender.files, sender.acknowledged, stored)
        if not outcome.violations:
            shutil.rmtree(folder)
        return outcome

    def _live(
        self, folder: Path, age: int, fault: Fault | None, variant: Variant, sender: Sender
    ) -> Life:
        talk = folder / f"talk-{age}"
        [port] = free_ports(1)
        life = Life()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(talk))
            listener.listen(1)
            listener.settimeout(_LIFE_LIMIT_S)
            pid = self._zygote.fork(
                Orders(
                    state=folder / "state",
                    shadow=folder / "shadow",
                    tally=folder / f"tally-{age}",
                    talk=talk,
                    log=folder / "log",
                    shim=self._library,
                    port=port,
                    pacs_port=self._pacs_port,
                    age=age,
                    fault=fault,
                    variant=variant,
                )
            )
            try:
                connection, _ = listener.accept()
                connection.settimeout(_LIFE_LIMIT_S)
                with connection:
                    for said in _lines(connection):
                        _hear(said, life, connection, sender, port)
            except TimeoutError:
                life.error = f"it hung for {_LIFE_LIMIT_S:g} s"
                os.kill(pid, signal.SIGKILL)
        life.exit_status = self._zygote.await_end()
        return life


def _hear(
    said: dict[str, Any], life: Life, connection: socket.socket, sender: Sender, port: int
) -> None:
    match said["word"]:
        case "inventory":
            life.kept = said["kept"]
        case "listening":
            sender.send_pending(port)
            with suppress(BrokenPipeError, ConnectionResetError):  # the fault has ended it
                connection.sendall(b"go on\n")
        case "failed":
            life.error = said["error"]
        case "ended":
            life.unfinished = said["unfinished"]


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What a life says, until it ends."""
    with connection.makefile("r", encoding="utf-8") as stream:
        try:
            for line in stream:
                yield json.loads(line)
        except ConnectionResetError:
            return


def _judge_first(life: Life, fault: Fault | None) -> list[str]:
    """A fault may end the node or make it end itself; it may not make it fail or hang."""
    if life.error.startswith("it hung"):
        return [f"before the restart {life.error}"]
    killed = fault is not None and fault.mode in (Mode.KILL, Mode.POWER)
    allowed = (0, 4, -signal.SIGKILL) if killed else (0, 4)
    if life.exit_status not in allowed:
        return [f"the node failed with exit status {life.exit_status}"]
    return []


def _judge_second(life: Life, acknowledged: set[str]) -> list[str]:
    if life.kept is None or life.unfinished is None:
        return [f"the restart failed: {life.error or f'exit status {life.exit_status}'}"]
    broken = missing(acknowledged, life.kept)
    if life.unfinished:
        broken.append(f"I1: {life.unfinished} studies or deliveries wait for ever")
    return broken
