"""What came of a study: its ending, its objects and their deliveries, recorded together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imaging_node.domain.finding import FindingScore
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.observation import ImageObservation
from imaging_node.domain.priority import TriageDecision
from imaging_node.domain.result_object import ObjectKind, ReportReference, ResultObject
from imaging_node.store.checksums import require_intact
from imaging_node.store.claims import Claim
from imaging_node.store.observations import record_observations
from imaging_node.store.prepared import Prepared, PreparedQuery
from imaging_node.store.schema import deliveries, objects, results, series, studies
from imaging_node.store.transitions import record_transitions
from imaging_node.store.wholeness import require_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database


def _insert(table: sa.Table, *, or_leave: bool = False) -> Prepared:
    """All columns but those that the database fills."""
    names = [each for each in table.c if each.name not in ("id", "checksum")]
    values = {each.name: sa.bindparam(each.name, type_=each.type) for each in names}
    statement = table.insert().values(values)
    return Prepared(statement.prefix_with("OR IGNORE") if or_leave else statement)


def _named(column: sa.Column[Any], name: str = "") -> sa.BindParameter[Any]:
    return sa.bindparam(name or column.name, type_=column.type)


_ENDED = ("state", "reason", "priority", "priority_reason", "urgency", "findings", "remarks",
          "finished_at")  # fmt: skip
_END = Prepared(
    studies.update()
    .where(
        studies.c.study_instance_uid == _named(studies.c.study_instance_uid, "claimed_study"),
        studies.c.claim_token == _named(studies.c.claim_token, "held_token"),
        studies.c.generation == _named(studies.c.generation, "claimed_generation"),
    )
    .values(
        claim_token="",
        claimed_by="",
        **{name: _named(studies.c[name], f"new_{name}") for name in _ENDED},
    )
)
_ADD_OBJECT = _insert(objects)
_ADD_DELIVERY = _insert(deliveries)
_ADD_RESULT = _insert(results)
_BEGIN_SERIES = _insert(series, or_leave=True)
_RESULTS = PreparedQuery(
    sa.select(
        results.c.study_instance_uid,
        results.c.report_series_instance_uid,
        results.c.report_sop_class_uid,
        results.c.report_sop_instance_uid,
    )
    .where(
        results.c.study_instance_uid == _named(results.c.study_instance_uid, "study"),
        results.c.model == _named(results.c.model, "of_model"),
    )
    .order_by(results.c.id)
)
_SERIES = PreparedQuery(
    sa.select(series.c.started_at).where(
        series.c.series_instance_uid == _named(series.c.series_instance_uid, "uid")
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a study ends, with everything that is recorded in the same transaction.

    Attributes:
        findings: Scores for the worklist, empty when none.
        objects: Result objects whose files are durable, with the digest that names each.
        answers: (model name, model digest, report) of every SR among the objects.
        series_started_at: Of the objects' series, by Series Instance UID.
        observed: What models saw of its images, by SOP Instance UID.
    """

    state: StudyState
    reason: str
    decision: TriageDecision
    findings: tuple[FindingScore, ...] = ()
    remarks: tuple[str, ...] = ()
    objects: tuple[tuple[ResultObject, str], ...] = ()
    answers: tuple[tuple[str, str, ResultObject], ...] = ()
    series_started_at: Mapping[str, datetime] = field(default_factory=dict)
    observed: tuple[tuple[str, ImageObservation], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A claimed study that came to its ending."""

    claim: Claim
    ending: Ending
    finished_at: datetime


def finish_study(
    database: Database, claim: Claim, ending: Ending, *, destinations: Sequence[str], now: datetime
) -> bool:
    """Record the result, its objects and their deliveries in one transaction.

    Returns:
        False when the claim was lost meanwhile: the stale result is dropped.
    """
    finished = Finished(claim=claim, ending=ending, finished_at=now)
    [is_recorded] = finish_studies(database, [finished], destinations=destinations)
    return is_recorded


def finish_studies(
    database: Database, finished: Sequence[Finished], *, destinations: Sequence[str]
) -> list[bool]:
    """Record several results in one transaction.

    Returns:
        For each, in their order, False when its claim was lost meanwhile: the stale result is
        dropped.

    Raises:
        StorageError: None of them was recorded.
    """
    with database.write() as connection:
        return [_finish(connection, each, destinations) for each in finished]


def has_object(database: Database, sop_instance_uid: str) -> bool:
    """Whether a result object of this node has that UID."""
    with database.read() as connection:
        found = connection.scalar(
            sa.select(objects.c.sop_instance_uid).where(
                objects.c.sop_instance_uid == sop_instance_uid
            )
        )
    return found is not None


def previous_answers(
    database: Database, study_instance_uid: str, model: str
) -> tuple[ReportReference, ...]:
    """The SRs that a model gave for this study before, oldest first.

    Raises:
        IntegrityError: One of them may be unknown: a row is damaged or missing.
    """
    with database.read() as connection:
        require_whole(connection, results, study_instance_uid)
        rows = _RESULTS.rows(connection, study=study_instance_uid, of_model=model)
    return tuple(
        ReportReference(
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.report_series_instance_uid,
            sop_class_uid=row.report_sop_class_uid,
            sop_instance_uid=row.report_sop_instance_uid,
        )
        for row in rows
    )


def series_started_at(database: Database, series_instance_uid: str, *, now: datetime) -> datetime:
    """When a result series was begun, or `now` while nothing of it was recorded.

    Raises:
        IntegrityError: The row that says so is damaged.
    """
    with database.read() as connection:
        rows = _SERIES.rows(connection, uid=series_instance_uid)
        if not rows:
            return now
        require_intact(connection, series, series.c.series_instance_uid == series_instance_uid)
    noted: datetime = rows[0].started_at
    return noted


def _finish(connection: Connection, finished: Finished, destinations: Sequence[str]) -> bool:
    claim, ending, now = finished.claim, finished.ending, finished.finished_at
    changed = _END.change(
        connection,
        {
            "claimed_study": claim.study_instance_uid,
            "held_token": claim.token,
            "claimed_generation": claim.generation,
            "new_state": ending.state,
            "new_reason": ending.reason,
            "new_priority": ending.decision.priority,
            "new_priority_reason": ending.decision.reason,
            "new_urgency": ending.decision.priority.urgency,
            "new_findings": [asdict(score) for score in ending.findings],
            "new_remarks": list(ending.remarks),
            "new_finished_at": now,
        },
    )
    if not changed:
        return False
    _record_objects(connection, claim, ending, destinations=destinations, now=now)
    # An archive is no part of the stream: its studies would look like a change, or hide one.
    record_observations(
        connection, claim.study_instance_uid, ending.observed, is_archive=claim.is_archive
    )
    moved = [(claim.study_instance_uid, ending.reason)]
    record_transitions(connection, moved, ending.state, by="score", now=now)
    return True


def _record_objects(
    connection: Connection,
    claim: Claim,
    ending: Ending,
    *,
    destinations: Sequence[str],
    now: datetime,
) -> None:
    _ADD_OBJECT.run(
        connection,
        [
            {
                "sop_instance_uid": each.sop_instance_uid,
                "sop_class_uid": each.sop_class_uid,
                "series_instance_uid": each.series_instance_uid,
                "transfer_syntax_uid": each.transfer_syntax_uid,
                "study_instance_uid": claim.study_instance_uid,
                "generation": claim.generation,
                "kind": each.kind,
                "label": each.label,
                "digest": digest,
                "recorded_at": now,
            }
            for each, digest in ending.objects
        ],
    )
    _ADD_DELIVERY.run(
        connection,
        [
            {
                "sop_instance_uid": each.sop_instance_uid,
                "study_instance_uid": claim.study_instance_uid,
                "destination": destination,
                "state": DeliveryState.WAITING,
                "urgency": ending.decision.priority.urgency,
                "attempts": 0,
                "last_status": "",
                "next_attempt_at": now,
                "claimed_by": "",
                "delivered_at": None,
            }
            # Reports last: an SR never points at a picture or segment that is not there yet.
            for each in sorted(
                (each for each, _ in ending.objects),
                key=lambda each: each.kind in (ObjectKind.REPORT, ObjectKind.NOT_ANALYSED),
            )
            for destination in destinations
        ],
    )
    _ADD_RESULT.run(
        connection,
        [
            {
                "study_instance_uid": claim.study_instance_uid,
                "generation": claim.generation,
                "model": model,
                "model_digest": model_digest,
                "report_series_instance_uid": report.series_instance_uid,
                "report_sop_class_uid": report.sop_class_uid,
                "report_sop_instance_uid": report.sop_instance_uid,
                "recorded_at": now,
            }
            for model, model_digest, report in ending.answers
        ],
    )
    _BEGIN_SERIES.run(
        connection,
        [
            {"series_instance_uid": uid, "started_at": started_at}
            for uid, started_at in ending.series_started_at.items()
        ],
    )
