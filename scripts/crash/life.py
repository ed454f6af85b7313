"""One life of the node under test: start, receive, score and deliver, until a fault ends it."""

from __future__ import annotations

import json
import os
import socket
import traceback
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa

from crash.listening import Listening
from crash.shim import Fault, FaultLibrary, Mode, Phase
from crash.variants import Variant, make_wrong
from imaging_node.demonstration.local_node import DRAWN_FILMS_MODELS
from imaging_node.dicom.sender import Caller
from imaging_node.domain.errors import DurabilityError, ImagingNodeError, StorageError
from imaging_node.domain.lifecycle import FINAL_STUDY_STATES, DeliveryState
from imaging_node.domain.retrying import BackOff
from imaging_node.flow.delivery import DeliveryRoom, deliver_due
from imaging_node.flow.scoring import score_study
from imaging_node.node.recovery import recover_state
from imaging_node.node.scoring_room import close_scoring_room, open_scoring_room
from imaging_node.node.wiring import is_dead, now, open_state, worker_name
from imaging_node.settings import Settings
from imaging_node.store.claims import claim_study, release_claims
from imaging_node.store.content_digest import digest_of
from imaging_node.store.deliveries import release_deliveries
from imaging_node.store.owed_reports import release_owed
from imaging_node.store.schema import deliveries, instances, studies
from imaging_node.telemetry import Counters, configure_logging

if TYPE_CHECKING:
    from datetime import datetime

    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

LOOPBACK = "127.0.0.1"
AE_TITLE, PACS_AE_TITLE = "CRASH_NODE", "CRASH_PACS"
_LEASE = timedelta(seconds=60)
_WAIT = timedelta(seconds=30)
# Waits of a retry are skipped, not slept; so many in a row end in quiescence or in a report.
_MOST_WAITS = 12
STOPPED_ITSELF = 4
FAILED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What one life is to do.

    Attributes:
        talk: Socket on which the parent listens.
        age: Which life of its state directory this is; a later one has a later clock.
        fault: What befalls it; None for a life without faults.
    """

    PATHS: ClassVar = ("state", "shadow", "tally", "talk", "log", "shim")

    state: Path
    shadow: Path
    tally: Path
    talk: Path
    log: Path
    shim: Path
    port: int
    pacs_port: int
    age: int
    fault: Fault | None
    variant: Variant


def begin(line: str) -> int:
    """Live as the orders on one line of JSON say; returns the exit status of the process."""
    orders = _read_orders(json.loads(line))
    try:
        return live(orders)
    except Exception:  # noqa: BLE001 - top of the process
        with orders.log.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        return FAILED


def _read_orders(told: dict[str, Any]) -> Orders:
    fault = told["fault"]
    if fault is not None:
        fault = Fault(mode=Mode(fault["mode"]), phase=Phase(fault["phase"]), number=fault["number"])
    return Orders(
        **{name: Path(told[name]) for name in Orders.PATHS},
        port=told["port"],
        pacs_port=told["pacs_port"],
        age=told["age"],
        fault=fault,
        variant=Variant(told["variant"]),
    )


class Talk:
    """Lines to and from the parent."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def say(self, word: str, **more: Any) -> None:  # noqa: ANN401 - what JSON can hold
        """One line."""
        self._socket.sendall(json.dumps({"word": word, **more}).encode() + b"\n")

    def wait(self) -> None:
        """Until the parent says something."""
        if not self._lines.readline():
            os._exit(1)  # the parent is gone


class _Clock:
    """The real time, moved on whenever there is nothing to do but wait."""

    def __init__(self, age: int) -> None:
        self._skipped = timedelta(hours=age)

    def __call__(self) -> datetime:
        return now() + self._skipped

    def skip(self) -> None:
        self._skipped += _WAIT


def live(orders: Orders) -> int:
    """Run the node's own code from start to quiescence.

    Returns:
        Exit status of the process: 0, or 4 when the node wants to be started again.
    """
    talk = Talk(orders.talk)
    configure_logging("crash", stream=orders.log.open("a", encoding="utf-8", buffering=1))
    library = FaultLibrary(orders.shim)
    library.watch(orders.state, orders.shadow, orders.tally)
    make_wrong(orders.variant)
    library.enter(Phase.START if orders.age == 1 else Phase.RESTART)
    if orders.fault is not None:
        library.arm(orders.fault, lies=orders.variant.lies)
    settings = settings_of(orders)
    clock = _Clock(orders.age)
    try:
        recover_state(settings)
        state = open_state(settings)
        _release(state[0], clock)
        talk.say("inventory", kept=_inventory(state[0], state[1]))
        library.enter(Phase.RECEIVE)
        if not _receive(settings, state, orders, talk, clock):
            return STOPPED_ITSELF
        library.enter(Phase.SCORE)
        if _open_studies(state[0]):
            _score(settings, clock)
        library.enter(Phase.DELIVER)
        _deliver(settings, state, clock)
        talk.say("ended", unfinished=_unfinished(state[0]))
    except StorageError as error:
        # The role would end with this, and `serve` would start it again.
        talk.say("failed", error=str(error))
        return STOPPED_ITSELF
    return 0


