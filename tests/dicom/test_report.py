from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import highdicom
import numpy as np
import pytest
from pydicom import dcmread

from imaging_node.dicom.report import build_report
from imaging_node.dicom.saliency_capture import build_capture
from imaging_node.dicom.source import SourceHeader, read_source
from imaging_node.domain.errors import BundleError
from imaging_node.domain.finding import AnalysisStatus, NotAnalysedReason, SaliencyMap
from imaging_node.domain.image import DecodedImage
from imaging_node.domain.result_object import ReportReference, ResultObject
from tests.dicom.synthetic_answers import answer, context, score
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.domain.finding import StudyResult

    Tool = Callable[..., subprocess.CompletedProcess[str]]

ALLOWED_WARNINGS = ("Unrecognized defined term = <99RADINFER>", "DeviceUID(0018,1002)")


@pytest.fixture
def source_path(tmp_path: Path) -> Path:
    return write(radiograph(), tmp_path / "source.dcm")


@pytest.fixture
def source(source_path: Path) -> SourceHeader:
    return read_source(source_path)


def _capture(source: SourceHeader, result: StudyResult, *, revision: int = 0) -> ResultObject:
    shown = result.findings[0]
    values = np.full((64, 48), 0.5, np.float32)
    return build_capture(
        source=source,
        image=DecodedImage(sop_instance_uid=source.sop_instance_uid, p_values=values),
        score=shown,
        saliency=SaliencyMap(
            label=shown.label, sop_instance_uid=source.sop_instance_uid, values=values
        ),
        result=result,
        context=context([source], revision=revision),
        label_index=0,
        is_verified=True,
    )


def _report(
    source: SourceHeader, result: StudyResult, captures: tuple[ResultObject, ...] = ()
) -> ResultObject:
    return build_report(
        sources=[source], result=result, context=context([source]), captures=captures
    )


def _not_analysed(source: SourceHeader, *reasons: NotAnalysedReason) -> StudyResult:
    return answer([source], status=AnalysisStatus.NOT_ANALYSED, reasons=reasons)


def _read(made: ResultObject) -> Dataset:
    return dcmread(BytesIO(made.payload))


def _groups(made: ResultObject) -> list[Dataset]:
    (measurements,) = (
        item
        for item in _read(made).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "126010"
    )
    return list(measurements.ContentSequence)


def _items(group: Dataset, code: str) -> list[Dataset]:
    return [
        item
        for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].get("CodeValue") == code
    ]


def _value(group: Dataset, code: str) -> str:
    (item,) = _items(group, code)
    return str(item.ConceptCodeSequence[0].CodeValue)


def test_the_same_answer_is_encoded_to_the_same_bytes(source: SourceHeader) -> None:
    result = answer([source])
    capture = _capture(source, result)
    assert _capture(source, result) == capture
    assert _report(source, result, (capture,)) == _report(source, result, (capture,))


def test_a_revision_names_its_predecessor_and_has_another_name(source: SourceHeader) -> None:
    result = answer([source])
    first = _report(source, result)
    reference = ReportReference(
        study_instance_uid=source.study_instance_uid,
        series_instance_uid=first.series_instance_uid,
        sop_class_uid=first.sop_class_uid,
        sop_instance_uid=first.sop_instance_uid,
    )
    second = build_report(
        sources=[source],
        result=result,
        context=context([source], revision=1, predecessor=reference),
        captures=[],
    )
    series = _read(second).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == first.series_instance_uid == second.series_instance_uid
    named = series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == first.sop_instance_uid != second.sop_instance_uid


def test_only_what_is_present_is_called_a_finding(source: SourceHeader) -> None:
    _, present, undetermined, absent = _groups(_report(source, answer([source])))
    assert _value(present, "121071") == _value(present, "121071") == "36118008"
    assert not _items(undetermined, "121071")
    assert not _items(absent, "121071")
    assert _value(present, "36118008") == "52101004"
    assert _value(undetermined, "4147007") == "373068000"
    assert _value(absent, "60046008") == "272519000"


