"""The `score` role: claims studies, several at a time so that their images share launches."""

from __future__ import annotations

import math
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Self

from imaging_node.domain.errors import DurabilityError, OperatorError, StorageError
from imaging_node.domain.model_state import ModelState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.flow.analysis import lane
from imaging_node.flow.scoring import ScoringRoom, give_back, score_study
from imaging_node.flow.shadowing import bundle_of_owner
from imaging_node.inference.batching import FIRST_LAUNCH_FACTOR
from imaging_node.inference.lanes import STAT
from imaging_node.node.drift_thread import WATCHING_PROCESS, open_drift_thread
from imaging_node.node.installed import read_node_decisions
from imaging_node.node.launch_watch import LaunchWatch
from imaging_node.node.model_changes import demote_model, stop_model
from imaging_node.node.model_watch import ModelWatch
from imaging_node.node.models import ModelLoader
from imaging_node.node.recovery import recover_state
from imaging_node.node.role import DRAIN_LIMIT_S, EXIT_DURABILITY_LOST, Role
from imaging_node.node.scoring_room import close_scoring_room, open_scoring_room
from imaging_node.node.shadow_worker import ShadowWorker
from imaging_node.node.wiring import is_dead, now, worker_name
from imaging_node.store.claims import Claim, claim_studies, release_claims, renew_claims
from imaging_node.store.damage import find_damage
from imaging_node.telemetry import Event, log, place_of

if TYPE_CHECKING:
    from imaging_node.settings import Settings

_IDLE_S = 0.1
# With enough in work: how often to look for an urgent study.
_FULL_S = 0.05
# No study takes this long. One that does hangs in a library, which only a new process cures.
# Beside what its launch may take.
LONGEST_STUDY_S = 600.0
_DAMAGE_CHECK_S = 600.0


def run_score(
    settings: Settings,
    *,
    supervisor_pid: int | None,
    name: str = "score",
    device_id: int | None = None,
) -> None:
    """Score until told to stop, then finish the studies in work.

    Args:
        settings: As read.
        supervisor_pid: Process of `serve` that started this one.
        name: Name of this process among several.
        device_id: Its GPU; None: the first of `scoring.devices`.

    Raises:
        BundleError: A bundle is not what its manifest says.
        StorageError: The state directory cannot be used.
    """
    with Role(name, settings, supervisor_pid=supervisor_pid) as role:
        if supervisor_pid is None:
            recover_state(settings)
        decisions = read_node_decisions(settings)
        loader = ModelLoader(settings, role.counters, device_id=device_id)
        room = open_scoring_room(settings, role.counters, loader=loader, decisions=decisions)
        models = ModelWatch(
            settings,
            room.database,
            loader,
            room.lineup,
            role.counters,
            revision=decisions.revision,
        )
        released = release_claims(room.database, is_dead, now=now())
        if released:
            log(Event.CLAIMS_RELEASED, role=name, count=released)
        role.start_heartbeat(room.database)
        drift = (
            open_drift_thread(
                settings,
                room,
                _note_storage,
                demote=partial(demote_model, settings, room.database, room.lineup),
            )
            if name == WATCHING_PROCESS
            else nullcontext()
        )
        with StudyWorkers(settings, room) as workers, drift:
            models.start()
            while not role.stopping.is_set():
                try:
                    is_idle = not workers.take_some()
                except StorageError as error:
                    _note_storage(error)
                    is_idle = True
                if is_idle:
                    role.stopping.wait(_IDLE_S)
            models.stop()
        close_scoring_room(room)


@dataclass(slots=True)
class _Work:
    """A claimed study, and when a thread began with it: never while it waits for one."""

    claim: Claim
    begun_s: float = math.inf


