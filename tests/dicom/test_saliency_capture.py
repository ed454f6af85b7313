from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from imaging_node.dicom.image_decoding import decode_file
from imaging_node.dicom.report import build_report
from imaging_node.dicom.saliency_capture import build_capture, capture_png
from imaging_node.dicom.saliency_picture import LONG_SIDE
from imaging_node.dicom.source import read_source
from imaging_node.domain.finding import SaliencyMap
from imaging_node.domain.image import DecodedImage
from tests.dicom.synthetic_answers import answer, context
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.domain.result_object import ResultObject

HEADER = 48


def _captured(data: Dataset, tmp_path: Path, *, hot: tuple[int, int] | None = None) -> ResultObject:
    path = write(data, tmp_path / "source.dcm")
    source = read_source(path)
    p_values, aspect = decode_file(path)
    values = np.zeros(p_values.shape, np.float32)
    if hot is not None:
        values[hot[0] - 3 : hot[0] + 3, hot[1] - 3 : hot[1] + 3] = 2.0
    result = answer([source])
    return build_capture(
        source=source,
        image=DecodedImage(
            sop_instance_uid=source.sop_instance_uid,
            p_values=p_values,
            row_to_column_spacing=aspect,
        ),
        score=result.findings[0],
        saliency=SaliencyMap(
            label="Pneumothorax", sop_instance_uid=source.sop_instance_uid, values=values
        ),
        result=result,
        context=context([source]),
        label_index=0,
        is_verified=True,
    )


def _picture(made: ResultObject) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(capture_png(made.payload))), np.int64)


def _read(made: ResultObject) -> Dataset:
    return dcmread(BytesIO(made.payload))


def test_pydicom_writes_a_result_again_as_the_same_bytes(tmp_path: Path) -> None:
    made = _captured(radiograph(rows=100, columns=80), tmp_path, hot=(50, 20))
    source = read_source(tmp_path / "source.dcm")
    report = build_report(
        sources=[source], result=answer([source]), context=context([source]), captures=[made]
    )
    for each in (made, report):
        dataset = _read(each)
        for element in dataset.iterall():
            assert element.value is not None  # decodes it, so that it must be encoded again
        again = BytesIO()
        dataset.save_as(again, enforce_file_format=True)
        assert again.getvalue() == each.payload


def test_no_word_about_the_patient_is_drawn(tmp_path: Path) -> None:
    named = radiograph("a", rows=100, columns=80)
    nameless = radiograph("b", rows=100, columns=80)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate"):
        setattr(nameless, keyword, None)
    first = _picture(_captured(named, tmp_path, hot=(50, 20)))
    assert np.array_equal(first, _picture(_captured(nameless, tmp_path, hot=(50, 20))))


def test_left_stays_left_and_the_map_lies_where_it_belongs(tmp_path: Path) -> None:
    made = _captured(radiograph(rows=100, columns=80), tmp_path, hot=(70, 20))
    picture = _picture(made)[HEADER : HEADER + LONG_SIDE, :819]
    assert _read(made).PatientOrientation == ["L", "F"]
    marker = picture[int(0.07 * 1024) : int(0.09 * 1024)].min(axis=2).mean(axis=0)
    assert marker.argmax() > 819 * 0.8, "the marker at the patient's left stays at the right"
    colourful = np.ptp(picture, axis=2)
    row, column = np.unravel_index(colourful.argmax(), colourful.shape)
    assert row / LONG_SIDE == pytest.approx(0.70, abs=0.05)
    assert column / 819 == pytest.approx(0.25, abs=0.05)


def test_the_image_shows_through_and_weak_evidence_is_not_drawn(tmp_path: Path) -> None:
    data = radiograph(rows=100, columns=80)
    del data.PatientOrientation
    plain = _picture(_captured(data, tmp_path))
    coloured = _picture(_captured(data, tmp_path, hot=(50, 40)))
    area = (slice(HEADER, HEADER + LONG_SIDE), slice(0, 819))
    changed = np.abs(coloured[area] - plain[area]).max(axis=2) > 1
    assert 0 < changed.mean() < 0.05
    assert np.abs(coloured[area] - plain[area]).max() <= 0.55 * 255 + 1


def test_pixels_are_square_whatever_the_detector_had(tmp_path: Path) -> None:
    data = radiograph(rows=120, columns=60)
    data.ImagerPixelSpacing = [0.1, 0.2]
    made = _captured(data, tmp_path)
    capture = _read(made)
    assert capture.Rows > LONG_SIDE
    assert capture.Columns == LONG_SIDE + 132
    assert "PixelSpacing" not in capture


@pytest.mark.parametrize("orientation", [None, [], ["P", "F"], ["XX", "Y"], ["L"]])
def test_no_side_is_guessed(orientation: list[str] | None, tmp_path: Path) -> None:
    data = radiograph(rows=100, columns=80)
    del data.PatientOrientation
    without = _picture(_captured(data, tmp_path))
    data.PatientOrientation = orientation
    made = _captured(data, tmp_path)
    assert np.array_equal(_picture(made), without)
    stated = list(_read(made).PatientOrientation or [])
    assert stated == (["P", "F"] if orientation == ["P", "F"] else [])


@pytest.mark.parametrize(("rows", "columns"), [(400, 20), (20, 400), (64, 64), (1, 1)])
def test_no_text_is_clipped_at_the_edge(rows: int, columns: int, tmp_path: Path) -> None:
    picture = _picture(_captured(radiograph(rows=rows, columns=columns), tmp_path))
    footer = picture[-140:]
    assert footer[:, -4:].max() == 0
    assert footer[-4:].max() == 0
    assert picture[:44, -4:].max() == 0
    assert footer.max() > 150, "there is text"


def test_the_capture_says_what_it_is(tmp_path: Path) -> None:
    data = radiograph()
    data.LossyImageCompression, data.LossyImageCompressionRatio = "01", [12.5]
    capture = _read(_captured(data, tmp_path))
    assert (capture.Modality, capture.SeriesNumber, capture.ConversionType) == ("OT", 9002, "WSD")
    assert list(capture.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "AI_SALIENCY"]
    assert (capture.BurnedInAnnotation, capture.BodyPartExamined) == ("NO", "CHEST")
    assert (capture.LossyImageCompression, capture.LossyImageCompressionRatio) == ("01", 12.5)
    (reference,) = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == data.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert capture.ICCProfile[24:36] == bytes([7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])
    assert "not for diagnosis" in capture.DerivationDescription
    assert capture.PatientName == data.PatientName


@pytest.mark.parametrize("body_part", ["Chest", "THORAX", "", "RIBS"])
def test_a_body_part_that_is_no_defined_term_is_not_copied(
    body_part: str,
    tmp_path: Path,
    dicom_tool: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    data = radiograph()
    data.BodyPartExamined = body_part
    made = _captured(data, tmp_path)
    assert "BodyPartExamined" not in _read(made)
    path = tmp_path / "capture.dcm"
    path.write_bytes(made.payload)
    assert "Error" not in dicom_tool("dciodvfy", "-new", path).stderr
