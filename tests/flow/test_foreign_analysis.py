"""From the files of a series to a segmentation in the right place, or to "not analysed"."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom
import numpy as np
import pytest
from pydicom import dcmread

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.domain.errors import IntegrityError
from imaging_node.domain.finding import AnalysisStatus, NotAnalysedReason
from imaging_node.domain.result_object import ObjectKind
from imaging_node.flow.foreign_analysis import ForeignAnswer, ForeignModel, analyse_foreign
from imaging_node.flow.foreign_answering import build_foreign_answer, foreign_objects
from imaging_node.inference.foreign_bundle import install_foreign
from imaging_node.inference.foreign_files import read_foreign_files
from imaging_node.inference.foreign_runner import ForeignLimits
from imaging_node.store.database import open_database
from tests.dicom.synthetic_answers import NODE, STARTED, context
from tests.dicom.synthetic_series import (
    FROM_HEAD_TO_FOOT,
    OBLIQUE,
    TILTED,
    Geometry,
    ct_series,
    read_study,
)
from tests.dicom.synthetic_sources import derived_uid, radiograph, write
from tests.inference.zoo_bundles import density_like, segmentation_config, spleen_like, threshold

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from pydicom.dataset import Dataset

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom" / "ct_series"
LIMITS = ForeignLimits(time_limit_s=250)
DENSE = 400


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    opened = DecodingPool(processes=2, memory_limit_bytes=2**30, time_limit_s=60)
    yield opened
    opened.close()


def _model(source: Path, zoo: Path) -> ForeignModel:
    trust_code = read_foreign_files(source).trust_hash
    bundle = install_foreign(source, zoo, trust_code=trust_code).bundle
    return ForeignModel(bundle=bundle, trust_code=trust_code, limits=LIMITS)


def _answer(paths: list[Path], model: ForeignModel, pool: DecodingPool) -> ForeignAnswer:
    said: list[str] = []
    study = read_study(paths)
    answer = analyse_foreign(study, model, pool, started_at=STARTED, explain=said.append)
    assert answer is not None
    assert said == []
    return answer


def _planted() -> npt.NDArray[np.int16]:
    """Water with a dense block that is symmetric about nothing."""
    hounsfield = np.zeros((7, 24, 20), np.int16)
    hounsfield[1:4, 3:11, 12:18] = DENSE
    hounsfield[4, 15:20, 2:6] = DENSE
    return hounsfield


def _segmented(answer: ForeignAnswer, slices: int, name: str = "ct") -> npt.NDArray[np.bool_]:
    """The segment of the written object, by slices as they were planted."""
    segmentation, _ = foreign_objects(answer, context(list(answer.sources)))
    read = highdicom.seg.segread(BytesIO(segmentation.payload))
    uids = [derived_uid(name, "slice", str(index)) for index in range(slices)]
    pixels = read.get_pixels_by_source_instance(uids, combine_segments=False)
    found: npt.NDArray[np.bool_] = pixels[..., 0].astype(bool)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("geometry", [OBLIQUE, FROM_HEAD_TO_FOOT])
def test_a_planted_block_is_segmented_where_it_was_planted(
    geometry: Geometry, tmp_path: Path, pool: DecodingPool
) -> None:
    planted = _planted()
    paths = ct_series(tmp_path / "ct", planted, geometry, file_order=[6, 0, 5, 1, 4, 2, 3])
    answer = _answer(paths, _model(threshold(tmp_path / "threshold"), tmp_path / "zoo"), pool)
    assert answer.result.status is AnalysisStatus.COMPLETE
    found = _segmented(answer, len(planted))
    assert (found == (planted == DENSE)).all()  # every voxel, in the source's own geometry
    (finding,) = answer.result.findings
    step = abs(float(np.dot(geometry.step_mm, np.cross(geometry.row, geometry.column))))
    voxel_mm3 = geometry.spacing_mm[0] * geometry.spacing_mm[1] * step
    planted_voxels = int((planted == DENSE).sum())
    assert finding.voxels == planted_voxels
    assert finding.volume_mm3 == pytest.approx(planted_voxels * voxel_mm3, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", [OBLIQUE, TILTED], ids=["oblique", "tilted gantry"])
def test_resampling_to_the_bundles_spacing_and_back_keeps_the_block_in_place(
    geometry: Geometry, tmp_path: Path, pool: DecodingPool
) -> None:
    planted = np.zeros((12, 40, 48), np.int16)
    planted[3:9, 8:26, 20:42] = DENSE
    paths = ct_series(tmp_path / "ct", planted, geometry)
    zoo_pipeline = segmentation_config({})
    transforms = [
        each
        for each in zoo_pipeline["preprocessing"]["transforms"]
        if each["_target_"] != "ScaleIntensityRanged"
    ]
    source = threshold(
        tmp_path / "threshold",
        above=DENSE / 2,
        changes={"preprocessing": {"_target_": "Compose", "transforms": transforms}},
    )
    found = _segmented(_answer(paths, _model(source, tmp_path / "zoo"), pool), len(planted))
    truth = planted == DENSE
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.9
    centre = [axis.mean() for axis in np.nonzero(found)]
    assert centre == pytest.approx([axis.mean() for axis in np.nonzero(truth)], abs=0.5)


@pytest.mark.slow
def test_an_image_gets_scores_and_no_call(tmp_path: Path, pool: DecodingPool) -> None:
    path = write(radiograph("film"), tmp_path / "film.dcm")
    source = density_like(tmp_path / "lesion", labels={"0": "Lesion", "1": "Normal"})
    answer = _answer([path], _model(source, tmp_path / "zoo"), pool)
    (finding,) = answer.result.findings
    assert finding.score is not None
    (report,) = foreign_objects(answer, context(list(answer.sources)))
    assert report.kind is ObjectKind.REPORT
    assert b"Uncalibrated score of the model, no probability" in report.payload


def _without_one(paths: list[Path]) -> list[Path]:
    return [*paths[:2], *paths[3:]]


def test_a_series_with_a_missing_slice_is_not_analysed(tmp_path: Path, pool: DecodingPool) -> None:
    paths = _without_one(ct_series(tmp_path / "ct", _planted()))
    model = _model(threshold(tmp_path / "threshold"), tmp_path / "zoo")
    answer = _answer(paths, model, pool)
    assert answer.result.status is AnalysisStatus.NOT_ANALYSED
    assert answer.result.reasons == (NotAnalysedReason.GEOMETRY,)
    (report,) = foreign_objects(answer, context(list(answer.sources)))
    assert report.kind is ObjectKind.NOT_ANALYSED
    assert b"NOT ANALYSED" in report.payload
    assert b"a slice is missing" in report.payload


def test_a_changed_patient_id_in_a_series_that_is_not_analysed_reaches_no_report(
    tmp_path: Path, pool: DecodingPool
) -> None:
    paths = _without_one(ct_series(tmp_path / "ct", _planted()))
    model = _model(threshold(tmp_path / "threshold"), tmp_path / "zoo")
    study = read_study(paths)
    for path in paths:
        content = bytearray(path.read_bytes())
        content[content.index(b"P-000042")] ^= 1
        path.write_bytes(content)
    with pytest.raises(IntegrityError, match="digest changed"):
        analyse_foreign(study, model, pool, started_at=STARTED)


def test_a_slice_that_cannot_be_decoded_leaves_the_series_not_analysed(
    tmp_path: Path, pool: DecodingPool
) -> None:
    def cut(data: Dataset, index: int) -> None:
        if index == 3:
            data.PixelData = data.PixelData[:100]

    paths = ct_series(tmp_path / "ct", _planted(), change=cut)
    model = _model(threshold(tmp_path / "threshold"), tmp_path / "zoo")
    answer = _answer(paths, model, pool)
    assert answer.result.reasons == (NotAnalysedReason.UNDECODABLE,)


def test_a_study_of_another_modality_is_none_of_the_bundles(
    tmp_path: Path, pool: DecodingPool
) -> None:
    film = read_study([write(radiograph("film"), tmp_path / "film.dcm")])
    model = _model(threshold(tmp_path / "threshold"), tmp_path / "zoo")
    assert analyse_foreign(film, model, pool, started_at=STARTED) is None


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared images are not there")
def test_a_zoo_like_network_on_a_real_head_ends_in_a_segmentation_and_its_report(
    tmp_path: Path, pool: DecodingPool
) -> None:
    paths = sorted(SHARED.rglob("*.dcm"))
    answer = _answer(paths, _model(spleen_like(tmp_path / "spleen"), tmp_path / "zoo"), pool)
    assert answer.result.status is AnalysisStatus.COMPLETE
    assert any("apart" in remark for remark in answer.result.remarks)
    objects = foreign_objects(answer, context(list(answer.sources)))
    segmentation, report = (dcmread(BytesIO(each.payload)) for each in objects)
    assert (
        segmentation.StudyInstanceUID
        == report.StudyInstanceUID
        == dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID
    )
    referenced = {
        str(element.value)
        for element in report.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    }
    assert segmentation.SOPInstanceUID in referenced
    (finding,) = answer.result.findings
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8))
    assert finding.voxels == bits.sum() > 0


def test_the_nodes_own_answer_is_numbered_by_what_went_out_before(
    tmp_path: Path, pool: DecodingPool
) -> None:
    paths = _without_one(ct_series(tmp_path / "ct", _planted()))
    answer = _answer(paths, _model(threshold(tmp_path / "threshold"), tmp_path / "zoo"), pool)
    database = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    built = build_foreign_answer(answer, read_study(paths), database, NODE, clock=lambda: STARTED)
    (report,) = built.objects
    assert built.series_started_at == {report.series_instance_uid: STARTED}
    assert dcmread(BytesIO(report.payload)).InstanceNumber == 1
    again = build_foreign_answer(answer, read_study(paths), database, NODE, clock=lambda: STARTED)
    assert again == built
