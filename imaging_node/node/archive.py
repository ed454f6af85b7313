"""Wire `reprocess`: the scoring role's workers over an archive instead of a listener."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from imaging_node.domain.errors import StorageError
from imaging_node.domain.model_state import ModelState
from imaging_node.flow.intake import open_room
from imaging_node.flow.reprocessing import (
    ScanOutcome,
    export_ended,
    exported_studies,
    queue_archive,
    save_maps,
    scan_archive,
)
from imaging_node.node.installed import read_node_decisions
from imaging_node.node.models import ModelLoader
from imaging_node.node.recovery import recover_state
from imaging_node.node.score import StudyWorkers
from imaging_node.node.scoring_room import close_scoring_room, open_scoring_room
from imaging_node.node.wiring import is_dead, now, open_state
from imaging_node.store.claims import release_claims
from imaging_node.store.damage import require_undamaged
from imaging_node.store.listings import list_studies
from imaging_node.store.lock_file import LockFile
from imaging_node.telemetry import Counters, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from imaging_node.domain.lifecycle import StudyState
    from imaging_node.settings import Settings

    Progress = Callable[..., AbstractContextManager[Callable[[], None]]]

STATE_FOLDER = ".imaging-node"
_IDLE_S = 0.1


def reprocess_archive(
    files: Sequence[Path],
    settings: Settings,
    out: Path,
    *,
    is_saving_maps: bool,
    progress: Progress,
    tell: Callable[[ScanOutcome], None],
) -> Counter[StudyState]:
    """Score all studies of an archive and export them to `out`; resumes an earlier run.

    Returns:
        Studies by final state.

    Raises:
        BundleError: A bundle is not what its manifest says.
        IntegrityError: The run's database is damaged.
        StorageError: The output folder cannot be used.
    """
    _take_title(out / STATE_FOLDER)
    own = settings.model_copy(
        update={
            "state_directory": out / STATE_FOLDER,
            "database": settings.database.model_copy(update={"url": ""}),
            "destinations": (),
        }
    )
    _lock(out / STATE_FOLDER)
    recover_state(own)
    counters = Counters()
    loader = ModelLoader(settings, counters)
    # What the node's own studies are answered with, and nothing on trial.
    room = open_scoring_room(
        own,
        counters,
        loader=loader,
        decisions=read_node_decisions(settings),
        states={ModelState.PRIMARY},
        model_settings=settings,
    )
    if is_saving_maps:
        room = replace(room, on_answer=partial(save_maps, out=out, pseudonyms=room.pseudonyms))
    release_claims(room.database, is_dead, now=now())
    with progress("reading", total=len(files)) as advance:
        tell(scan_archive(files, room.database, clock=now, advance=advance))
    done = exported_studies(out)
    studies = list_studies(room.database, now=now())
    pending = {f"{each.study_instance_uid} {each.generation}" for each in studies} - done
    begun_at = min((each.finished_at for each in studies if each.finished_at), default=now())
    with progress("scoring", total=len(studies)) as advance:
        for _ in range(len(studies) - len(pending)):
            advance()
        with StudyWorkers(own, room) as workers:
            while pending:
                if not workers.take_some():
                    require_undamaged(room.database)
                    workers.wait_for_one(_IDLE_S)
                begun_at = export_ended(
                    out,
                    pending,
                    database=room.database,
                    spool=room.spool,
                    pseudonyms=room.pseudonyms,
                    since=begun_at,
                    advance=advance,
                )
    states = Counter(record.state for record in list_studies(room.database, now=now()))
    close_scoring_room(room)
    return states


def deliver_archive(
    files: Sequence[Path], settings: Settings, *, advance: Callable[[], None]
) -> ScanOutcome:
    """Queue all studies of an archive on the state directory of a running node.

    Raises:
        StorageError: The state directory cannot be used, or is full.
    """
    _take_title(settings.state_directory)
    database, spool, pseudonyms = open_state(settings)
    room = open_room(
        database,
        spool,
        pseudonyms,
        quiet_period=timedelta(seconds=settings.study.quiet_period_s),
        priority_by_calling_ae_title={},
        is_archive=True,
        clock=now,
    )
    return queue_archive(files, room, advance=advance)


def _take_title(state_directory: Path) -> None:
    # Paths of an archive may name patients; events would run through the progress bar.
    setproctitle("imaging-node: reprocess")
    try:
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_file = (state_directory / "reprocess.log").open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise StorageError(
            f"cannot write to {state_directory.parent} ({error.strerror});"
            " name a folder that you may write"
        ) from error
    configure_logging("reprocess", stream=log_file)


def _lock(folder: Path) -> None:
    """Keep a second run out of the same output folder until this process ends.

    Raises:
        StorageError: Another run is at work there.
    """
    if not LockFile(folder / "lock").take():
        raise StorageError(
            f"another reprocess run is at work in {folder.parent}; wait for it,"
            " or name another --out"
        )
