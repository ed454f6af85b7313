"""Content tree of the structured report: TID 1500 with one TID 1501 group per question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from imaging_node.dicom.encoding import PARSE_ERRORS, raw_element, raw_items
from imaging_node.dicom.identity import device_observer_uid, tracking_uid
from imaging_node.dicom.provenance import DISCLAIMER, ascii_text
from imaging_node.dicom.terminology import (
    ALL_SUCCEEDED_WITH,
    ALL_SUCCEEDED_WITHOUT,
    DIAGNOSTIC_QUALITY,
    LIMITED_QUALITY,
    NON_DIAGNOSTIC_QUALITY,
    NONE_SUCCEEDED,
    PRESENCE,
    QUALITY_FINDING,
    QUALITY_REASONS,
    SOME_SUCCEEDED_WITH,
    SOME_SUCCEEDED_WITHOUT,
    UNSPECIFIED_CT,
    UNSPECIFIED_RADIOGRAPHY,
    term,
)
from imaging_node.domain.finding import AnalysisStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import FindingScore, StudyResult
    from imaging_node.domain.result_object import NodeIdentity, ResultContext, ResultObject

STATUS_TOPIC: Final = "Analysis status"
"""Tracking Identifier of the first group, which says whether there is an answer at all."""

_CALIBRATION: Final = "Probabilities are calibrated means over the members of the ensemble."
_UNLIMITED_TEXT: Final = 100_000
_NO_UNITS: Final = Code("1", "UCUM", "no units")


def report_content(
    sources: Sequence[SourceHeader],
    result: StudyResult,
    context: ResultContext,
    captures: Sequence[ResultObject],
) -> Dataset:
    """Root container of the report.

    Args:
        sources: Images that were analysed or that the model was meant for; at least one.
        result: Answer with one score per requested finding.
        context: Node and settings behind the answer.
        captures: Pictures of findings called present.

    Raises:
        BundleError: A finding has no reviewed code.
    """
    by_uid = {source.sop_instance_uid: source for source in sources}
    pictures = {capture.label: capture for capture in captures}
    groups = [_status_group(sources, result, context)]
    for score in result.findings:
        seen = by_uid.get(score.sop_instance_uid)
        images = [seen] if seen is not None else list(sources)
        groups.append(_finding_group(score, images, result, context, pictures.get(score.label)))
    report = sr.MeasurementReport(
        observation_context=_observer(context.node),
        procedure_reported=_procedure(sources[0]),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept("en", "RFC5646", "English")
        ),
        referenced_images=_describable(sources),
    )
    root: Dataset = report[0]
    return root


def _observer(node: NodeIdentity) -> sr.ObservationContext:
    """Device observer: the installation, not the weights (TID 1004)."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=device_observer_uid(node.ae_title),
        name=ascii_text(node.ae_title),
        manufacturer_name=ascii_text(node.manufacturer),
        model_name=ascii_text(node.model_name),
        serial_number=ascii_text(node.serial_number),
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
    )


def _status_group(
    sources: Sequence[SourceHeader], result: StudyResult, context: ResultContext
) -> sr.MeasurementsAndQualitativeEvaluations:
    evaluations = [
        sr.QualitativeEvaluation(codes.DCM.CADProcessingAndFindingsSummary, _summary(result))
    ]
    quality = _quality(result)
    if quality is not None:
        evaluations.append(sr.QualitativeEvaluation(codes.DCM.ImageQuality, quality))
    evaluations.extend(
        sr.QualitativeEvaluation(codes.DCM.QualityFinding, code)
        for code in dict.fromkeys(QUALITY_FINDING[reason] for reason in result.reasons)
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(sources, STATUS_TOPIC, STATUS_TOPIC),
        algorithm_id=_algorithm(result, context, ()),
        qualitative_evaluations=evaluations,
        source_images=_source_images(sources),
    )
    _add_comment(group, _status_comment(result))
    return group


def _summary(result: StudyResult) -> Code:
    """CID 6047: how much was evaluated, and whether something was called present."""
    if result.status is AnalysisStatus.NOT_ANALYSED:
        return NONE_SUCCEEDED
    found = any(score.is_present for score in result.findings)
    if result.status is AnalysisStatus.PARTIAL:
        return SOME_SUCCEEDED_WITH if found else SOME_SUCCEEDED_WITHOUT
    return ALL_SUCCEEDED_WITH if found else ALL_SUCCEEDED_WITHOUT


def _quality(result: StudyResult) -> Code | None:
    """CID 7036; None when nothing was analysed for another reason than quality."""
    if result.status is AnalysisStatus.COMPLETE:
        return DIAGNOSTIC_QUALITY
    if result.status is AnalysisStatus.PARTIAL:
        return LIMITED_QUALITY
    return NON_DIAGNOSTIC_QUALITY if QUALITY_REASONS.intersection(result.reasons) else None


def _status_comment(result: StudyResult) -> str:
    parts = [DISCLAIMER]
    if result.status is AnalysisStatus.NOT_ANALYSED:
        parts.append("NOT ANALYSED: no finding was evaluated; this is not a normal result.")
    else:
        parts.append(_CALIBRATION)
    if result.reasons:
        parts.append(f"Reason: {'; '.join(reason.value for reason in result.reasons)}.")
    parts.extend(result.remarks)
    return " ".join(parts)