def settings_of(orders: Orders) -> Settings:
    """The settings of the node under test."""
    return Settings.model_validate(
        {
            "state_directory": orders.state,
            "dicom": {"ae_title": AE_TITLE, "host": LOOPBACK, "port": orders.port},
            "peers": {
                "pacs": {"ae_title": PACS_AE_TITLE, "host": LOOPBACK, "port": orders.pacs_port}
            },
            "spool": {"min_free_bytes": 0, "min_free_inodes": 0},
            "scoring": {"decoders": 1, "threads": 1, "concurrent_studies": 1},
            "answer_not_applicable": True,
            "models": DRAWN_FILMS_MODELS,
        }
    )


def _release(database: Database, clock: _Clock) -> None:
    """What the roles do when they start."""
    release_claims(database, is_dead, now=clock())
    release_deliveries(database, is_dead, now=clock())
    release_owed(database, is_dead, now=clock())


def _inventory(database: Database, spool: Spool) -> list[str]:
    """SOP Instance UIDs of the instances whose row is there and whose file is whole."""
    with database.read() as connection:
        rows = connection.execute(sa.select(instances.c.sop_instance_uid, instances.c.digest)).all()
    return [
        row.sop_instance_uid
        for row in rows
        if (path := spool.path(row.digest)).exists() and digest_of(path.read_bytes()) == row.digest
    ]


def _receive(
    settings: Settings,
    state: tuple[Database, Spool, Any],
    orders: Orders,
    talk: Talk,
    clock: _Clock,
) -> bool:
    """Listen until the sender is done; False when the listener wants a new process."""
    listener = Listening(
        settings,
        state,
        Counters(),
        quiet_period=timedelta(0),
        clock=clock,
        is_acknowledging_first=orders.variant is Variant.ACKNOWLEDGE_FIRST,
    )
    talk.say("listening")
    talk.wait()
    if listener.has_lost_durability:
        return False
    listener.drain()
    return not listener.has_lost_durability


def _score(settings: Settings, clock: _Clock) -> None:
    room = replace(open_scoring_room(settings, Counters()), clock=clock)
    for _ in range(_MOST_WAITS):
        try:
            while claim := claim_study(
                room.database, worker=worker_name("score"), now=clock(), lease=_LEASE
            ):
                score_study(claim, room)
            if not _open_studies(room.database):
                break
        except DurabilityError:
            raise  # the role ends with this, and nothing more is committed
        except StorageError:
            pass  # the role notes it and goes on, with the lease to wait for
        clock.skip()
    close_scoring_room(room)


def _deliver(settings: Settings, state: tuple[Database, Spool, Any], clock: _Clock) -> None:
    database, spool, pseudonyms = state
    room = DeliveryRoom(
        database=database,
        spool=spool,
        pseudonyms=pseudonyms,
        caller=Caller(ae_title=AE_TITLE, timeout_s=10),
        peers=settings.peers,
        back_off=BackOff(first_s=1, longest_s=1),
        commitment_timeout=_WAIT,
        worker=worker_name("deliver"),
        counters=Counters(),
        clock=clock,
        is_stopping=lambda: False,
        record=lambda _: None,
    )
    for _ in range(_MOST_WAITS):
        try:
            while deliver_due("pacs", settings.peers["pacs"], room):
                pass
            if not _waiting_deliveries(database):
                return
        except ImagingNodeError:
            pass  # as above
        clock.skip()


def _open_studies(database: Database) -> int:
    with database.read() as connection:
        return (
            connection.scalar(
                sa.select(sa.func.count())
                .select_from(studies)
                .where(studies.c.state.not_in(FINAL_STUDY_STATES))
            )
            or 0
        )


def _waiting_deliveries(database: Database) -> int:
    with database.read() as connection:
        return (
            connection.scalar(
                sa.select(sa.func.count())
                .select_from(deliveries)
                .where(deliveries.c.state == DeliveryState.WAITING)
            )
            or 0
        )


def _unfinished(database: Database) -> int:
    return _open_studies(database) + _waiting_deliveries(database)
