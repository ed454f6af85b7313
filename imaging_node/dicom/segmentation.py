"""Labelled voxels of a series as a DICOM segmentation (PS3.3 A.51), one frame a labelled slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import highdicom
import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage

from imaging_node.dicom.elements import by_tag, element
from imaging_node.dicom.encoding import encoded_elements
from imaging_node.dicom.identity import dimension_organization_uid, tracking_uid
from imaging_node.dicom.provenance import (
    ascii_text,
    encode_result,
    result_elements,
    result_name,
)
from imaging_node.dicom.source_attributes import TYPE_2_KEYWORDS
from imaging_node.domain.result_object import ObjectKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.coded_term import CodedTerm
    from imaging_node.domain.foreign_result import ForeignFinding, ForeignResult
    from imaging_node.domain.result_object import ResultContext, ResultObject

MOST_SEGMENTS: Final = 255
"""A label volume has so many labels, 0 being none."""

_CONTENT_LABEL: Final = "AI_SEGMENTATION"


def segment_topic(result: ForeignResult, finding: ForeignFinding) -> str:
    """What a segment's tracking UID is derived from: two models' segments are never one."""
    return f"segment/{result.model.name}/{finding.label.name}"


def segment_numbers(result: ForeignResult) -> dict[str, int]:
    """Segment Number by label, of the labels that any voxel carries: from 1, without a gap."""
    labelled = [each.label.name for each in result.findings if each.is_labelled]
    return {name: number for number, name in enumerate(labelled, start=1)}


def build_segmentation(
    *,
    sources: Sequence[SourceHeader],
    masks: npt.NDArray[np.uint8],
    result: ForeignResult,
    context: ResultContext,
) -> ResultObject:
    """Encode the segments that any voxel carries: the same arguments give the same bytes.

    Args:
        sources: Slices of one series that were segmented, in the order of the masks.
        masks: Either labels, shape (1, slices, rows, columns), each voxel holding the place
            of its label in `result.findings`, from 1, or 0 for none; or one mask of 0 and 1 a
            label, shape (labels, slices, rows, columns), where labels may overlap.
        result: The answer; at least one label is labelled.
        context: Revision, node and series start.

    Returns:
        A binary segmentation of the series 9005, Explicit VR Little Endian.

    Raises:
        ValueError: No voxel carries any label, or the masks are not of the sources' shape.
    """
    numbers = segment_numbers(result)
    if not numbers:
        raise ValueError("an empty segmentation is said in the report, not in an object")
    if masks.shape[1] != len(sources) or masks.shape[0] not in (1, len(result.findings)):
        raise ValueError(f"masks of shape {masks.shape} do not fit {len(sources)} slices")
    first = sources[0]
    name = result_name(
        first,
        result,
        context,
        kind=ObjectKind.SEGMENTATION,
        sop_class_uid=str(SegmentationStorage),
    )
    made = highdicom.seg.Segmentation(
        source_images=[_describing(each) for each in sources],
        pixel_array=_pixels(masks, result, numbers),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(finding, numbers[finding.label.name], first, result)
            for finding in result.findings
            if finding.is_labelled
        ],
        series_instance_uid=name.series_instance_uid,
        series_number=name.kind.series_number,
        sop_instance_uid=name.sop_instance_uid,
        instance_number=1 + context.revision,
        manufacturer=ascii_text(context.node.manufacturer),
        manufacturer_model_name=ascii_text(context.node.model_name),
        software_versions=ascii_text(context.node.software_version),
        device_serial_number=ascii_text(context.node.serial_number),
        content_label=_CONTENT_LABEL,
        content_description=ascii_text(f"{result.model.name} {result.model.version}, unverified"),
        # Type 2; an algorithm is no person.
        content_creator_name=None,
        omit_empty_frames=True,
    )
    _name_dimensions(made, name.sop_instance_uid)
    _measure_each_frame(made, sources)
    bits = bytes(made.PixelData)
    del made.PixelData
    own = result_elements(name, first, result, context, instance_number=1 + context.revision)
    elements = {
        **encoded_elements(made),
        **by_tag(own),
        **by_tag([element("PositionReferenceIndicator")]),
    }
    # The library writes what our own list says better, or what is the source's to say.
    elements.pop(tag_for_keyword("SpecificCharacterSet") or 0, None)
    return encode_result(name, elements, first, result, samples=bits)


def _describing(source: SourceHeader) -> Dataset:
    """The source as the library reads it, with an empty identity: the real one goes in as bytes."""
    dataset = source.describing_dataset()
    for keyword in TYPE_2_KEYWORDS:
        setattr(dataset, keyword, "")
    return dataset


def _pixels(
    masks: npt.NDArray[np.uint8], result: ForeignResult, numbers: dict[str, int]
) -> npt.NDArray[np.uint8]:
    """Segment numbers, shape (slices, rows, columns), or a last axis of segments that overlap."""
    if len(masks) == 1:
        table = np.zeros(MOST_SEGMENTS + 1, np.uint8)
        for place, finding in enumerate(result.findings, start=1):
            table[place] = numbers.get(finding.label.name, 0)
        labels: npt.NDArray[np.uint8] = table[masks[0]]
        return labels
    kept = [index for index, each in enumerate(result.findings) if each.is_labelled]
    return np.moveaxis(masks[kept], 0, -1)


def _description(
    finding: ForeignFinding, number: int, source: SourceHeader, result: ForeignResult
) -> highdicom.seg.SegmentDescription:
    model = result.model
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=ascii_text(finding.label.name),
        segmented_property_category=_code(finding.label.category),
        segmented_property_type=_code(finding.label.concept),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=ascii_text(model.name),
            # CID 7162; the family is mandatory here, unlike in the report.
            family=codes.DCM.ArtificialIntelligence,
            version=ascii_text(model.version) or "0",
            source=ascii_text(model.manufacturer) or None,
            parameters={"weights": model.digest},
        ),
        tracking_uid=tracking_uid(source.study_instance_uid, segment_topic(result, finding)),
        tracking_id=ascii_text(finding.label.concept.meaning),
    )


def _code(term: CodedTerm) -> highdicom.sr.CodedConcept:
    return highdicom.sr.CodedConcept(
        value=term.value, scheme_designator=term.scheme, meaning=term.meaning
    )


def _name_dimensions(made: Dataset, sop_instance_uid: str) -> None:
    """Give the dimensions a derived name instead of the library's random one."""
    uid = dimension_organization_uid(sop_instance_uid)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _measure_each_frame(made: Dataset, sources: Sequence[SourceHeader]) -> None:
    """State the thickness of each frame's own slice where a series has several.

    PS3.3 C.7.6.16.2.1: Pixel Measures may stand for all frames only if they are the same.
    """
    if len({each.texts("SliceThickness") for each in sources}) == 1:
        return
    by_uid = {each.sop_instance_uid: each.clean for each in sources}
    shared = made.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    del shared.PixelMeasuresSequence
    for frame in made.PerFrameFunctionalGroupsSequence:
        (derivation,) = frame.DerivationImageSequence
        (image,) = derivation.SourceImageSequence
        own = Dataset()
        own.PixelSpacing = measures.PixelSpacing
        thickness = by_uid[image.ReferencedSOPInstanceUID].get("SliceThickness")
        if thickness is not None:
            own.SliceThickness = thickness
        frame.PixelMeasuresSequence = [own]
