"""Content tree of the report on a foreign model's answer: volumes and scores, never a call.

TID 1500 with a status group (TID 1501), a TID 1411 group for each labelled structure, and a
TID 1501 group for each other label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from imaging_node.dicom.encoding import encoded_elements
from imaging_node.dicom.identity import tracking_uid
from imaging_node.dicom.provenance import DISCLAIMER, ascii_text
from imaging_node.dicom.report import build_report
from imaging_node.dicom.report_content import (
    add_comment,
    algorithm_identification,
    coded_concept,
    describable_images,
    observation_context,
    source_images,
    tracking_identifier,
)
from imaging_node.dicom.report_statements import LANGUAGE, STATUS_TOPIC, procedure_reported
from imaging_node.dicom.segmentation import segment_numbers, segment_topic
from imaging_node.dicom.terminology import NONE_SUCCEEDED, PRESENCE, QUALITY_FINDING
from imaging_node.domain.finding import AnalysisStatus, Presence
from imaging_node.domain.foreign_result import ForeignTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from imaging_node.dicom.report_content import Group
    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.coded_term import CodedTerm
    from imaging_node.domain.foreign_result import ForeignFinding, ForeignResult
    from imaging_node.domain.result_object import ResultContext, ResultObject

_VOLUME: Final = Code("118565006", "SCT", "Volume")  # CID 7474
_CUBIC_MILLIMETRE: Final = Code("mm3", "UCUM", "cubic millimeter")
_NO_CALL: Final = (
    "The model was not calibrated for this site: nothing is called present or absent, and nothing"
    " here is a normal result."
)
_MOST_LISTED: Final = 16
"""Series of more images are named as a series: 500 slices in each group help nobody."""


def build_foreign_report(
    *,
    sources: Sequence[SourceHeader],
    result: ForeignResult,
    context: ResultContext,
    segmentation: ResultObject | None,
) -> ResultObject:
    """Encode the SR on a foreign model's answer: the same arguments give the same bytes.

    Args:
        sources: Images that were analysed, or that the model was meant for; at least one.
        result: The answer.
        context: Revision, predecessor, node and series start.
        segmentation: Object with the labelled structures; None when no voxel is labelled.

    Raises:
        ValueError: `sources` is empty or names several studies, or a labelled structure has no
            segmentation.
    """
    if segmentation is None and segment_numbers(result):
        raise ValueError("a labelled structure needs the segmentation that shows it")
    return build_report(
        sources=sources,
        result=result,
        context=context,
        captures=[segmentation] if segmentation else [],
        content=lambda *_: encoded_elements(_content(sources, result, context, segmentation)),
    )


def _content(
    sources: Sequence[SourceHeader],
    result: ForeignResult,
    context: ResultContext,
    segmentation: ResultObject | None,
) -> Dataset:
    numbers = segment_numbers(result)
    groups: list[Group] = [_status_group(sources, result, context)]
    for finding in result.findings:
        if segmentation is not None and finding.label.name in numbers:
            number = numbers[finding.label.name]
            groups.append(_region(finding, number, sources, result, context, segmentation))
        else:
            groups.append(_question(finding, sources, result, context))
    report = sr.MeasurementReport(
        observation_context=observation_context(context.node),
        procedure_reported=coded_concept(procedure_reported(sources[0])),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            coded_concept(LANGUAGE)
        ),
        referenced_images=describable_images(sources) if _is_listed(sources) else None,
    )
    root: Dataset = report[0]
    return root


def _status_group(
    sources: Sequence[SourceHeader], result: ForeignResult, context: ResultContext
) -> sr.MeasurementsAndQualitativeEvaluations:
    # CID 6047 has no term for "something was measured, nothing was judged": "without findings"
    # would read as normal. So there is a summary only when nothing succeeded.
    evaluations = [
        sr.QualitativeEvaluation(codes.DCM.QualityFinding, code)
        for code in dict.fromkeys(QUALITY_FINDING[reason] for reason in result.reasons)
    ]
    if result.status is AnalysisStatus.NOT_ANALYSED:
        summary = codes.DCM.CADProcessingAndFindingsSummary
        evaluations.insert(0, sr.QualitativeEvaluation(summary, NONE_SUCCEEDED))
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking_identifier(sources, STATUS_TOPIC, STATUS_TOPIC),
        algorithm_id=algorithm_identification(result, context, ()),
        qualitative_evaluations=evaluations,
        source_images=source_images(sources) if _is_listed(sources) else None,
    )
    add_comment(group, _status_comment(result))
    return group


def _status_comment(result: ForeignResult) -> str:
    parts = [DISCLAIMER]
    if result.status is AnalysisStatus.NOT_ANALYSED:
        parts.append("NOT ANALYSED: no finding was evaluated; this is not a normal result.")
    else:
        parts.append(_NO_CALL)
    if result.reasons:
        parts.append(f"Reason: {'; '.join(reason.value for reason in result.reasons)}.")
    parts.extend(result.remarks)
    return " ".join(parts).encode("ascii", "replace").decode("ascii")


def _region(
    finding: ForeignFinding,
    number: int,
    sources: Sequence[SourceHeader],
    result: ForeignResult,
    context: ResultContext,
    segmentation: ResultObject,
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411 for one segment; its tracking is the segment's own."""
    assert finding.volume_mm3 is not None  # a labelled structure has one
    concept = _concept(finding.label.concept)
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            tracking_uid(sources[0].study_instance_uid, segment_topic(result, finding)),
            ascii_text(finding.label.concept.meaning),
        ),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.sop_class_uid,
            sop_instance_uid=segmentation.sop_instance_uid,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(sources[0].series_instance_uid),
        ),
        finding_category=_concept(finding.label.category),
        finding_type=concept,
        algorithm_id=algorithm_identification(result, context, ()),
        measurements=[
            sr.Measurement(_VOLUME, round(finding.volume_mm3, 1), _CUBIC_MILLIMETRE),
        ],
    )
    add_comment(
        group,
        f"{finding.voxels} voxels labelled by the model; not verified, not a diagnosis.",
    )
    return group


def _question(
    finding: ForeignFinding,
    sources: Sequence[SourceHeader],
    result: ForeignResult,
    context: ResultContext,
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for a label that nothing is shown of: always undetermined, with the reason."""
    seen = [each for each in sources if each.sop_instance_uid == finding.sop_instance_uid]
    images = seen or sources
    topic = segment_topic(result, finding)
    if seen:
        topic = f"{topic}/{finding.sop_instance_uid}"
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            tracking_uid(sources[0].study_instance_uid, topic),
            ascii_text(finding.label.concept.meaning),
        ),
        algorithm_id=algorithm_identification(result, context, ()),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                _concept(finding.label.concept), PRESENCE[Presence.UNDETERMINED]
            )
        ],
        source_images=source_images(images) if _is_listed(images) else None,
    )
    comment = _question_comment(finding, result)
    if comment:
        add_comment(group, comment)
    return group


def _question_comment(finding: ForeignFinding, result: ForeignResult) -> str:
    if finding.score is not None:
        return (
            f"Uncalibrated score of the model, no probability: {finding.score:.6g}."
            " No call is made of it."
        )
    if result.task is ForeignTask.SEGMENTATION and finding.voxels == 0:
        return "No voxel was labelled; this does not say that it is absent."
    return ""


def _is_listed(sources: Sequence[SourceHeader]) -> bool:
    return len(sources) <= _MOST_LISTED


def _concept(term: CodedTerm) -> sr.CodedConcept:
    return sr.CodedConcept(value=term.value, scheme_designator=term.scheme, meaning=term.meaning)