class StudyWorkers:
    """Owns the threads that score studies, and the leases of what they work on."""

    def __init__(self, settings: Settings, room: ScoringRoom) -> None:
        self._settings = settings
        self._shadow = ShadowWorker(room, self._has_urgent)
        self._room = replace(room, on_recorded=self._shadow.take)
        self._limit = settings.scoring.concurrent_studies
        longest_launch_s = FIRST_LAUNCH_FACTOR * settings.scoring.launch_limit_s
        self._longest_study_s = LONGEST_STUDY_S + longest_launch_s
        self._foreign_limit_s = settings.scoring.foreign_limit_s
        self._lease = timedelta(seconds=settings.scoring.lease_s)
        self._worker = worker_name("score")
        self._threads = ThreadPoolExecutor(self._limit, thread_name_prefix="study")
        self._urgent_threads = ThreadPoolExecutor(self._limit, thread_name_prefix="urgent")
        self._running: dict[Future[None], _Work] = {}
        self._look_at_s = 0.0
        # Held while studies are claimed: whoever gives claims back sees all of them.
        self._claiming = threading.Lock()
        self._is_ending = False
        self._is_over = threading.Event()
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._watch = LaunchWatch(room.batcher, self._end_launch_at_fault)

    def __enter__(self) -> Self:
        self._renewer.start()
        self._shadow.start()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending = True
        self._shadow.stop()
        for future, work in list(self._running.items()):
            if future.cancel():
                self._give_back(work.claim, "the node is stopping", wait_s=0.0)
        wait(self._running, timeout=DRAIN_LIMIT_S - 5)
        self._is_over.set()
        self._watch.stop()
        # What is still running loses its lease and is done again: nothing is lost.
        for threads in (self._threads, self._urgent_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def take_some(self) -> bool:
        """Claim and start studies, as many as will be needed soon.

        A thread that ends a study finds the next one claimed already. Urgent studies do not wait
        behind those: they have as many threads of their own.

        Returns:
            False when none is due: there is nothing to do but wait.

        Raises:
            StorageError: The database could not be used.
        """
        with self._claiming:
            self._forget_finished()
            least_urgency, wanted = self._wanted()
            claims = (
                claim_studies(
                    self._room.database,
                    worker=self._worker,
                    now=self._room.clock(),
                    lease=self._lease,
                    limit=wanted,
                    least_urgency=least_urgency,
                    # It was in work when a worker died: alone, so that it takes no other with it.
                    may_retry=not self._running,
                )
                if wanted
                else []
            )
            for claim in claims:
                self._start(claim)
        if wanted:
            self._look_at_s = time.monotonic() + _FULL_S
        is_full = not wanted or bool(least_urgency)
        if is_full and not claims:
            self.wait_for_one(_FULL_S)
        return is_full or bool(claims)

    def _wanted(self) -> tuple[int, int]:
        """The least urgency that is asked for now, and how many studies."""
        running = [work.claim for work in self._running.values()]
        if self._is_ending or any(claim.attempts > 1 for claim in running):
            return 0, 0
        if len(running) <= self._limit:
            return 0, 2 * self._limit - len(running)
        if time.monotonic() < self._look_at_s:
            return 0, 0
        urgent = sum(_is_urgent(claim) for claim in running)
        return ReadingPriority.URGENT.urgency, max(0, self._limit - urgent)

    def _start(self, claim: Claim) -> None:
        urgent = sum(_is_urgent(work.claim) for work in self._running.values())
        has_own = _is_urgent(claim) and urgent < self._limit
        work = _Work(claim)
        threads = self._urgent_threads if has_own else self._threads
        self._running[threads.submit(self._score, work)] = work

    def wait_for_one(self, limit_s: float) -> None:
        """Return when a study in work has ended, after `limit_s` at the latest."""
        if self._running:
            wait(self._running, timeout=limit_s, return_when="FIRST_COMPLETED")
            self._forget_finished()
        else:
            self._is_over.wait(limit_s)

    def _score(self, work: _Work) -> None:
        work.begun_s = time.monotonic()
        claim = work.claim
        try:
            score_study(claim, self._room)
        except StorageError as error:
            _note_storage(error)
        except Exception as error:  # noqa: BLE001 - top of a study's worker thread
            log(
                Event.THREAD_FAILED,
                role="score",
                study=self._room.pseudonyms.token(claim.study_instance_uid),
                error=type(error).__name__,
                where=place_of(error.__traceback__),
            )
            self._give_back(claim, "software failure; see the log")

    def _give_back(self, claim: Claim, reason: str, *, wait_s: float | None = None) -> None:
        try:
            give_back(claim, self._room, reason=reason, wait_s=wait_s)
        except StorageError as error:
            _note_storage(error)

    def _has_urgent(self) -> bool:
        return any(_is_urgent(work.claim) for work in list(self._running.values()))

    def _end_launch_at_fault(self, owners: frozenset[str]) -> None:
        """Give back what is not in the launch, and take out a model in shadow that is."""
        self._give_back_others(owners)
        for bundle in sorted({bundle_of_owner(each) for each in owners} - {""}):
            log(Event.MODEL_STOPPED, model=bundle)
            try:
                stop_model(
                    self._settings,
                    self._room.database,
                    bundle,
                    state=ModelState.RETIRED,
                    reason="its launch hung or lost the accelerator",
                    changed_by="score",
                )
            except OperatorError as error:
                log(Event.DATABASE_FAILED, role="score", reason=str(error))

    def _give_back_others(self, tokens: frozenset[str]) -> None:
        """Queue again, uncounted, what is in work under none of these claims' tokens."""
        self._is_ending = True
        with self._claiming:
            running = list(self._running.items())
        for future, work in running:
            if not future.done() and work.claim.token not in tokens:
                reason = "the process ended because of another study"
                self._give_back(work.claim, reason, wait_s=0.0)

    def _forget_finished(self) -> None:
        self._running = {
            future: work for future, work in self._running.items() if not future.done()
        }

    def _renew(self) -> None:
        look_at_s = time.monotonic() + _DAMAGE_CHECK_S
        while not self._is_over.wait(self._lease.total_seconds() / 3):
            if time.monotonic() >= look_at_s:
                look_at_s = time.monotonic() + _DAMAGE_CHECK_S
                self._look_for_damage()
            running = list(self._running.items())
            self._end_when_one_hangs(running)
            tokens = [work.claim.token for _, work in running]
            if not tokens:
                continue
            try:
                renew_claims(self._room.database, tokens, now=self._room.clock(), lease=self._lease)
            except StorageError as error:
                _note_storage(error)

    def _look_for_damage(self) -> None:
        """Notice damage where no claim comes by, such as in the time a study is due."""
        try:
            find_damage(self._room.database, now=self._room.clock())
        except StorageError as error:
            _note_storage(error)

    def _end_when_one_hangs(self, running: list[tuple[Future[None], _Work]]) -> None:
        """End the process when a study is stuck: its attempt counts, no other's does."""
        for future, work in running:
            claim = work.claim
            # Foreign bundles have a time of their own, one after another.
            foreign_s = self._foreign_limit_s * len(self._room.lineup.foreign)
            longest_s = self._longest_study_s + foreign_s
            if not future.done() and time.monotonic() - work.begun_s > longest_s:
                log(
                    Event.STUDY_HANGS,
                    study=self._room.pseudonyms.token(claim.study_instance_uid),
                    attempts=claim.attempts,
                )
                self._give_back_others(frozenset({claim.token}))
                os._exit(1)


def _is_urgent(claim: Claim) -> bool:
    return lane(claim) == STAT


def _note_storage(error: StorageError) -> None:
    """Say what failed; after a failed fsync end the process, and what it had claimed is due."""
    log(Event.DATABASE_FAILED, role="score", reason=str(error))
    if isinstance(error, DurabilityError):
        log(Event.DURABILITY_LOST, role="score")
        os._exit(EXIT_DURABILITY_LOST)
