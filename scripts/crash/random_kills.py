"""Kills at random moments, under load, on a whole node: for as long as asked."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import psutil

from crash.films import FilmMaker
from crash.invariants import check
from crash.peers import Sender
from imaging_node.demonstration.local_node import LocalNode
from imaging_node.domain.errors import OperatorError
from imaging_node.domain.lifecycle import FINAL_STUDY_STATES, DeliveryState
from imaging_node.node.serve import ROLES
from imaging_node.node.wiring import now, open_state
from imaging_node.store.listings import count_work

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imaging_node.dicom.pacs import StoredByPacs

_SETTINGS = {
    "study": {"quiet_period_s": 0.2},
    "scoring": {"lease_s": 5},
    "delivery": {"retry_first_s": 0.2, "retry_max_s": 2},
}
_LONGEST_PAUSE_S = 2.0
_WHOLE_NODE_EVERY = 8
_QUIET_LIMIT_S = 300.0


class _Load:
    """Owns the thread that sends film after film, each until it is acknowledged."""

    def __init__(self, folder: Path, ae_title: str) -> None:
        self._folder = folder
        self._films = FilmMaker()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self.sender = Sender([], ae_title=ae_title)
        self.port = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the film under way was acknowledged."""
        self._is_over.set()
        self._thread.join(timeout=_QUIET_LIMIT_S)

    def _send(self) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            film = self._films.film(self._folder, number)
            self.sender.files = [*self.sender.files, film]
            while film.sop_instance_uid not in self.sender.acknowledged:
                self.sender.send_pending(self.port)
                if film.sop_instance_uid not in self.sender.acknowledged:
                    time.sleep(0.1)  # a modality waits before it tries again


def kill_at_random(
    folder: Path, seconds: float, *, seed: int, tell: Callable[[str], None]
) -> list[str]:
    """Load a node, kill roles and now and then all of it; returns the broken promises."""
    chance = random.Random(seed)  # noqa: S311 - moments of kills, reproducible on purpose
    stored: list[StoredByPacs] = []
    node = LocalNode(folder, _SETTINGS)
    load = _Load(folder, node.settings.dicom.ae_title)
    load.port = node.settings.dicom.port
    load.start()
    deadline = time.monotonic() + seconds
    kills = 0
    try:
        while time.monotonic() < deadline:
            time.sleep(chance.uniform(0.05, _LONGEST_PAUSE_S))
            if chance.randrange(_WHOLE_NODE_EVERY):
                kills += _kill_role(node, chance.choice(ROLES))
                continue
            kills += 1
            _kill_all(node)
            stored += node.pacs.stored
            node = LocalNode(folder, _SETTINGS)
            load.port = node.settings.dicom.port
        load.stop()
        _await_quiet(node)
        state = node.settings.state_directory
    finally:
        node.stop()
    stored += node.pacs.stored
    tell(
        f"{kills} kills in {seconds:g} s under load: {len(load.sender.files)} studies sent,"
        f" {len(stored)} objects at the PACS"
    )
    return check(state, load.sender.files, load.sender.acknowledged, stored, may_decline=True)


def _kill_role(node: LocalNode, role: str) -> bool:
    """Kill a role's process; False when it is dead already and waits to be started."""
    for child in psutil.Process(node.process.pid).children():
        try:
            if " ".join(child.cmdline()).strip() == f"imaging-node: {role}":
                child.kill()
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def _kill_all(node: LocalNode) -> None:
    """What a failing machine does: no process sees another end."""
    family = psutil.Process(node.process.pid).children(recursive=True)
    node.process.kill()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)
    node.stop()


def _await_quiet(node: LocalNode) -> None:
    database, _, _ = open_state(node.settings)
    deadline = time.monotonic() + _QUIET_LIMIT_S
    try:
        while time.monotonic() < deadline:
            counts = count_work(database, now=now())
            ended = sum(counts.studies.get(each, 0) for each in FINAL_STUDY_STATES)
            waiting = counts.deliveries.get(DeliveryState.WAITING, 0)
            if ended == sum(counts.studies.values()) and not waiting:
                return
            time.sleep(0.2)
    finally:
        database.close()
    raise OperatorError(f"the node was not done within {_QUIET_LIMIT_S:g} s; see its log")
