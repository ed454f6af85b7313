"""Content tree of the structured report, built with highdicom: TID 1500 and TID 1501 groups.

This is what a report is. `encoded_content` makes the same bytes faster, and is held against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from highdicom import sr
from pydicom.sr.codedict import codes

from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.dicom.identity import device_observer_uid, tracking_uid
from imaging_node.dicom.provenance import ascii_text
from imaging_node.dicom.report_statements import (
    LANGUAGE,
    NO_UNITS,
    STATUS_TOPIC,
    finding_comment,
    image_quality,
    procedure_reported,
    provenance_parameters,
    quality_findings,
    rounded,
    seen_by,
    status_comment,
    summary,
    thresholds,
)
from imaging_node.dicom.terminology import PRESENCE, term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    Group = (
        sr.MeasurementsAndQualitativeEvaluations
        | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    )
    from pydicom.sr.coding import Code

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import FindingScore, StudyResult
    from imaging_node.domain.result_object import (
        Answer,
        NodeIdentity,
        ResultContext,
        ResultObject,
    )


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
    pictures = {capture.label: capture for capture in captures}
    groups = [_status_group(sources, result, context)]
    for score in result.findings:
        picture = pictures.get(score.label)
        groups.append(_finding_group(score, seen_by(score, sources), result, context, picture))
    report = sr.MeasurementReport(
        observation_context=observation_context(context.node),
        procedure_reported=coded_concept(procedure_reported(sources[0])),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            coded_concept(LANGUAGE)
        ),
        referenced_images=describable_images(sources),
    )
    root: Dataset = report[0]
    return root


def observation_context(node: NodeIdentity) -> sr.ObservationContext:
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
        sr.QualitativeEvaluation(codes.DCM.CADProcessingAndFindingsSummary, summary(result))
    ]
    quality = image_quality(result)
    if quality is not None:
        evaluations.append(sr.QualitativeEvaluation(codes.DCM.ImageQuality, quality))
    evaluations.extend(
        sr.QualitativeEvaluation(codes.DCM.QualityFinding, code)
        for code in quality_findings(result)
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking_identifier(sources, STATUS_TOPIC, STATUS_TOPIC),
        algorithm_id=algorithm_identification(result, context, ()),
        qualitative_evaluations=evaluations,
        source_images=source_images(sources),
    )
    add_comment(group, status_comment(result))
    return group


def _finding_group(
    score: FindingScore,
    images: Sequence[SourceHeader],
    result: StudyResult,
    context: ResultContext,
    picture: ResultObject | None,
) -> sr.MeasurementsAndQualitativeEvaluations:
    coded = term(score.label)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking_identifier(images, score.label, coded.concept.meaning),
        # Viewers list (121071, DCM, "Finding") as something found: never for an absent one.
        finding_type=coded.concept if score.is_present else None,
        finding_sites=[sr.FindingSite(coded.site)],
        algorithm_id=algorithm_identification(result, context, thresholds(score)),
        measurements=_measurements(score),
        qualitative_evaluations=[sr.QualitativeEvaluation(coded.concept, PRESENCE[score.presence])],
        source_images=source_images(images),
    )
    comment = finding_comment(score)
    if comment:
        add_comment(group, comment)
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
    measurements = [sr.Measurement(codes.DCM.Probability, rounded(score.probability), NO_UNITS)]
    if score.spread is not None:
        measurements.append(
            sr.Measurement(
                codes.DCM.Probability,
                rounded(score.spread),
                NO_UNITS,
                derivation=codes.SCT.StandardDeviation,
            )
        )
    return measurements


def algorithm_identification(
    result: Answer, context: ResultContext, parameters: Sequence[str]
) -> sr.AlgorithmIdentification:
    """TID 4019 without family, which readers list as if it were a qualitative evaluation."""
    return sr.AlgorithmIdentification(
        name=ascii_text(result.model.name),
        version=ascii_text(result.model.version),
        manufacturer=ascii_text(result.model.manufacturer),
        parameters=[*parameters, *provenance_parameters(result, context)],
    )


def tracking_identifier(
    sources: Sequence[SourceHeader], topic: str, identifier: str
) -> sr.TrackingIdentifier:
    """Tracking of one topic of the study, the same in every revision."""
    return sr.TrackingIdentifier(tracking_uid(sources[0].study_instance_uid, topic), identifier)


def source_images(
    sources: Sequence[SourceHeader],
) -> list[sr.SourceImageForMeasurementGroup]:
    """Source of Measurement of a group, one item an image."""
    return [
        sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)
        for source in sources
    ]


def add_comment(group: Group, text: str) -> None:
    """Put `text` at the end of a measurement group, as (121106, DCM, "Comment")."""
    group[0].ContentSequence.append(
        sr.TextContentItem(
            name=codes.DCM.Comment,
            value=text,
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
    )


def coded_concept(code: Code) -> sr.CodedConcept:
    """`code` as highdicom takes it."""
    return sr.CodedConcept(*code)


def describable_images(sources: Sequence[SourceHeader]) -> list[Dataset] | None:
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
