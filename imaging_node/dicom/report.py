"""The answer of one study as a Comprehensive 3D SR document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.uid import Comprehensive3DSRStorage

from imaging_node.dicom.elements import by_tag, element, joined, reference_body, sequence
from imaging_node.dicom.encoding import RawElement, encoded_elements, raw_element, raw_items
from imaging_node.dicom.provenance import encode_result, result_elements, result_name
from imaging_node.dicom.report_content import report_content
from imaging_node.domain.finding import AnalysisStatus
from imaging_node.domain.result_object import ObjectKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydicom.dataset import Dataset

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import StudyResult
    from imaging_node.domain.result_object import (
        Answer,
        ReportReference,
        ResultContext,
        ResultObject,
    )

_COMPLETION: Final = {
    AnalysisStatus.COMPLETE: "All requested findings evaluated",
    AnalysisStatus.PARTIAL: "Some findings not evaluated",
    AnalysisStatus.NOT_ANALYSED: "Images not analysable; no finding evaluated",
}
# Type 2 of the Referenced Request Sequence (PS3.3 C.17.2), in tag order, with their VR.
_REQUEST: Final = (
    ("AccessionNumber", 0x00080050, "SH"),
    ("RequestedProcedureDescription", 0x00321060, "LO"),
    ("RequestedProcedureCodeSequence", 0x00321064, "SQ"),
    ("RequestedProcedureID", 0x00401001, "SH"),
    ("PlacerOrderNumberImagingServiceRequest", 0x00402016, "LO"),
    ("FillerOrderNumberImagingServiceRequest", 0x00402017, "LO"),
)


def built_content(
    sources: Sequence[SourceHeader],
    result: StudyResult,
    context: ResultContext,
    captures: Sequence[ResultObject],
) -> dict[int, bytes]:
    """Elements of the root container by tag, built with highdicom: what a report is.

    Raises:
        BundleError: A finding has no reviewed code.
    """
    return encoded_elements(report_content(sources, result, context, captures))


def build_report(
    *,
    sources: Sequence[SourceHeader],
    result: Answer,
    context: ResultContext,
    captures: Sequence[ResultObject],
    content: Callable[..., dict[int, bytes]] = built_content,
) -> ResultObject:
    """Encode the SR (TID 1500): the same arguments give the same bytes.

    Args:
        sources: Images that were scored, or, when none was, those that the model was meant
            for; at least one. The first gives patient and study.
        result: The answer.
        context: Revision, predecessor, node and series start.
        captures: Pictures or the segmentation that the report links to.
        content: Makes the tree from the other four, in this order.

    Returns:
        An object of the series 9001, or 9000 when the study was not analysed.

    Raises:
        BundleError: A finding has no reviewed code.
        ValueError: `sources` is empty or names several studies.
    """
    if len({source.study_instance_uid for source in sources}) != 1:
        raise ValueError("a report needs images of exactly one study")
    analysed = result.status is not AnalysisStatus.NOT_ANALYSED
    first = sources[0]
    name = result_name(
        first,
        result,
        context,
        kind=ObjectKind.REPORT if analysed else ObjectKind.NOT_ANALYSED,
        sop_class_uid=str(Comprehensive3DSRStorage),
    )
    complete = result.status is AnalysisStatus.COMPLETE
    elements = [
        *result_elements(name, first, result, context, instance_number=1 + context.revision),
        element("Modality", "SR"),
        sequence("ReferencedPerformedProcedureStepSequence"),
        element("CompletionFlag", "COMPLETE" if complete else "PARTIAL"),
        element("CompletionFlagDescription", _COMPLETION[result.status]),
        # An algorithm can never be the verifying observer.
        element("VerificationFlag", "UNVERIFIED"),
        element("PreliminaryFlag", "PRELIMINARY"),
        sequence("PerformedProcedureCodeSequence"),
        _evidence(sources, captures),
    ]
    if context.predecessor is not None:
        elements.append(_predecessor(context.predecessor))
    requests = raw_items(first.carried.get("RequestAttributesSequence"))
    if requests:
        items = [_request(first, each) for each in requests]
        elements.append(sequence("ReferencedRequestSequence", *items))
    tree = content(sources, result, context, captures)
    return encode_result(name, {**by_tag(elements), **tree}, first, result)


def _evidence(sources: Sequence[SourceHeader], captures: Iterable[ResultObject]) -> RawElement:
    """Every image that the tree points at, by series (PS3.3 C.17.2.3)."""
    series: dict[str, dict[str, str]] = {}
    referenced: list[SourceHeader | ResultObject] = [*sources, *captures]
    for each in referenced:
        series.setdefault(each.series_instance_uid, {})[each.sop_instance_uid] = each.sop_class_uid
    items = [
        _series(uid, [reference_body(sop_class, instance) for instance, sop_class in each.items()])
        for uid, each in series.items()
    ]
    return sequence(
        "CurrentRequestedProcedureEvidenceSequence",
        _study(sources[0].study_instance_uid, items),
    )


def _predecessor(reference: ReportReference) -> RawElement:
    document = reference_body(reference.sop_class_uid, reference.sop_instance_uid)
    return sequence(
        "PredecessorDocumentsSequence",
        _study(reference.study_instance_uid, [_series(reference.series_instance_uid, [document])]),
    )


def _study(study_instance_uid: str, series: Iterable[bytes]) -> bytes:
    """Item of the Hierarchical SOP Instance Reference Macro (PS3.3 C.17.2.1)."""
    return joined(
        [
            element("StudyInstanceUID", study_instance_uid),
            sequence("ReferencedSeriesSequence", *series),
        ]
    )


def _series(series_instance_uid: str, references: Iterable[bytes]) -> bytes:
    return joined(
        [
            element("SeriesInstanceUID", series_instance_uid),
            sequence("ReferencedSOPSequence", *references),
        ]
    )


def _request(source: SourceHeader, request: Dataset) -> bytes:
    """Item of the Referenced Request Sequence, its text byte for byte."""
    elements = [
        element("StudyInstanceUID", source.study_instance_uid),
        sequence("ReferencedStudySequence"),
    ]
    for keyword, tag, vr in _REQUEST:
        stated = raw_element(request, keyword)
        general = source.carried.get(keyword) or source.identity.get(keyword)
        elements.append(stated or general or RawElement(tag, vr, b""))
    issuer = raw_element(request, "IssuerOfAccessionNumberSequence")
    issuer = issuer or source.identity.get("IssuerOfAccessionNumberSequence")
    return joined([*elements, *([issuer] if issuer else [])])
