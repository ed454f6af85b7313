"""The tree that is encoded directly is the one that highdicom builds, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_node.dicom.encoded_content import content_shape, encoded_content
from imaging_node.dicom.report import built_content
from imaging_node.dicom.source import SourceHeader, read_source
from imaging_node.dicom.terminology import FINDING_TERMS
from imaging_node.domain.finding import (
    AnalysisStatus,
    FindingScore,
    ModelIdentity,
    NotAnalysedReason,
    StudyResult,
)
from imaging_node.domain.result_object import ObjectKind, ResultObject
from tests.dicom.synthetic_answers import MODEL, NODE, STARTED, answer, context
from tests.dicom.synthetic_sources import code_item, derived_uid, radiograph, write

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"


def _computed_tomogram() -> Dataset:
    data = radiograph("slice")
    data.Modality, data.SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.2"
    data.FrameOfReferenceUID = derived_uid("frame of reference")
    data.PixelSpacing, data.SliceThickness = ["0.70", "0.7"], "5"
    data.ImagePositionPatient = ["-120.5", "3e-5", "0.123456789012345"]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.SpacingBetweenSlices = "+4.5"
    return data


def _computed_radiograph() -> Dataset:
    data = radiograph("plate")
    data.Modality, data.SOPClassUID = "CR", "1.2.840.10008.5.1.4.1.1.1"
    data.PatientOrientation = None
    del data.ProcedureCodeSequence
    return data


def _several_frames() -> Dataset:
    data = radiograph("frames")
    data.SOPClassUID, data.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.7.2", 12
    data.Modality = "OT"
    del data.ImagerPixelSpacing
    return data


def _odd_code() -> Dataset:
    data = radiograph("odd code")
    del data.PatientOrientation
    data.ProcedureCodeSequence = [
        code_item("", "SCT", "no value"),
        code_item("urn:oid:1.2.840.113619.2", "99X", "Thorax p.a. \u00fcber Kopf"),
    ]
    return data


def _nothing_said() -> Dataset:
    data = radiograph("bare")
    for keyword in ("Modality", "RequestAttributesSequence", "ProcedureCodeSequence"):
        delattr(data, keyword)
    return data


KINDS = {
    "DX": radiograph,
    "CT": _computed_tomogram,
    "CR without orientation": _computed_radiograph,
    "several frames": _several_frames,
    "odd code": _odd_code,
    "bare": _nothing_said,
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceHeader]:
    folder = tmp_path_factory.mktemp("sources")
    return {
        name: read_source(write(make(), folder / f"{name}.dcm")) for name, make in KINDS.items()
    }


def _images(source: SourceHeader, count: int) -> list[SourceHeader]:
    more = (
        replace(source, sop_instance_uid=derived_uid("image", str(number)))
        for number in range(1, count)
    )
    return [source, *more]


def _capture(label: str) -> ResultObject:
    return ResultObject(
        kind=ObjectKind.CAPTURE,
        label=label,
        sop_class_uid=CAPTURE_CLASS,
        sop_instance_uid=derived_uid("capture", label),
        series_instance_uid=derived_uid("captures"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        payload=b"",
    )


probabilities = st.one_of(
    st.floats(0, 1), st.floats(0, 1e-3), st.sampled_from([0.0, 1.0, 0.5, 0.00005])
)
texts = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), min_size=1, max_size=90)


@st.composite
def scores(draw: st.DrawFn, label: str, images: list[SourceHeader]) -> FindingScore:
    probability = draw(probabilities)
    operating_point = draw(st.sampled_from([0.5, 1 / 3, 1.0]))
    interval = (0.0, probability) if draw(st.booleans()) else None
    named = [image.sop_instance_uid for image in images]
    return FindingScore(
        label=label,
        probability=probability,
        interval=interval,
        spread=draw(st.one_of(st.none(), st.floats(0, 0.5))),
        operating_point=operating_point,
        undetermined_from=operating_point / 2,
        sop_instance_uid=draw(st.sampled_from([*named, "1.2.3"])),
        absence_withheld=draw(st.booleans()),
    )


@st.composite
def results(draw: st.DrawFn, images: list[SourceHeader]) -> StudyResult:
    status = draw(st.sampled_from(AnalysisStatus))
    labels = draw(st.lists(st.sampled_from(sorted(FINDING_TERMS)), min_size=1, unique=True))
    findings = tuple(draw(scores(label, images)) for label in labels)
    if status is AnalysisStatus.NOT_ANALYSED:
        findings = tuple(
            replace(score, probability=None, interval=None, spread=None, sop_instance_uid="")
            for score in findings
        )
    least = 0 if status is AnalysisStatus.COMPLETE else 1
    reasons = st.lists(st.sampled_from(NotAnalysedReason), min_size=least, max_size=4, unique=True)
    digest = "sha256:" + draw(st.sampled_from(["ab" * 32, "0"]))
    return StudyResult(
        model=ModelIdentity(
            name=draw(texts), version=draw(texts), manufacturer=draw(texts), digest=digest
        ),
        status=status,
        findings=findings,
        reasons=tuple(draw(reasons)),
        remarks=tuple(draw(st.lists(texts, max_size=3))),
        started_at=STARTED,
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_answer_is_encoded_as_it_is_built(
    data: st.DataObject, kinds: dict[str, SourceHeader]
) -> None:
    source = kinds[data.draw(st.sampled_from(sorted(KINDS)))]
    images = _images(source, data.draw(st.integers(1, 4)))
    result = data.draw(results(images))
    node = replace(NODE, ae_title=data.draw(texts), serial_number=data.draw(st.just("") | texts))
    settled = replace(context(images), node=node)
    captures = [
        _capture(score.label)
        for score in result.findings
        if score.is_present and data.draw(st.booleans())
    ]
    assert content_shape(images, result, captures) is not None
    encoded = encoded_content(images, result, settled, captures)
    assert encoded == built_content(images, result, settled, captures)


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_image_is_described_as_it_is_built(
    kind: str, count: int, kinds: dict[str, SourceHeader]
) -> None:
    images = _images(kinds[kind], count)
    result = answer(images)
    encoded = encoded_content(images, result, context(images), [])
    assert encoded == built_content(images, result, context(images), [])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientOrientation", ["L", "F", "H"]),
        ("PatientOrientation", "LF"),
        ("ImagerPixelSpacing", ["0.2"]),
        ("ImagerPixelSpacing", ["0.2", "inf"]),
        ("FrameOfReferenceUID", ""),
        ("Rows", [64, 48]),
        ("Modality", ["DX", "CR"]),
    ],
)
def test_an_image_that_breaks_the_standard_is_left_to_highdicom(
    keyword: str, value: object, tmp_path: Path
) -> None:
    data = radiograph()
    setattr(data, keyword, value)
    source = read_source(write(data, tmp_path / "source.dcm"))
    assert content_shape([source], answer([source]), []) is None


def test_trees_with_other_items_have_other_shapes(kinds: dict[str, SourceHeader]) -> None:
    source = kinds["DX"]
    result = answer([source])
    present, *others = result.findings
    variants = [
        (result, []),
        (result, [_capture(present.label)]),
        (replace(result, findings=(*others, present)), []),
        (replace(result, findings=(replace(present, spread=None), *others)), []),
        (replace(result, findings=(replace(present, interval=None), *others)), []),
        (replace(result, findings=(replace(present, probability=0.1), *others)), []),
        (replace(result, reasons=(NotAnalysedReason.BLANK,)), []),
    ]
    shapes = {content_shape([source], each, captures) for each, captures in variants}
    shapes.add(content_shape(_images(source, 2), result, []))
    shapes.add(content_shape([kinds["CT"]], result, []))
    assert len(shapes) == len(variants) + 2
    same = replace(result, model=replace(MODEL, version="9"), remarks=("Another remark.",))
    assert content_shape([source], same, []) == content_shape([source], result, [])
