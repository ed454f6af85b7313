"""What every result object says about its patient, its series and its makers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import highdicom
from pydicom.sr.coding import Code
from pydicom.uid import UID

from imaging_node.dicom.elements import by_tag, code_body, element, joined, sequence
from imaging_node.dicom.encoding import RawElement, encode_file
from imaging_node.dicom.identity import (
    INSTANCE_CREATOR_UID,
    instance_uid,
    model_device_uid,
    series_uid,
)
from imaging_node.dicom.source_attributes import EQUIPMENT_KEYWORDS
from imaging_node.dicom.terminology import LOCAL_SCHEME_NAME, LOCAL_SCHEME_ORGANISATION
from imaging_node.domain.coded_term import LOCAL_SCHEME
from imaging_node.domain.result_object import ObjectKind, ResultObject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import ModelIdentity
    from imaging_node.domain.result_object import Answer, ResultContext

DISCLAIMER: Final = (
    "Output of an investigational algorithm. Not verified by a physician. Not for primary"
    " diagnosis. Absence of a finding does not exclude disease."
)

_LONG_STRING: Final = 64  # LO, PS3.5 6.2
_SHORT_TEXT: Final = 1024  # ST
_LENGTHS: Final = {"SH": 16, "LO": _LONG_STRING}
_SERIES_TITLES: Final = {
    ObjectKind.NOT_ANALYSED: "AI: NOT ANALYSED",
    ObjectKind.REPORT: "AI findings",
    ObjectKind.CAPTURE: "AI saliency",
    ObjectKind.SEGMENTATION: "AI segmentation",
}


def ascii_text(text: str, limit: int = _LONG_STRING) -> str:
    """`text` in the characters that every DICOM character set shares, at most `limit` long."""
    return text.encode("ascii", "replace").decode("ascii").replace("\\", "/")[:limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultName:
    """What names a result object, derived from what it tells (see `identity`)."""

    kind: ObjectKind
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


def result_name(
    source: SourceHeader,
    result: Answer,
    context: ResultContext,
    *,
    kind: ObjectKind,
    sop_class_uid: str,
    label: str = "",
) -> ResultName:
    """Name of a result object.

    Args:
        source: Image that gives the study.
        result: Answer that the object tells.
        context: Source instances, settings digest and revision.
        kind: Decides the series.
        sop_class_uid: Class of the object.
        label: Finding that a capture shows; "" for another object.
    """
    study = source.study_instance_uid
    return ResultName(
        kind=kind,
        label=label,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=instance_uid(
            study,
            context,
            result.model,
            sop_class_uid=sop_class_uid,
            finding=label or kind.value,
        ),
        series_instance_uid=series_uid(study, result.model, kind),
    )


def result_elements(
    name: ResultName,
    source: SourceHeader,
    result: Answer,
    context: ResultContext,
    *,
    instance_number: int,
) -> list[RawElement]:
    """Series, equipment and SOP common elements of a result object.

    Args:
        name: UIDs and kind of the object.
        source: Image that gives the time zone.
        result: Answer that the object tells.
        context: Node and series start.
        instance_number: > 0, unique in the series.
    """
    # Date, time and description belong to the series: the same for every later instance.
    series_start = source.local_time(context.series_started_at(name.series_instance_uid))
    start = source.local_time(result.started_at)
    day, clock = start.strftime("%Y%m%d"), start.strftime("%H%M%S")
    title = f"{_SERIES_TITLES[name.kind]} {result.model.name} {result.model.version}"
    elements = [
        element("SOPClassUID", name.sop_class_uid),
        element("SOPInstanceUID", name.sop_instance_uid),
        element("InstanceNumber", instance_number),
        element("SeriesInstanceUID", name.series_instance_uid),
        element("SeriesNumber", name.kind.series_number),
        element("SeriesDescription", ascii_text(title)),
        element("SeriesDate", series_start.strftime("%Y%m%d")),
        element("SeriesTime", series_start.strftime("%H%M%S")),
        element("Manufacturer", ascii_text(context.node.manufacturer)),
        element("ManufacturerModelName", ascii_text(context.node.model_name)),
        element("SoftwareVersions", ascii_text(context.node.software_version)),
        element("DeviceSerialNumber", ascii_text(context.node.serial_number)),
        element("InstanceCreationDate", day),
        element("InstanceCreationTime", clock),
        element("ContentDate", day),
        element("ContentTime", clock),
        element("InstanceCreatorUID", INSTANCE_CREATOR_UID),
        _OUR_SCHEME,
    ]
    if source.utc_offset is not None:
        # PS3.3 C.12.1.1.1: governs every date and time here, the copied ones included.
        offset = source.text("TimezoneOffsetFromUTC")
        elements.append(element("TimezoneOffsetFromUTC", offset))
    return elements


def encode_result(
    name: ResultName,
    elements: Mapping[int, bytes],
    source: SourceHeader,
    result: Answer,
    *,
    samples: bytes | memoryview = b"",
) -> ResultObject:
    """Finished object: `elements` with the source's identity, and who contributed, as bytes.

    Args:
        name: UIDs and kind of the object.
        elements: Encoded elements by tag, all but identity and Contributing Equipment.
        source: Image that gives identity and acquisition equipment.
        result: Answer that the object tells.
        samples: Pixel Data of 8 bits or packed single bits, empty for an object without.
    """
    is_report = name.kind is not ObjectKind.CAPTURE
    equipment = _contributing_equipment(source, result, made_with_highdicom=is_report)
    # Identity last: nothing of ours may stand where the source says who the patient is.
    carried = [sequence("ContributingEquipmentSequence", *equipment), *source.identity.values()]
    return ResultObject(
        kind=name.kind,
        label=name.label,
        sop_class_uid=name.sop_class_uid,
        sop_instance_uid=name.sop_instance_uid,
        series_instance_uid=name.series_instance_uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        payload=encode_file(
            {**elements, **by_tag(carried)},
            sop_class_uid=name.sop_class_uid,
            sop_instance_uid=name.sop_instance_uid,
            samples=samples,
        ),
    )


def _contributing_equipment(
    source: SourceHeader, result: Answer, *, made_with_highdicom: bool
) -> list[bytes]:
    """Items for the modality, the algorithm and the library (PS3.3 C.12.1, CID 7005)."""
    items = []
    device = {
        name: source.carried[name]
        for name in EQUIPMENT_KEYWORDS
        if name in source.carried and _is_legal(source.carried[name])
    }
    if "Manufacturer" in device:  # Type 1 in this item
        purpose = _purpose("109101", "Acquisition Equipment")
        items.append(joined([purpose, *device.values()]))
    items.append(joined(_algorithm(source, result, result.model)))
    if made_with_highdicom:
        items.append(_LIBRARY)
    return items


def _is_legal(element: RawElement) -> bool:
    """True for a value that its VR allows: equipment is no identity, so errors stay behind."""
    text = element.value.decode("utf-8", "replace").strip(" \0")
    if element.vr == "UI":
        return UID(text).is_valid
    limit = _LENGTHS.get(element.vr, _SHORT_TEXT)
    values = [text] if element.vr == "ST" else text.split("\\")
    return bool(text) and all(
        len(value) <= limit and all(letter >= " " or letter == "\x1b" for letter in value)
        for value in values
    )


def _purpose(value: str, meaning: str) -> RawElement:
    return sequence("PurposeOfReferenceCodeSequence", code_body(Code(value, "DCM", meaning)))


def _algorithm(source: SourceHeader, result: Answer, model: ModelIdentity) -> list[RawElement]:
    started_at = source.local_time(result.started_at).strftime("%Y%m%d%H%M%S%z")
    return [
        _purpose("109102", "Processing Equipment"),
        element("Manufacturer", ascii_text(model.manufacturer)),
        element("ManufacturerModelName", ascii_text(model.name)),
        element("SoftwareVersions", ascii_text(model.version)),
        element("DeviceSerialNumber", model.digest.split(":")[-1][:16]),
        # A new UID for each set of weights; IHE AIR asks for it inside the item.
        element("DeviceUID", model_device_uid(model.digest)),
        element("ContributionDateTime", started_at),
        element(
            "ContributionDescription",
            ascii_text(f"Inference; weights {model.digest}", _SHORT_TEXT),
        ),
    ]


_OUR_SCHEME: Final = sequence(
    "CodingSchemeIdentificationSequence",
    joined(
        [
            element("CodingSchemeDesignator", LOCAL_SCHEME),
            element("CodingSchemeName", LOCAL_SCHEME_NAME),
            element("CodingSchemeVersion", "1"),
            element("CodingSchemeResponsibleOrganization", LOCAL_SCHEME_ORGANISATION),
        ]
    ),
)
# The library that says what the tree is, whichever way its bytes were made.
_LIBRARY: Final = joined(
    [
        _purpose("109102", "Processing Equipment"),
        element("Manufacturer", "Highdicom open-source contributors"),
        element("ManufacturerModelName", "highdicom"),
        element("SoftwareVersions", highdicom.__version__),
        element("ContributionDescription", "Software library used to create this instance"),
    ]
)
