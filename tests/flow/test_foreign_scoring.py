"""A foreign bundle answers last and for itself: it calls nothing, and its failure is its own."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import dcmread

from imaging_node.domain.finding import AnalysisStatus
from imaging_node.domain.foreign_result import LabelSummary
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.model_state import ModelState, is_in_share
from imaging_node.domain.priority import ReadingPriority
from imaging_node.flow.foreign_analysis import ForeignModel
from imaging_node.flow.lineup import Lineup, ServedForeign
from imaging_node.flow.scoring import ATTEMPTS_BEFORE_DECLINING, score_study
from imaging_node.flow.shadowing import ShadowWork, score_in_shadow
from imaging_node.inference.foreign_bundle import install_foreign
from imaging_node.inference.foreign_files import read_foreign_files
from imaging_node.inference.foreign_runner import ForeignLimits
from imaging_node.store.listings import list_deliveries, list_objects
from imaging_node.store.shadow_results import list_shadow_results
from tests.dicom.synthetic_series import ct_series
from tests.flow.test_scoring import accept, answers, claimed, record
from tests.inference.zoo_bundles import threshold
from tests.integration.films import film

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.flow.scoring import ScoringRoom
    from tests.flow.conftest import Clock

DENSE = 400
_OF_THE_STUDY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"),
    *("StudyInstanceUID", "AccessionNumber", "StudyDate", "StudyTime", "StudyID"),
)


@pytest.fixture
def bones(tmp_path: Path) -> ServedForeign:
    """A bundle that segments what is dense, trusted and primary."""
    source = threshold(tmp_path / "source")
    trust_code = read_foreign_files(source).trust_hash
    installed = install_foreign(source, tmp_path / "zoo", trust_code=trust_code)
    model = ForeignModel(
        bundle=installed.bundle, trust_code=trust_code, limits=ForeignLimits(time_limit_s=250)
    )
    return ServedForeign(model=model, bundle="threshold", state=ModelState.PRIMARY)


def scored(
    opened: ScoringRoom,
    clock: Clock,
    folder: Path,
    *foreign: ServedForeign,
    with_film: bool = False,
    attempts: int = 1,
) -> tuple[ScoringRoom, str]:
    """Score a CT study with a dense block, shadows included; returns the room and the study."""
    hounsfield = np.zeros((4, 12, 10), np.int16)
    hounsfield[1:3, 2:5, 4:9] = DENSE
    of_the_study = film()
    header = dcmread(BytesIO(of_the_study), stop_before_pixels=True)

    def join(data: Dataset, _index: int) -> None:
        if with_film:
            for keyword in _OF_THE_STUDY:
                setattr(data, keyword, header.get(keyword, ""))

    work: list[ShadowWork] = []
    room = replace(
        opened,
        clock=clock,
        lineup=Lineup(opened.lineup.models, foreign),
        on_recorded=work.append,
    )
    if with_film:
        accept(room, clock, of_the_study)
    uid = ""
    name = folder.name
    for path in ct_series(folder / "ct", hounsfield, name=name, change=join):
        uid = accept(room, clock, path.read_bytes())
    score_study(claimed(room, clock, attempts=attempts), room)
    for each in work:
        score_in_shadow(each, room)
        each.hold.release()
    return room, uid


def kinds(room: ScoringRoom, uid: str) -> list[str]:
    return [str(each.kind) for each in list_objects(room.database, uid)]


@pytest.mark.slow
def test_a_primary_sends_its_segmentation_and_report_and_calls_nothing(
    opened: ScoringRoom, clock: Clock, tmp_path: Path, bones: ServedForeign
) -> None:
    room, uid = scored(opened, clock, tmp_path, bones)
    assert kinds(room, uid) == ["segmentation", "report"]
    sent = [each for each in list_deliveries(room.database) if each.study_instance_uid == uid]
    assert len(sent) == 2
    segmentation, report = answers(room, uid)
    assert segmentation.Modality == "SEG"
    referenced = {
        str(each.value) for each in report.iterall() if each.keyword == "ReferencedSOPInstanceUID"
    }
    assert segmentation.SOPInstanceUID in referenced
    study = record(room, clock, uid)
    assert (study.state, study.priority) == (StudyState.DONE, ReadingPriority.ROUTINE)
    assert list_shadow_results(room.database, study_instance_uid=uid) == []


@pytest.mark.slow
@pytest.mark.parametrize("state", [ModelState.SHADOW, ModelState.CANARY])
def test_in_shadow_it_is_kept_as_sums_and_nothing_is_sent(
    opened: ScoringRoom, clock: Clock, tmp_path: Path, bones: ServedForeign, state: ModelState
) -> None:
    # A canary is in shadow on the studies of others.
    room, uid = scored(opened, clock, tmp_path, replace(bones, state=state, share=1e-6))
    assert not is_in_share(uid, 1e-6)
    assert list_objects(room.database, uid) == []
    assert record(room, clock, uid).state is StudyState.NOT_APPLICABLE
    [kept] = list_shadow_results(room.database, study_instance_uid=uid)
    assert (kept.status, kept.findings, kept.is_delivered) == (AnalysisStatus.COMPLETE, (), False)
    [label] = kept.labels
    assert label.volume_mm3 == pytest.approx(30 * 0.8 * 0.7 * 3)
    assert replace(label, volume_mm3=None) == LabelSummary(
        label="dense", voxels=30, volume_mm3=None, score=None
    )


@pytest.mark.slow
def test_one_that_is_given_up_or_changed_leaves_the_nodes_answer_as_it_is(
    opened: ScoringRoom, clock: Clock, tmp_path: Path, bones: ServedForeign
) -> None:
    hasty = replace(bones, model=replace(bones.model, limits=ForeignLimits(time_limit_s=0.5)))
    distrusted = replace(bones, model=replace(bones.model, trust_code="0" * 64))
    for number, foreign in enumerate((hasty, distrusted)):
        folder = tmp_path / f"study{number}"
        folder.mkdir()
        room, uid = scored(opened, clock, folder, foreign, with_film=True)
        study = record(room, clock, uid)
        assert study.state is StudyState.DONE
        own, theirs = kinds(room, uid)[:-1], kinds(room, uid)[-1]
        assert "report" in own
        assert theirs == "not-analysed-report"
        assert "software failure" in study.reason


def test_a_study_over_which_workers_died_is_not_shown_to_it(
    opened: ScoringRoom, clock: Clock, tmp_path: Path, bones: ServedForeign
) -> None:
    room, uid = scored(opened, clock, tmp_path, bones, attempts=ATTEMPTS_BEFORE_DECLINING + 1)
    assert kinds(room, uid) == ["not-analysed-report"]
    assert record(room, clock, uid).state is StudyState.NOT_ANALYSED


def test_a_study_of_another_modality_is_none_of_its_business(
    opened: ScoringRoom, clock: Clock, bones: ServedForeign
) -> None:
    room = replace(opened, clock=clock, lineup=Lineup(opened.lineup.models, [bones]))
    uid = accept(room, clock, film())
    score_study(claimed(room, clock), room)
    assert record(room, clock, uid).reason == ""
    assert kinds(room, uid)[-1] == "report"
    assert "segmentation" not in kinds(room, uid)
