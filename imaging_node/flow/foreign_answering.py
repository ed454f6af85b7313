"""Turn a foreign model's answer into result objects: the segmentation, then the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.dicom.foreign_report import build_foreign_report
from imaging_node.dicom.segmentation import build_segmentation, segment_numbers

if TYPE_CHECKING:
    from imaging_node.domain.result_object import ResultContext, ResultObject
    from imaging_node.flow.foreign_analysis import ForeignAnswer


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
