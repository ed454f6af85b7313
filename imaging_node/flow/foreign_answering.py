"""Turn a foreign model's answer into result objects: the segmentation, then the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.dicom.foreign_report import build_foreign_report
from imaging_node.dicom.segmentation import build_segmentation, segment_numbers
from imaging_node.flow.answering import BuiltAnswer, result_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from imaging_node.domain.result_object import NodeIdentity, ResultContext, ResultObject
    from imaging_node.domain.study import Study
    from imaging_node.flow.foreign_analysis import ForeignAnswer
    from imaging_node.store.database import Database


def foreign_objects(answer: ForeignAnswer, context: ResultContext) -> tuple[ResultObject, ...]:
    """Encode a foreign answer: the same arguments give the same bytes.

    Args:
        context: As `flow.answering.result_context` makes it for a study of the node.

    Returns:
        The segmentation if any voxel is labelled, and the report, which comes last.
    """
    segmentation = None
    if answer.masks is not None and segment_numbers(answer.result):
        segmentation = build_segmentation(
            sources=answer.sources, masks=answer.masks, result=answer.result, context=context
        )
    report = build_foreign_report(
        sources=answer.sources,
        result=answer.result,
        context=context,
        segmentation=segmentation,
    )
    return (segmentation, report) if segmentation else (report,)


def build_foreign_answer(
    answer: ForeignAnswer,
    study: Study,
    database: Database,
    node: NodeIdentity,
    *,
    clock: Callable[[], datetime],
) -> BuiltAnswer:
    """What `flow.answering.build_answer` is for the node's own models.

    Raises:
        IdentityHeldError: The source's identity must be settled by an administrator first.
    """
    starts: dict[str, datetime] = {}
    context = result_context(
        study,
        answer.result.model.name,
        answer.model.settings_digest,
        database,
        node,
        starts=starts,
        clock=clock,
    )
    return BuiltAnswer(objects=foreign_objects(answer, context), series_started_at=starts)