def _finding_group(
    score: FindingScore,
    images: Sequence[SourceHeader],
    result: StudyResult,
    context: ResultContext,
    picture: ResultObject | None,
) -> sr.MeasurementsAndQualitativeEvaluations:
    coded = term(score.label)
    thresholds = (
        f"operating_point={score.operating_point:g}",
        f"undetermined_from={score.undetermined_from:g}",
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(images, score.label, coded.concept.meaning),
        # Viewers list (121071, DCM, "Finding") as something found: never for an absent one.
        finding_type=coded.concept if score.is_present else None,
        finding_sites=[sr.FindingSite(coded.site)],
        algorithm_id=_algorithm(result, context, thresholds),
        measurements=_measurements(score),
        qualitative_evaluations=[sr.QualitativeEvaluation(coded.concept, PRESENCE[score.presence])],
        source_images=_source_images(images),
    )
    comment = _finding_comment(score)
    if comment:
        _add_comment(group, comment)
    if picture is not None:
        group[0].ContentSequence.append(
            sr.ImageContentItem(
                name=codes.DCM.VisualExplanation,
                referenced_sop_class_uid=picture.sop_class_uid,
                referenced_sop_instance_uid=picture.sop_instance_uid,
                relationship_type=sr.RelationshipTypeValues.CONTAINS,
            )
        )
    return group


def _measurements(score: FindingScore) -> list[sr.Measurement]:
    if score.probability is None:
        return []
    measurements = [
        sr.Measurement(codes.DCM.Probability, round(float(score.probability), 4), _NO_UNITS)
    ]
    if score.spread is not None:
        measurements.append(
            sr.Measurement(
                codes.DCM.Probability,
                round(float(score.spread), 4),
                _NO_UNITS,
                derivation=codes.SCT.StandardDeviation,
            )
        )
    return measurements


def _finding_comment(score: FindingScore) -> str:
    """What no standard code says: no context group has confidence limits of a value."""
    parts = []
    if score.interval is not None and score.probability is not None:
        low, high = score.interval
        parts.append(f"95 % interval of the probability: {low:.4f} to {high:.4f}.")
    if score.absence_withheld and score.probability is not None and not score.is_present:
        parts.append("Not called absent: an image of the study could not be analysed.")
    return " ".join(parts)


def _algorithm(
    result: StudyResult, context: ResultContext, thresholds: Sequence[str]
) -> sr.AlgorithmIdentification:
    """TID 4019 without family, which readers list as if it were a qualitative evaluation."""
    return sr.AlgorithmIdentification(
        name=ascii_text(result.model.name),
        version=ascii_text(result.model.version),
        manufacturer=ascii_text(result.model.manufacturer),
        parameters=[
            *thresholds,
            ascii_text(f"weights={result.model.digest}", _UNLIMITED_TEXT),
            ascii_text(f"settings={context.settings_digest}", _UNLIMITED_TEXT),
        ],
    )


def _tracking(
    sources: Sequence[SourceHeader], topic: str, identifier: str
) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(tracking_uid(sources[0].study_instance_uid, topic), identifier)


def _source_images(
    sources: Sequence[SourceHeader],
) -> list[sr.SourceImageForMeasurementGroup]:
    return [
        sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)
        for source in sources
    ]


def _add_comment(group: sr.MeasurementsAndQualitativeEvaluations, text: str) -> None:
    group[0].ContentSequence.append(
        sr.TextContentItem(
            name=codes.DCM.Comment,
            value=text.encode("ascii", "replace").decode("ascii"),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
    )


def _procedure(source: SourceHeader) -> sr.CodedConcept:
    """Procedure of the images: the study's code, else the request's, else unspecified."""
    requests = raw_items(source.carried.get("RequestAttributesSequence"))
    candidates = [
        *raw_items(source.identity.get("ProcedureCodeSequence")),
        *(
            item
            for request in requests
            for item in raw_items(raw_element(request, "RequestedProcedureCodeSequence"))
        ),
    ]
    for item in candidates:
        concept = _received_code(item)
        if concept is not None:
            return concept
    unspecified = UNSPECIFIED_CT if source.text("Modality") == "CT" else UNSPECIFIED_RADIOGRAPHY
    return sr.CodedConcept.from_code(unspecified)


def _received_code(item: Dataset) -> sr.CodedConcept | None:
    """Code of the source as it came; Latin-1 text stands for its bytes (see `encoding`)."""

    def text(keyword: str) -> str:
        element = raw_element(item, keyword)
        return element.value.decode("latin-1").strip("\0 ") if element else ""

    value = text("CodeValue") or text("LongCodeValue") or text("URNCodeValue")
    scheme, meaning = text("CodingSchemeDesignator"), text("CodeMeaning")
    if not (value and scheme and meaning) or "\\" in value + scheme:
        return None
    try:
        return sr.CodedConcept(value, scheme, meaning, text("CodingSchemeVersion") or None)
    except PARSE_ERRORS:
        return None


def _describable(sources: Sequence[SourceHeader]) -> list[Dataset] | None:
    """Images whose descriptors (TID 1602) can be built; the library is optional."""
    images = []
    for source in sources:
        image = source.describing_dataset()
        try:
            sr.ImageLibraryEntryDescriptors(image)
        except PARSE_ERRORS:
            continue
        images.append(image)
    return images or None
