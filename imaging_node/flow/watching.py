"""From what models saw to alarms: take the new studies, judge them, record what was noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from imaging_node.domain.errors import UnknownRecordError
from imaging_node.domain.watching import ReferenceSource, WatchedModel
from imaging_node.inference.declaration import DeclaredMonitoring
from imaging_node.inference.drift_watch import DriftWatch
from imaging_node.inference.reference import build_reference
from imaging_node.store.database import Database
from imaging_node.store.observations import (
    observed_models,
    read_last_scored,
    read_observations,
    remove_old_observations,
)
from imaging_node.store.watches import (
    AlarmChange,
    list_alarms,
    list_watched,
    read_watch_state,
    record_watch,
)
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.inference.drift_watch import Noticed
    from imaging_node.store.observations import SeenImage
    from imaging_node.store.watches import WatchState


# State of a model that is to be watched anew.
_NOTHING_KNOWN: dict[str, str] = {"state": "new"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchingRoom:
    """What watching needs.

    Attributes:
        references: Of every model that answers, by digest, what its bundle declares; None of one
            that declares nothing.
        baseline: Studies that become a reference where there is none.
    """

    database: Database
    references: Callable[[], Mapping[str, DeclaredMonitoring | None]]
    baseline: int
    clock: Callable[[], datetime]


def watch_models(room: WatchingRoom) -> int:
    """Judge all studies that ended since the last time, of the models that answer.

    Alarms of a model that answers no more end: nobody reads its results, and nothing of its
    stream comes any more.

    Returns:
        How many alarms were raised.

    Raises:
        StorageError: The database could not be used; nothing is lost, the next call sees it again.
    """
    references = room.references()
    raised = 0
    for alarm in list_alarms(room.database, only_on=True):
        if alarm.model_digest not in references:
            _take_leave(room, alarm.model, alarm.model_digest)
    for model, digest, newest in observed_models(room.database):
        while digest in references:
            seen_id, alarms = _take(room, model, digest, references.get(digest))
            raised += alarms
            if seen_id is None or seen_id >= newest:
                break
    return raised


def accept_stream(database: Database, model: str, *, studies: int, now: datetime) -> WatchedModel:
    """Take a model's newest studies as what it is compared with from now on; its alarms end.

    Args:
        model: Bundle name; of several versions the one that was seen last.
        studies: How many.

    Raises:
        UnknownRecordError: No such model is watched, or it saw fewer studies.
    """
    digest = _last_seen(database, model)
    state = read_watch_state(database, digest)
    images = _one_of_each(read_last_scored(database, digest, studies=studies))
    scored = sum(each.observation.is_scored for each in images)
    if state is None or scored < studies // 2 or len(images) < studies:
        raise UnknownRecordError(
            f"{model} has {len(images)} studies, {scored} of them with scores: too few to compare"
            f" with; {studies} are needed (watching.reference_studies)"
        )
    try:
        reference = build_reference([each.observation for each in images])
    except ValueError as error:
        raise UnknownRecordError(
            f"the newest {studies} studies of {model} are no reference: {error}; accept again once"
            f" {studies} more were seen"
        ) from None
    watch = DriftWatch(reference, baseline=studies)
    former = DriftWatch(None, baseline=studies)
    if _restore(former, state, model):
        watch.expect(former.groups)
    watched = _described(model, digest, watch, ReferenceSource.NODE, now)
    is_recorded = record_watch(
        database,
        watched,
        plain=watch.to_plain(),
        seen_id=state.seen_id,
        changes=(),
        former=state,
        ends_all=True,
    )
    if not is_recorded:
        raise UnknownRecordError("new studies were judged at the same moment; try again")
    log(Event.REFERENCE_ACCEPTED, model=model, count=len(images))
    return watched


def return_to_bundle(database: Database, model: str, *, now: datetime) -> WatchedModel:
    """Compare a model with its bundle's reference again, from the next study on; its alarms end.

    A bundle that declares none is compared with the node's next studies.

    Raises:
        UnknownRecordError: No such model is watched.
    """
    digest = _last_seen(database, model)
    state = read_watch_state(database, digest)
    watched = WatchedModel(
        model=model,
        model_digest=digest,
        reference_source=ReferenceSource.BUNDLE,
        studies=0,
        baseline_left=0,
        updated_at=now,
    )
    if state is None or not record_watch(
        database,
        watched,
        plain=_NOTHING_KNOWN,
        seen_id=state.seen_id,
        changes=(),
        former=state,
        ends_all=True,
    ):
        raise UnknownRecordError("new studies were judged at the same moment; try again")
    log(Event.REFERENCE_RETURNED, model=model)
    return watched


def _last_seen(database: Database, model: str) -> str:
    """Digest of the version of a model that was seen last."""
    known = [each for each in list_watched(database) if each.model == model]
    if not known:
        raise UnknownRecordError(
            f"no model {model!r} is watched; `imaging-node watch status` lists those that are"
        )
    return known[0].model_digest


def forget_old(database: Database, *, now: datetime, keep_days: int, keep_images: int) -> int:
    """Remove what was seen long ago; returns how many images."""
    before = now - timedelta(days=keep_days)
    return remove_old_observations(database, before=before, keep=keep_images)


def _take(
    room: WatchingRoom, model: str, digest: str, declared: DeclaredMonitoring | None
) -> tuple[int | None, int]:
    """Judge the next studies of one model; the last row that was taken, and alarms raised."""
    state = read_watch_state(room.database, digest)
    images = read_observations(room.database, digest, after=state.seen_id if state else 0)
    if not images:
        return None, 0
    source = ReferenceSource.NODE if declared is None else ReferenceSource.BUNDLE
    if state is not None and declared is not None:
        source = state.reference_source
    watch = DriftWatch(
        declared if source is ReferenceSource.BUNDLE else None, baseline=room.baseline
    )
    is_lost = state is not None and not _restore(watch, state, model)
    was_incomplete = bool(watch.baseline_left)
    noticed: list[Noticed] = []
    for _, of_study in groupby(images, key=lambda each: each.study_instance_uid):
        noticed += watch.add_study([(each.scanner_id, each.observation) for each in of_study])
    changes = [
        AlarmChange(
            is_raised=each.is_raised,
            quantity=each.quantity,
            group_kind=each.group.kind,
            group_value=each.group.value,
            statistic=each.statistic,
            value=each.reading.value,
            threshold=each.reading.threshold,
            raised_after=each.studies,
        )
        for each in noticed
    ]
    is_recorded = record_watch(
        room.database,
        _described(model, digest, watch, source, room.clock()),
        plain=watch.to_plain(),
        seen_id=images[-1].id,
        changes=changes,
        former=state,
        ends_all=is_lost,  # nothing is known of them any more: what is so still is raised anew
    )
    if not is_recorded:
        return None, 0  # somebody else was first: the next look sees what is left
    if was_incomplete and not watch.baseline_left and source is ReferenceSource.NODE:
        log(Event.REFERENCE_TAKEN, model=model, count=room.baseline)
    for group in watch.newcomers:
        log(Event.NEWCOMER_SEEN, model=model, group=f"{group.kind} {group.value}")
    for change in noticed:
        log(
            Event.DRIFT_BEGAN if change.is_raised else Event.DRIFT_ENDED,
            model=model,
            quantity=change.quantity,
            group=" ".join(part for part in change.group if part),
            statistic=change.statistic,
            value=round(change.reading.value, 3),
            threshold=round(change.reading.threshold, 3),
            count=change.studies,
        )
    return images[-1].id, sum(each.is_raised for each in noticed)


def _restore(watch: DriftWatch, state: WatchState, model: str) -> bool:
    """Go on from what was recorded; False when that is nothing or, said in the log, unreadable."""
    if state.plain == _NOTHING_KNOWN:
        return False
    try:
        watch.restore(state.plain or {})
    except (KeyError, TypeError, ValueError):
        log(Event.WATCH_STATE_LOST, model=model)
        return False
    return True


def _take_leave(room: WatchingRoom, model: str, digest: str) -> None:
    """End the alarms of a model that answers no more; what it is compared with is kept."""
    state = read_watch_state(room.database, digest)
    if state is None:
        return
    watch = DriftWatch(None, baseline=room.baseline)
    is_known = _restore(watch, state, model)
    watch.fall_silent()
    record_watch(
        room.database,
        _described(model, digest, watch, state.reference_source, room.clock()),
        # Or it would go on without what its bundle declares once it answers again.
        plain=watch.to_plain() if is_known else _NOTHING_KNOWN,
        seen_id=state.seen_id,
        changes=(),
        former=state,
        ends_all=True,
    )


def _described(
    model: str, digest: str, watch: DriftWatch, source: ReferenceSource, now: datetime
) -> WatchedModel:
    return WatchedModel(
        model=model,
        model_digest=digest,
        reference_source=source,
        studies=watch.studies,
        baseline_left=watch.baseline_left,
        updated_at=now,
        groups=watch.summary(),
    )


def _one_of_each(images: Sequence[SeenImage]) -> list[SeenImage]:
    """One image of each study, a scored one if there is one."""
    chosen: dict[str, SeenImage] = {}
    for image in images:
        kept = chosen.get(image.study_instance_uid)
        if kept is None or (image.observation.is_scored and not kept.observation.is_scored):
            chosen[image.study_instance_uid] = image
    return list(chosen.values())
