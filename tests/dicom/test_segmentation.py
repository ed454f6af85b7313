"""A segmentation and its report: in place, in the right patient's study, and without a call."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import highdicom
import numpy as np
import pytest
from pydicom import dcmread

from imaging_node.dicom.foreign_report import build_foreign_report
from imaging_node.dicom.segmentation import build_segmentation
from imaging_node.dicom.source import read_source
from imaging_node.dicom.volume import stack_slices
from imaging_node.domain.finding import NotAnalysedReason
from tests.dicom.foreign_answers import not_analysed, scored, segmented
from tests.dicom.synthetic_answers import context
from tests.dicom.synthetic_series import OBLIQUE, Geometry, ct_series

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.foreign_result import ForeignResult
    from imaging_node.domain.result_object import ResultObject

    Tool = Callable[..., subprocess.CompletedProcess[str]]

# docs/result-objects.md, "Validation".
ALLOWED_WARNINGS = ("99RADINFER", "DeviceUID")
PRESENT, ABSENT, UNDETERMINED = "52101004", "272519000", "373068000"
SHAPE = (5, 8, 6)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceHeader, ...]:
    folder = tmp_path_factory.mktemp("series")
    paths = ct_series(folder, np.zeros(SHAPE, np.int16), OBLIQUE, file_order=[4, 2, 0, 1, 3])
    return stack_slices([read_source(path) for path in paths]).sources


def _labels() -> npt.NDArray[np.uint8]:
    """Spleen in two slices, nothing of the second label, liver in one: planted."""
    labels = np.zeros((1, *SHAPE), np.uint8)
    labels[0, 1, 2:5, 1:3] = 1
    labels[0, 2, 2:4, 1:3] = 1
    labels[0, 4, 6:, 5:] = 3
    return labels


def _result(labels: npt.NDArray[np.uint8]) -> ForeignResult:
    return segmented(*(int((labels == place).sum()) for place in (1, 2, 3)))


def _made(sources: tuple[SourceHeader, ...]) -> tuple[ResultObject, ResultObject]:
    labels = _labels()
    result, about = _result(labels), context(list(sources))
    segmentation = build_segmentation(sources=sources, masks=labels, result=result, context=about)
    report = build_foreign_report(
        sources=sources, result=result, context=about, segmentation=segmentation
    )
    return segmentation, report


def _report(sources: tuple[SourceHeader, ...], result: ForeignResult) -> ResultObject:
    return build_foreign_report(
        sources=sources, result=result, context=context(list(sources)), segmentation=None
    )


def _groups(made: ResultObject) -> list[Dataset]:
    (measurements,) = (
        item
        for item in dcmread(BytesIO(made.payload)).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "126010"
    )
    return list(measurements.ContentSequence)


def _codes(made: ResultObject) -> set[str]:
    """Every code value anywhere in a report."""
    dataset = dcmread(BytesIO(made.payload))
    return {
        str(element.value)
        for element in dataset.iterall()
        if element.keyword in ("CodeValue", "LongCodeValue")
    }


def test_every_labelled_voxel_is_found_again_on_its_own_slice(
    sources: tuple[SourceHeader, ...],
) -> None:
    segmentation, _ = _made(sources)
    read = highdicom.seg.segread(BytesIO(segmentation.payload))
    uids = [each.sop_instance_uid for each in sources]
    pixels = read.get_pixels_by_source_instance(uids, combine_segments=False)
    expected = _labels()[0]
    assert read.segment_numbers == [1, 2]  # without the label that nobody saw
    assert (pixels[..., 0] == (expected == 1)).all()
    assert (pixels[..., 1] == (expected == 3)).all()
    for frame in read.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        source = sources[uids.index(image.ReferencedSOPInstanceUID)]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert [float(each) for each in position] == pytest.approx(
            [float(each) for each in source.texts("ImagePositionPatient")]
        )
    shared = read.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert [float(each) for each in orientation] == pytest.approx(
        [*OBLIQUE.row, *OBLIQUE.column], abs=1e-6
    )
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [0.9, 0.6]


def test_overlapping_labels_are_kept_apart(sources: tuple[SourceHeader, ...]) -> None:
    masks = np.zeros((3, *SHAPE), np.uint8)
    masks[0, 1, 2:5, 1:3] = 1
    masks[2, 1, 4:6, 2:4] = 1  # a voxel with both
    result = segmented(*(int(each.sum()) for each in masks))
    made = build_segmentation(
        sources=sources, masks=masks, result=result, context=context(list(sources))
    )
    read = highdicom.seg.segread(BytesIO(made.payload))
    pixels = read.get_pixels_by_source_instance(
        [each.sop_instance_uid for each in sources], combine_segments=False
    )
    assert (pixels[..., 0] == masks[0]).all()
    assert (pixels[..., 1] == masks[2]).all()
    assert read.SegmentsOverlap == "YES"


def test_the_same_answer_is_encoded_to_the_same_bytes(sources: tuple[SourceHeader, ...]) -> None:
    assert _made(sources) == _made(sources)


def test_identity_is_the_sources_byte_for_byte_and_series_are_apart(
    sources: tuple[SourceHeader, ...],
) -> None:
    segmentation, report = _made(sources)
    for made in (segmentation, report):
        dataset = dcmread(BytesIO(made.payload))
        assert str(dataset.PatientName) == "Müster^Jürgen"
        assert dataset.StudyInstanceUID == sources[0].study_instance_uid
        assert dataset.AccessionNumber == "ACC-2026-0042"
    read = dcmread(BytesIO(segmentation.payload))
    assert (read.SeriesNumber, read.Modality) == (9005, "SEG")
    assert read.FrameOfReferenceUID == sources[0].text("FrameOfReferenceUID")
    assert segmentation.series_instance_uid != report.series_instance_uid
    assert not [element for element in read.iterall() if element.tag.is_private]


def test_the_report_measures_each_segment_and_tracks_it_by_the_segments_own_uid(
    sources: tuple[SourceHeader, ...], tmp_path: Path
) -> None:
    segmentation, report = _made(sources)
    path = tmp_path / "report.dcm"
    path.write_bytes(report.payload)
    content = highdicom.sr.srread(path).content
    assert isinstance(content, highdicom.sr.MeasurementReport)
    groups = content.get_volumetric_roi_measurement_groups()
    described = dcmread(BytesIO(segmentation.payload)).SegmentSequence
    assert len(groups) == len(described) == 2
    for group, segment, voxels in zip(groups, described, (10, 2), strict=True):
        reference = group.referenced_segment
        assert reference is not None
        assert group.finding_type is not None
        assert reference.referenced_sop_instance_uid == segmentation.sop_instance_uid
        assert reference.referenced_segment_numbers == [segment.SegmentNumber]
        assert group.tracking_uid == segment.TrackingUID
        (volume,) = group.get_measurements()
        assert (volume.name.value, volume.unit.value) == ("118565006", "mm3")
        assert volume.value == voxels * 2.0
        assert group.finding_type.value == segment.SegmentedPropertyTypeCodeSequence[0].CodeValue
    evidence = dcmread(path).CurrentRequestedProcedureEvidenceSequence[0]
    named = {
        each.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
    }
    assert named == {segmentation.sop_instance_uid, *(each.sop_instance_uid for each in sources)}


def test_nothing_of_a_foreign_model_is_called_present_or_absent(
    sources: tuple[SourceHeader, ...],
) -> None:
    first = sources[0].sop_instance_uid
    for made in (
        _made(sources)[1],
        _report(sources, segmented(0, 0, 0)),
        _report(sources, scored(first, 0.99, 0.5, -3.0)),
        _report(sources, not_analysed(NotAnalysedReason.GEOMETRY)),
    ):
        assert not _codes(made) & {PRESENT, ABSENT, "111241", "111242"}
        text = made.payload.decode("latin-1").lower()
        assert "normal" not in text.replace("not a normal result", "").replace(
            "nothing here is a normal result", ""
        )


def test_an_empty_segmentation_says_that_no_voxel_was_labelled_and_not_that_it_is_absent(
    sources: tuple[SourceHeader, ...],
) -> None:
    made = _report(sources, segmented(0, 0, 0))
    _, *groups = _groups(made)
    assert len(groups) == 3
    for group in groups:
        texts = [str(item.TextValue) for item in group.ContentSequence if "TextValue" in item]
        assert "No voxel was labelled; this does not say that it is absent." in texts
    assert UNDETERMINED in _codes(made)
    with pytest.raises(ValueError, match="empty"):
        build_segmentation(
            sources=sources,
            masks=np.zeros((1, *SHAPE), np.uint8),
            result=segmented(0, 0, 0),
            context=context(list(sources)),
        )


def test_a_score_is_shown_as_text_beside_undetermined(sources: tuple[SourceHeader, ...]) -> None:
    made = _report(sources, scored(sources[0].sop_instance_uid, 0.99, 0.25, -3.0))
    _, *groups = _groups(made)
    for group, score in zip(groups, ("0.99", "0.25", "-3"), strict=True):
        texts = [str(item.TextValue) for item in group.ContentSequence if "TextValue" in item]
        assert any(f"no probability: {score}. No call" in text for text in texts)
        assert not [item for item in group.ContentSequence if item.ValueType == "NUM"]


def test_not_analysed_has_its_summary_reason_and_own_series(
    sources: tuple[SourceHeader, ...],
) -> None:
    made = _report(sources, not_analysed(NotAnalysedReason.GEOMETRY))
    read = dcmread(BytesIO(made.payload))
    assert (read.SeriesNumber, read.CompletionFlag) == (9000, "PARTIAL")
    assert "111245" in _codes(made)
    assert b"slices that make no volume" in made.payload


@pytest.mark.parametrize("case", ["segmented", "two thicknesses", "scored", "not analysed"])
def test_validators_find_no_error(case: str, tmp_path: Path, dicom_tool: Tool) -> None:
    geometry, change = Geometry(), None
    if case == "two thicknesses":

        def change(data: Dataset, index: int) -> None:
            data.SliceThickness = 2.0 if index < 2 else 4.0

        geometry = Geometry(step_mm=(0, 0, 1.0), gaps=[2.0, 3.0, 4.0, 4.0])
    paths = ct_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), geometry, change=change)
    sources = stack_slices([read_source(path) for path in paths]).sources
    made: tuple[ResultObject, ...]
    if case == "scored":
        made = (_report(sources, scored(sources[0].sop_instance_uid, 1.0, 2.0, 3.0)),)
    elif case == "not analysed":
        made = (_report(sources, not_analysed(NotAnalysedReason.SOFTWARE)),)
    else:
        made = _made(sources)
    written = []
    for each in made:
        path = tmp_path / f"{each.kind}.dcm"
        path.write_bytes(each.payload)
        again = tmp_path / "again.dcm"
        dcmread(path).save_as(again, enforce_file_format=True)
        checked = dicom_tool("dciodvfy", "-new", path)
        lines = (checked.stdout + checked.stderr).splitlines()
        assert [
            line
            for line in lines
            if line.startswith("Error")
            or (line.startswith("Warning") and not any(word in line for word in ALLOWED_WARNINGS))
        ] == []
        written.append(path)
    agreed = dicom_tool("dcentvfy", *written, *paths)
    assert not [
        line for line in (agreed.stdout + agreed.stderr).splitlines() if line.startswith("Error")
    ]
    dumped = dicom_tool("dsrdump", "-Er", written[-1])
    assert dumped.returncode == 0, dumped.stderr
    if case == "two thicknesses":
        by_uid = {each.sop_instance_uid: each.text("SliceThickness") for each in sources}
        assert set(by_uid.values()) == {"2.0", "4.0"}
        for frame in dcmread(written[0]).PerFrameFunctionalGroupsSequence:
            (image,) = frame.DerivationImageSequence[0].SourceImageSequence
            thickness = float(frame.PixelMeasuresSequence[0].SliceThickness)
            assert thickness == float(by_uid[image.ReferencedSOPInstanceUID])
