"""The answer of one study as a Comprehensive 3D SR document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from imaging_node.dicom.encoding import (
    RawElement,
    encode_dataset,
    raw_element,
    raw_items,
    raw_sequence,
)
from imaging_node.dicom.provenance import encode_result, reference_item, result_dataset
from imaging_node.dicom.report_content import report_content
from imaging_node.domain.finding import AnalysisStatus
from imaging_node.domain.result_object import ObjectKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import StudyResult
    from imaging_node.domain.result_object import ReportReference, ResultContext, ResultObject

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


def build_report(
    *,
    sources: Sequence[SourceHeader],
    result: StudyResult,
    context: ResultContext,
    captures: Sequence[ResultObject],
) -> ResultObject:
    """Encode the SR (TID 1500): the same arguments give the same bytes.

    Args:
        sources: Images that were scored, or, when none was, those that the model was meant
            for; at least one. The first gives patient and study.
        result: The answer.
        context: Revision, predecessor, node and series start.
        captures: Pictures that the report links to.

    Returns:
        An object of the series 9001, or 9000 when the study was not analysed.

    Raises:
        BundleError: A finding has no reviewed code.
        ValueError: `sources` is empty or names several studies.
    """
    if len({source.study_instance_uid for source in sources}) != 1:
        raise ValueError("a report needs images of exactly one study")
    analysed = result.status is not AnalysisStatus.NOT_ANALYSED
    kind = ObjectKind.REPORT if analysed else ObjectKind.NOT_ANALYSED
    first = sources[0]
    dataset = result_dataset(
        first,
        result,
        context,
        kind=kind,
        sop_class_uid=str(Comprehensive3DSRStorage),
        finding=kind.value,
        instance_number=1 + context.revision,
    )
    dataset.Modality = "SR"
    dataset.ReferencedPerformedProcedureStepSequence = []
    complete = result.status is AnalysisStatus.COMPLETE
    dataset.CompletionFlag = "COMPLETE" if complete else "PARTIAL"
    dataset.CompletionFlagDescription = _COMPLETION[result.status]
    # An algorithm can never be the verifying observer.
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.PreliminaryFlag = "PRELIMINARY"
    dataset.PerformedProcedureCodeSequence = []
    dataset.CurrentRequestedProcedureEvidenceSequence = _evidence(sources, captures)
    if context.predecessor is not None:
        dataset.PredecessorDocumentsSequence = [_predecessor(context.predecessor)]
    dataset.update(report_content(sources, result, context, captures))
    requests = [
        _request(first, item) for item in raw_items(first.carried.get("RequestAttributesSequence"))
    ]
    return encode_result(
        dataset,
        first,
        result,
        kind=kind,
        made_with_highdicom=True,
        raw={"ReferencedRequestSequence": raw_sequence("ReferencedRequestSequence", requests)}
        if requests
        else None,
    )


def _evidence(sources: Sequence[SourceHeader], captures: Iterable[ResultObject]) -> list[Dataset]:
    """Every image that the tree points at, by series (PS3.3 C.17.2.3)."""
    series: dict[str, dict[str, str]] = {}
    referenced: list[SourceHeader | ResultObject] = [*sources, *captures]
    for each in referenced:
        series.setdefault(each.series_instance_uid, {})[each.sop_instance_uid] = each.sop_class_uid
    study = Dataset()
    study.StudyInstanceUID = sources[0].study_instance_uid
    study.ReferencedSeriesSequence = [
        _series(uid, [reference_item(sop_class, instance) for instance, sop_class in items.items()])
        for uid, items in series.items()
    ]
    return [study]


def _predecessor(reference: ReportReference) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = reference.study_instance_uid
    document = reference_item(reference.sop_class_uid, reference.sop_instance_uid)
    study.ReferencedSeriesSequence = [_series(reference.series_instance_uid, [document])]
    return study


def _series(series_instance_uid: str, references: list[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_instance_uid
    item.ReferencedSOPSequence = references
    return item


def _request(source: SourceHeader, request: Dataset) -> bytes:
    """Item of the Referenced Request Sequence, its text byte for byte."""
    study = Dataset()
    study.StudyInstanceUID = source.study_instance_uid
    study.ReferencedStudySequence = []
    elements = []
    for keyword, tag, vr in _REQUEST:
        stated = raw_element(request, keyword)
        general = source.carried.get(keyword) or source.identity.get(keyword)
        elements.append(stated or general or RawElement(tag, vr, b""))
    issuer = raw_element(request, "IssuerOfAccessionNumberSequence")
    issuer = issuer or source.identity.get("IssuerOfAccessionNumberSequence")
    return encode_dataset(study, [*elements, *([issuer] if issuer else [])])