def test_every_requested_finding_is_answered_even_when_nothing_was_evaluated(
    source: SourceHeader,
) -> None:
    result = _not_analysed(source, NotAnalysedReason.UNDECODABLE)
    _, *findings = _groups(_report(source, result))
    assert len(findings) == len(result.findings)
    assert all(not _items(group, "122157") for group in findings)
    assert all(not _items(group, "121071") for group in findings)


@pytest.mark.parametrize("reason", list(NotAnalysedReason))
def test_not_analysed_never_reads_as_normal(
    source: SourceHeader, reason: NotAnalysedReason
) -> None:
    made = _report(source, _not_analysed(source, reason))
    status = _groups(made)[0]
    report = _read(made)
    assert (report.SeriesNumber, report.CompletionFlag) == (9000, "PARTIAL")
    assert report.SeriesDescription.startswith("AI: NOT ANALYSED")
    assert _value(status, "111017") == "111245"
    assert len(_items(status, "111052")) == 1
    is_about_quality = reason in {
        NotAnalysedReason.QUALITY,
        NotAnalysedReason.BLANK,
        NotAnalysedReason.SATURATED,
        NotAnalysedReason.TEXT,
        NotAnalysedReason.COMPRESSION,
    }
    assert bool(_items(status, "111101")) == is_about_quality
    assert reason.value in _items(status, "121106")[0].TextValue
    for calls_absent in (b"272519000", b"122157", b"52101004"):
        assert calls_absent not in made.payload


def test_a_partial_answer_says_so_and_withholds_absence(source: SourceHeader) -> None:
    result = answer(
        [source], status=AnalysisStatus.PARTIAL, reasons=(NotAnalysedReason.UNDECODABLE,)
    )
    made = _report(source, result)
    status, *_, withheld = _groups(made)
    assert _read(made).CompletionFlag == "PARTIAL"
    assert _value(status, "111017") == "111244"
    assert _value(status, "111101") == "RID13"
    assert _value(withheld, "60046008") == "373068000"
    assert "Not called absent" in _items(withheld, "121106")[0].TextValue


def test_the_status_group_comes_first_with_every_remark_word_for_word(
    source: SourceHeader,
) -> None:
    remarks = ("Eligibility rule waived by the site: age.", "Operating point set by the site.")
    status = _groups(_report(source, answer([source], remarks=remarks)))[0]
    assert _items(status, "112039")[0].TextValue == "Analysis status"
    assert all(remark in _items(status, "121106")[0].TextValue for remark in remarks)


def test_a_finding_carries_numbers_thresholds_and_its_picture(source: SourceHeader) -> None:
    result = answer([source])
    capture = _capture(source, result)
    present = _groups(_report(source, result, (capture,)))[1]
    probability, spread = _items(present, "122157")
    assert probability.MeasuredValueSequence[0].NumericValue == pytest.approx(0.9313)
    assert spread.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "386136009"
    assert "0.8313 to 0.9313" in _items(present, "121106")[0].TextValue
    parameters = {item.TextValue for item in _items(present, "111002")}
    assert {"operating_point=0.5", f"weights={result.model.digest}"} <= parameters
    shown = _items(present, "130401")[0].ReferencedSOPSequence[0]
    assert shown.ReferencedSOPInstanceUID == capture.sop_instance_uid
    assert not _items(present, "111000"), "no algorithm family"


def test_the_request_and_the_procedure_reach_the_report(source: SourceHeader) -> None:
    report = _read(_report(source, answer([source])))
    (request,) = report.ReferencedRequestSequence
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP42", "ACC-2026-0042")
    (procedure,) = (
        item
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121058"
    )
    assert procedure.ConceptCodeSequence[0].CodeValue == "399208008"
    devices = report.ContributingEquipmentSequence
    purposes = [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in devices]
    assert purposes == ["109101", "109102", "109102"]
    assert devices[1].DeviceUID.startswith("2.25.")


