"""Content tree of the structured report straight as bytes: what `report_content` builds, faster.

highdicom makes some thousand datasets for one tree. Here every content item is encoded once from
its own values, in the same order; nothing is searched for or replaced in bytes made earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.sr.codedict import codes

from imaging_node.dicom.content_items import (
    CONTAINS,
    HAS_CONCEPT_MODIFIER,
    HAS_OBSERVATION_CONTEXT,
    code_item,
    container,
    content_sequence,
    image_item,
    number_item,
    received_code_item,
    template_sequence,
    text_item,
    uid_item,
)
from imaging_node.dicom.elements import by_tag, code_body, element, sequence
from imaging_node.dicom.encoded_library import encoded_library, library_shape
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
    from collections.abc import Iterable, Sequence

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import FindingScore, StudyResult
    from imaging_node.domain.result_object import NodeIdentity, ResultContext, ResultObject

# Looked up once: a report names each of them for every finding.
_TRACKING_IDENTIFIER: Final = codes.DCM.TrackingIdentifier
_TRACKING_UID: Final = codes.DCM.TrackingUniqueIdentifier
_FINDING: Final = codes.DCM.Finding
_FINDING_SITE: Final = codes.SCT.FindingSite
_PROBABILITY: Final = codes.DCM.Probability
_COMMENT: Final = codes.DCM.Comment
_VISUAL_EXPLANATION: Final = codes.DCM.VisualExplanation
_MEASUREMENT_GROUP: Final = codes.DCM.MeasurementGroup
_ALGORITHM_PARAMETERS: Final = codes.DCM.AlgorithmParameters
_SOURCE_OF_MEASUREMENT: Final = codes.DCM.SourceOfMeasurement
_STANDARD_DEVIATION: Final = code_item(
    HAS_CONCEPT_MODIFIER, codes.DCM.Derivation, codes.SCT.StandardDeviation
)

# Trees of more images than this differ in nothing but their number.
_MOST_COUNTED: Final = 3


def content_shape(
    sources: Sequence[SourceHeader], result: StudyResult, captures: Sequence[ResultObject]
) -> tuple[object, ...] | None:
    """What decides which items a tree has: trees of one shape differ in values only.

    Returns:
        None when a source is described in a way that only highdicom understands.
    """
    library = [library_shape(source) for source in sources]
    if any(each is None for each in library):
        return None
    pictured = {capture.label for capture in captures}
    return (
        result.status,
        len(quality_findings(result)),
        image_quality(result) is None,
        min(len(sources), _MOST_COUNTED),
        frozenset(library),
        *(
            (
                score.label,
                score.presence,
                score.probability is None,
                score.spread is None,
                bool(finding_comment(score)),
                score.label in pictured,
                min(len(seen_by(score, sources)), _MOST_COUNTED),
            )
            for score in result.findings
        ),
    )


def encoded_content(
    sources: Sequence[SourceHeader],
    result: StudyResult,
    context: ResultContext,
    captures: Sequence[ResultObject],
) -> dict[int, bytes]:
    """Elements of the root container by tag, encoded.

    Args:
        sources: Images that were analysed or that the model was meant for; at least one, each
            with a `library_shape`.
        result: Answer with one score per requested finding.
        context: Node and settings behind the answer.
        captures: Pictures of findings called present.

    Raises:
        BundleError: A finding has no reviewed code.
    """
    pictures = {capture.label: capture for capture in captures}
    identification = _identification(result)
    provenance = [_parameter(each) for each in provenance_parameters(result, context)]
    groups = [_status_group(sources, result, [*identification, *provenance])]
    for score in result.findings:
        parameters = [_parameter(each) for each in thresholds(score)]
        groups.append(
            _finding_group(
                score,
                seen_by(score, sources),
                [*identification, *parameters, *provenance],
                pictures.get(score.label),
            )
        )
    library = encoded_library(sources)
    items = [
        code_item(HAS_CONCEPT_MODIFIER, codes.DCM.LanguageOfContentItemAndDescendants, LANGUAGE),
        *_observer(context.node),
        received_code_item(
            HAS_CONCEPT_MODIFIER, codes.DCM.ProcedureReported, procedure_reported(sources[0])
        ),
        *([library] if library is not None else ()),
        container(codes.DCM.ImagingMeasurements, groups),
    ]
    return by_tag(
        [
            element("ValueType", "CONTAINER"),
            sequence("ConceptNameCodeSequence", code_body(codes.DCM.ImagingMeasurementReport)),
            element("ContinuityOfContent", "CONTINUOUS"),
            template_sequence("1500"),
            content_sequence(items),
        ]
    )


def _observer(node: NodeIdentity) -> list[bytes]:
    """Device observer: the installation, not the weights (TID 1004)."""
    return [
        code_item(HAS_OBSERVATION_CONTEXT, codes.DCM.ObserverType, codes.DCM.Device),
        uid_item(
            HAS_OBSERVATION_CONTEXT,
            codes.DCM.DeviceObserverUID,
            device_observer_uid(node.ae_title),
        ),
        *(
            text_item(HAS_OBSERVATION_CONTEXT, name, ascii_text(value))
            for name, value in (
                (codes.DCM.DeviceObserverName, node.ae_title),
                (codes.DCM.DeviceObserverManufacturer, node.manufacturer),
                (codes.DCM.DeviceObserverModelName, node.model_name),
                (codes.DCM.DeviceObserverSerialNumber, node.serial_number),
            )
        ),
    ]


def _status_group(
    sources: Sequence[SourceHeader], result: StudyResult, algorithm: Iterable[bytes]
) -> bytes:
    quality = image_quality(result)
    return _group(
        [
            *_tracking(sources, STATUS_TOPIC, STATUS_TOPIC),
            *algorithm,
            code_item(CONTAINS, codes.DCM.CADProcessingAndFindingsSummary, summary(result)),
            *([code_item(CONTAINS, codes.DCM.ImageQuality, quality)] if quality else ()),
            *(
                code_item(CONTAINS, codes.DCM.QualityFinding, code)
                for code in quality_findings(result)
            ),
            *_source_images(sources),
            text_item(CONTAINS, _COMMENT, status_comment(result)),
        ]
    )


def _finding_group(
    score: FindingScore,
    images: Sequence[SourceHeader],
    algorithm: Iterable[bytes],
    picture: ResultObject | None,
) -> bytes:
    coded = term(score.label)
    items = [*_tracking(images, score.label, coded.concept.meaning)]
    if score.is_present:
        # Viewers list (121071, DCM, "Finding") as something found: never for an absent one.
        items.append(code_item(CONTAINS, _FINDING, coded.concept))
    items.append(code_item(HAS_CONCEPT_MODIFIER, _FINDING_SITE, coded.site))
    items.extend(algorithm)
    items.extend(_measurements(score))
    items.append(code_item(CONTAINS, coded.concept, PRESENCE[score.presence]))
    items.extend(_source_images(images))
    comment = finding_comment(score)
    if comment:
        items.append(text_item(CONTAINS, _COMMENT, comment))
    if picture is not None:
        items.append(
            image_item(_VISUAL_EXPLANATION, picture.sop_class_uid, picture.sop_instance_uid)
        )
    return _group(items)


def _group(items: Iterable[bytes]) -> bytes:
    """TID 1501."""
    return container(_MEASUREMENT_GROUP, items, template="1501")


def _tracking(sources: Sequence[SourceHeader], topic: str, identifier: str) -> tuple[bytes, bytes]:
    uid = tracking_uid(sources[0].study_instance_uid, topic)
    return (
        text_item(HAS_OBSERVATION_CONTEXT, _TRACKING_IDENTIFIER, identifier),
        uid_item(HAS_OBSERVATION_CONTEXT, _TRACKING_UID, uid),
    )


def _measurements(score: FindingScore) -> list[bytes]:
    if score.probability is None:
        return []
    items = [number_item(CONTAINS, _PROBABILITY, rounded(score.probability), NO_UNITS)]
    if score.spread is not None:
        items.append(
            number_item(
                CONTAINS, _PROBABILITY, rounded(score.spread), NO_UNITS, [_STANDARD_DEVIATION]
            )
        )
    return items


def _identification(result: StudyResult) -> list[bytes]:
    """TID 4019 without family, which readers list as if it were a qualitative evaluation."""
    return [
        text_item(HAS_CONCEPT_MODIFIER, name, ascii_text(value))
        for name, value in (
            (codes.DCM.AlgorithmName, result.model.name),
            (codes.DCM.AlgorithmVersion, result.model.version),
            (codes.DCM.AlgorithmManufacturer, result.model.manufacturer),
        )
    ]


def _parameter(text: str) -> bytes:
    return text_item(HAS_CONCEPT_MODIFIER, _ALGORITHM_PARAMETERS, text)


def _source_images(sources: Sequence[SourceHeader]) -> list[bytes]:
    return [
        image_item(_SOURCE_OF_MEASUREMENT, each.sop_class_uid, each.sop_instance_uid)
        for each in sources
    ]
