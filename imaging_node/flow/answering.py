"""Turn one model's answer into result objects: captures first, then the report that names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from imaging_node.dicom.saliency_capture import build_capture
from imaging_node.dicom.source import read_source
from imaging_node.domain.result_object import NodeIdentity, ResultContext, ResultObject
from imaging_node.store.answers import previous_answers, series_started_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.dicom.report_writer import ReportWriter
    from imaging_node.domain.study import Study
    from imaging_node.flow.analysis import ModelAnswer
    from imaging_node.store.database import Database

MAXIMUM_CAPTURES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltAnswer:
    """One model's answer as objects.

    Attributes:
        objects: The captures in the order of the findings, then the report.
        series_started_at: By Series Instance UID: to be recorded with the objects, so that every
            later one of a series says the same.
    """

    objects: tuple[ResultObject, ...]
    series_started_at: Mapping[str, datetime]


def build_answer(
    answer: ModelAnswer,
    study: Study,
    database: Database,
    node: NodeIdentity,
    *,
    reports: ReportWriter,
    capture_long_side: int,
    clock: Callable[[], datetime],
) -> BuiltAnswer:
    """Encode the captures of the findings called present, and the report; threads may share it.

    Args:
        reports: Encodes the report.
        capture_long_side: Longer side of the image in a capture, in pixels.

    Raises:
        IdentityHeldError: The source's identity must be settled by an administrator first.
    """
    result = answer.result
    starts: dict[str, datetime] = {}
    context = result_context(
        study,
        result.model.name,
        answer.model.settings_digest,
        database,
        node,
        starts=starts,
        clock=clock,
    )
    sources = {each.sop_instance_uid: read_source(each.path) for each in answer.sources}
    captures = [
        build_capture(
            source=sources[score.sop_instance_uid],
            image=answer.decoded[score.sop_instance_uid],
            score=score,
            saliency=answer.analyses[score.sop_instance_uid].grid_map_for(score.label),
            result=result,
            context=context,
            label_index=index,
            is_verified=answer.model.bundle.explanation_verified,
            long_side=capture_long_side,
        )
        for index, score in enumerate(result.findings, start=1)
        if score.is_present
    ][:MAXIMUM_CAPTURES]
    report = reports.write(
        sources=list(sources.values()), result=result, context=context, captures=captures
    )
    return BuiltAnswer(objects=(*captures, report), series_started_at=starts)


def result_context(
    study: Study,
    model_name: str,
    settings_digest: str,
    database: Database,
    node: NodeIdentity,
    *,
    starts: dict[str, datetime],
    clock: Callable[[], datetime],
) -> ResultContext:
    """What names the objects of the next answer of a model for a study.

    Args:
        starts: Filled with the series that the objects are put into, to be recorded with them.
    """

    def started_at(series_instance_uid: str) -> datetime:
        if series_instance_uid not in starts:
            starts[series_instance_uid] = series_started_at(
                database, series_instance_uid, now=clock()
            )
        return starts[series_instance_uid]

    previous = previous_answers(database, study.study_instance_uid, model_name)
    return ResultContext(
        node=node,
        source_sop_instance_uids=tuple(each.sop_instance_uid for each in study.instances),
        settings_digest=settings_digest,
        revision=len(previous),
        predecessor=previous[-1] if previous else None,
        series_started_at=started_at,
    )
