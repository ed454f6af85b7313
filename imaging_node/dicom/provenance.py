"""What every result object says about its patient, its series and its makers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import highdicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from imaging_node.dicom.encoding import RawElement, encode_dataset, encode_file, raw_sequence
from imaging_node.dicom.identity import (
    INSTANCE_CREATOR_UID,
    instance_uid,
    model_device_uid,
    series_uid,
)
from imaging_node.dicom.source_attributes import EQUIPMENT_KEYWORDS
from imaging_node.dicom.terminology import (
    LOCAL_SCHEME,
    LOCAL_SCHEME_NAME,
    LOCAL_SCHEME_ORGANISATION,
)
from imaging_node.domain.result_object import ObjectKind, ResultObject

if TYPE_CHECKING:
    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import ModelIdentity, StudyResult
    from imaging_node.domain.result_object import NodeIdentity, ResultContext

DISCLAIMER: Final = (
    "Output of an investigational algorithm. Not verified by a physician. Not for primary"
    " diagnosis. Absence of a finding does not exclude disease."
)

_SHORT_STRING: Final = 16  # SH, PS3.5 6.2
_LONG_STRING: Final = 64  # LO, PS3.5 6.2
_SHORT_TEXT: Final = 1024  # ST
_LENGTHS: Final = {"SH": _SHORT_STRING, "LO": _LONG_STRING}
_SERIES_TITLES: Final = {
    ObjectKind.NOT_ANALYSED: "AI: NOT ANALYSED",
    ObjectKind.REPORT: "AI findings",
    ObjectKind.CAPTURE: "AI saliency",
}


def ascii_text(text: str, limit: int = _LONG_STRING) -> str:
    """`text` in the characters that every DICOM character set shares, at most `limit` long."""
    return text.encode("ascii", "replace").decode("ascii").replace("\\", "/")[:limit]


def code_item(code: Code) -> Dataset:
    """Item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    setattr(item, "CodeValue" if len(code.value) <= _SHORT_STRING else "LongCodeValue", code.value)
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def reference_item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Item that names another instance (PS3.3 Table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def result_dataset(
    source: SourceHeader,
    result: StudyResult,
    context: ResultContext,
    *,
    kind: ObjectKind,
    sop_class_uid: str,
    finding: str,
    instance_number: int,
) -> Dataset:
    """Series, equipment and SOP common attributes of a result object.

    Args:
        source: Image that gives identity and time zone.
        result: Answer that the object tells.
        context: Node, revision and series start.
        kind: Decides the series.
        sop_class_uid: Class of the object.
        finding: Seed of the instance UID: the label of a capture, or the kind of a report.
        instance_number: > 0, unique in the series.
    """
    study = source.study_instance_uid
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = instance_uid(
        study, context, result.model, sop_class_uid=sop_class_uid, finding=finding
    )
    dataset.InstanceNumber = instance_number
    series = series_uid(study, result.model, kind)
    # Date, time and description belong to the series: the same for every later instance.
    series_start = source.local_time(context.series_started_at(series))
    dataset.SeriesInstanceUID = series
    dataset.SeriesNumber = kind.series_number
    dataset.SeriesDescription = ascii_text(
        f"{_SERIES_TITLES[kind]} {result.model.name} {result.model.version}"
    )
    dataset.SeriesDate = series_start.strftime("%Y%m%d")
    dataset.SeriesTime = series_start.strftime("%H%M%S")
    _add_node(dataset, context.node)
    start = source.local_time(result.started_at)
    dataset.InstanceCreationDate = dataset.ContentDate = start.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.ContentTime = start.strftime("%H%M%S")
    dataset.InstanceCreatorUID = INSTANCE_CREATOR_UID
    if source.utc_offset is not None:
        # PS3.3 C.12.1.1.1: governs every date and time here, the copied ones included.
        dataset.TimezoneOffsetFromUTC = source.text("TimezoneOffsetFromUTC")
    dataset.CodingSchemeIdentificationSequence = [_local_scheme()]
    return dataset


def encode_result(
    dataset: Dataset,
    source: SourceHeader,
    result: StudyResult,
    *,
    kind: ObjectKind,
    label: str = "",
    made_with_highdicom: bool = False,
    raw: dict[str, RawElement] | None = None,
) -> ResultObject:
    """Finished object: `dataset` with the source's identity, and who contributed, as bytes."""
    equipment = _contributing_equipment(source, result, made_with_highdicom=made_with_highdicom)
    carried = {
        **source.identity,
        **(raw or {}),
        "ContributingEquipmentSequence": raw_sequence("ContributingEquipmentSequence", equipment),
    }
    return ResultObject(
        kind=kind,
        label=label,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        payload=encode_file(dataset, carried),
    )


def _add_node(dataset: Dataset, node: NodeIdentity) -> None:
    dataset.Manufacturer = ascii_text(node.manufacturer)
    dataset.ManufacturerModelName = ascii_text(node.model_name)
    dataset.SoftwareVersions = ascii_text(node.software_version)
    dataset.DeviceSerialNumber = ascii_text(node.serial_number)


def _local_scheme() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = LOCAL_SCHEME
    item.CodingSchemeName = LOCAL_SCHEME_NAME
    item.CodingSchemeVersion = "1"
    item.CodingSchemeResponsibleOrganization = LOCAL_SCHEME_ORGANISATION
    return item


def _contributing_equipment(
    source: SourceHeader, result: StudyResult, *, made_with_highdicom: bool
) -> list[bytes]:
    """Items for the modality, the algorithm and the library (PS3.3 C.12.1, CID 7005)."""
    items = []
    device = {
        name: source.carried[name]
        for name in EQUIPMENT_KEYWORDS
        if name in source.carried and _is_legal(source.carried[name])
    }
    if "Manufacturer" in device:  # Type 1 in this item
        items.append(encode_dataset(_purpose("109101", "Acquisition Equipment"), device.values()))
    items.append(encode_dataset(_algorithm(source, result, result.model)))
    if made_with_highdicom:
        library = _purpose("109102", "Processing Equipment")
        library.Manufacturer = "Highdicom open-source contributors"
        library.ManufacturerModelName = "highdicom"
        library.SoftwareVersions = highdicom.__version__
        library.ContributionDescription = "Software library used to create this instance"
        items.append(encode_dataset(library))
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


def _purpose(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(Code(value, "DCM", meaning))]
    return item


def _algorithm(source: SourceHeader, result: StudyResult, model: ModelIdentity) -> Dataset:
    item = _purpose("109102", "Processing Equipment")
    item.Manufacturer = ascii_text(model.manufacturer)
    item.ManufacturerModelName = ascii_text(model.name)
    item.SoftwareVersions = ascii_text(model.version)
    item.DeviceSerialNumber = model.digest.split(":")[-1][:16]
    # A new UID for each set of weights; IHE AIR asks for it inside the item.
    item.DeviceUID = model_device_uid(model.digest)
    item.ContributionDateTime = source.local_time(result.started_at).strftime("%Y%m%d%H%M%S%z")
    item.ContributionDescription = ascii_text(f"Inference; weights {model.digest}", _SHORT_TEXT)
    return item
