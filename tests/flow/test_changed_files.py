"""A spooled file that is not what was received names no patient, scored or declined."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from imaging_node.domain.lifecycle import StudyState
from imaging_node.flow.scoring import ATTEMPTS_BEFORE_DECLINING, score_study
from imaging_node.store.arrivals import read_study
from tests.flow.test_scoring import accept, answers, claimed, record
from tests.integration.films import film

if TYPE_CHECKING:
    from imaging_node.flow.scoring import ScoringRoom
    from tests.flow.conftest import Clock


@pytest.mark.parametrize("attempts", [1, ATTEMPTS_BEFORE_DECLINING + 1])
def test_a_spooled_file_that_changed_is_never_scored_and_names_no_patient(
    opened: ScoringRoom, clock: Clock, attempts: int
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())
    [image] = read_study(room.database, room.spool, uid).instances
    content = bytearray(image.path.read_bytes())
    patient_id = str(dcmread(BytesIO(content)).PatientID).encode()
    content[content.index(patient_id)] ^= 1
    image.path.write_bytes(content)

    score_study(claimed(room, clock, attempts=attempts), room)

    study = record(room, clock, uid)
    assert study.state is StudyState.FAILED
    assert "digest changed" in study.reason
    assert answers(room, uid) == []