def test_illegal_equipment_of_the_source_stays_behind(tmp_path: Path) -> None:
    illegal = {"InstitutionName": b"A" * 65, "DeviceUID": b"../etc", "StationName": b"a\nb"}
    path = write(radiograph(), tmp_path / "odd.dcm", overrides=illegal)
    odd = read_source(path)
    device = _read(_report(odd, answer([odd]))).ContributingEquipmentSequence[0]
    assert device.Manufacturer == "Synthetic Imaging"
    assert not any(keyword in device for keyword in illegal)


def test_an_image_of_an_unknown_kind_is_reported_like_any_other(tmp_path: Path) -> None:
    data = radiograph()
    data.SOPClassUID = "1.2.3.4.5"
    odd = read_source(write(data, tmp_path / "odd.dcm"))
    assert _groups(_report(odd, answer([odd])))


def test_an_uncoded_finding_is_refused(source: SourceHeader) -> None:
    result = replace(answer([source]), findings=(score("Frog", 0.5),))
    with pytest.raises(BundleError, match="Frog"):
        _report(source, result)


def test_highdicoms_reader_finds_the_same_answers(source: SourceHeader, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(_report(source, answer([source])).payload)
    read = {}
    content = highdicom.sr.srread(path).content
    assert isinstance(content, highdicom.sr.MeasurementReport)
    for group in content.get_image_measurement_groups():
        numbers = [each.value for each in group.get_measurements()]
        calls = [getattr(each.value, "meaning", "") for each in group.get_qualitative_evaluations()]
        read[str(group.tracking_identifier)] = (numbers[:1], calls[0])
    assert read == {
        "Analysis status": ([], "All algorithms succeeded; with findings"),
        "Pneumothorax": ([0.9313], "Present"),
        "Mass": ([0.44], "Undetermined"),
        "Pleural effusion": ([0.05], "Absent"),
    }


@pytest.mark.parametrize("case", ["analysed", "partial", "not analysed", "bare source", "UTF-8"])
def test_validators_find_no_error(case: str, tmp_path: Path, dicom_tool: Tool) -> None:
    data = radiograph(case)
    if case == "bare source":
        for keyword in (
            "RequestAttributesSequence",
            "ProcedureCodeSequence",
            "PatientOrientation",
            "TimezoneOffsetFromUTC",
        ):
            delattr(data, keyword)
    if case == "UTF-8":
        data.SpecificCharacterSet = "ISO_IR 192"
        for keyword in ("PatientName", "ReferringPhysicianName"):
            data[keyword].value = "Omega^Zed"
    source_path = write(data, tmp_path / "source.dcm")
    source = read_source(source_path)
    result = answer([source])
    if case == "partial":
        result = answer(
            [source], status=AnalysisStatus.PARTIAL, reasons=(NotAnalysedReason.UNDECODABLE,)
        )
    captures = (_capture(source, result),) if case != "not analysed" else ()
    if case == "not analysed":
        result = _not_analysed(source, NotAnalysedReason.QUALITY)
    report = _report(source, result, captures)
    paths = []
    for number, made in enumerate((report, *captures)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(made.payload)
        dcmread(path).save_as(tmp_path / "again.dcm", enforce_file_format=True)
        checked = dicom_tool("dciodvfy", "-new", path)
        lines = (checked.stdout + checked.stderr).splitlines()
        problems = [line for line in lines if line.startswith(("Error", "Warning"))]
        assert [
            line
            for line in problems
            if line.startswith("Error") or not any(word in line for word in ALLOWED_WARNINGS)
        ] == []
        paths.append(path)
    dumped = dicom_tool("dsrdump", "-Er", paths[0])
    assert dumped.returncode == 0, dumped.stderr
    together = dicom_tool("dcentvfy", source_path, *paths)
    assert "Error" not in together.stdout + together.stderr
