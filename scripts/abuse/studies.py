"""Faults 18 and 19: studies that go on when they seemed complete."""

from __future__ import annotations

import time
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.uid import UID

from abuse.fault import Fault
from abuse.ground import Ground, expect, wait_until
from abuse.scenes import QUIET_PERIOD_S
from abuse.sending import (
    SUCCESS,
    Instance,
    association,
    await_delivered,
    await_ended,
    chest_film,
    new_uid,
    store,
    store_alone,
)
from imaging_node.domain.lifecycle import StudyState
from tests.dicom.listening import VERIFICATION, RawPeer, data_pdu, echo_command, value

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
_TRIES = 12
_IMAGES = 3  # with the late one as many as the model takes, so that none is left out
_SECOND = 2
_LIMIT_S = 60.0


def _another_of(run: str) -> Instance:
    def rename(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = UID(new_uid())

    return chest_film(run, rename)


def reports(ground: Ground, study: str) -> list[Dataset]:
    """Structured reports on a study that the PACS has, in order of arrival."""
    return [
        dcmread(BytesIO(each.payload))
        for each in ground.node.pacs.stored
        if each.study_instance_uid == study and each.sop_class_uid == _REPORT
    ]


def _evidence(report: Dataset) -> set[str]:
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def _predecessors(report: Dataset) -> set[str]:
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def _expect_success(statuses: list[int]) -> None:
    expect(set(statuses) == {SUCCESS}, f"answers {[f'{each:04X}' for each in statuses]}")


def _late_after_result(ground: Ground) -> str:
    run = new_uid()
    first, late = chest_film(run), _another_of(run)
    study = first.study_instance_uid
    _expect_success([store_alone(ground, first)])
    record = await_ended(ground, study)
    expect(record.state is StudyState.DONE, f"the study is {record.state}")
    await_delivered(ground, study, "pacs")
    _expect_success([store_alone(ground, late)])
    wait_until(
        lambda: len(reports(ground, study)) == _SECOND,
        limit_s=_LIMIT_S,
        what="a second report",
    )
    old, new = reports(ground, study)
    record = await_ended(ground, study)
    expect(record.generation == _SECOND, f"generation {record.generation}")
    expect(old.SOPInstanceUID != new.SOPInstanceUID, "both reports have one UID")
    expect(_predecessors(new) == {str(old.SOPInstanceUID)}, "the new one names no predecessor")
    expect(late.sop_instance_uid in _evidence(new), "the late instance is not in the new report")
    return "generation 2, its report names the one before"


def _send_late(ground: Ground) -> tuple[Instance, bool]:
    """The last instance of a study, sent while the others are scored; whether that succeeded."""
    run = new_uid()
    films = [_another_of(run) for _ in range(_IMAGES)]
    late = _another_of(run)
    study = late.study_instance_uid
    before = {StudyState.RECEIVING, StudyState.QUEUED}
    with association(ground, [late.kind]) as peer:
        _expect_success([store(peer, each) for each in films])
        wait_until(
            lambda: ground.studies()[study].state not in before,
            limit_s=_LIMIT_S,
            what="the study is scored",
        )
        is_hit = ground.studies()[study].state is StudyState.SCORING
        _expect_success([store(peer, late)])
    return late, is_hit


def _late_while_scored(ground: Ground) -> str:
    tries, is_hit = 0, False
    while not is_hit:
        tries += 1
        expect(tries <= _TRIES, f"{_TRIES} studies were scored before a late instance came")
        late, is_hit = _send_late(ground)
    study = late.study_instance_uid
    wait_until(
        lambda: any(late.sop_instance_uid in _evidence(each) for each in reports(ground, study)),
        limit_s=_LIMIT_S,
        what="a report with the late instance",
    )
    record = await_ended(ground, study)
    await_delivered(ground, study, "pacs")
    found = reports(ground, study)
    uids = {str(each.SOPInstanceUID) for each in found}
    expect(record.generation == _SECOND, f"generation {record.generation}")
    expect(len(uids) == len(found), "one UID was sent with two contents")
    expect(late.sop_instance_uid in _evidence(found[-1]), "the last report is without it")
    return f"generation 2 in the last of {len(found)} reports, hit at try {tries}"


def _keep_alive(peer: RawPeer) -> None:
    peer.send(data_pdu(value(echo_command(), is_command=True, context_id=3)))
    expect(peer.status() == SUCCESS, "C-ECHO on the open association was refused")


def _held_open(ground: Ground) -> str:
    """One instance, then an association that stays: completeness goes by silence of the study."""
    run = new_uid()
    first = chest_film(run)
    study = first.study_instance_uid
    little = "1.2.840.10008.1.2.1"
    with association(ground, [first.kind, (VERIFICATION, little)]) as peer:
        _expect_success([store(peer, first)])
        begun_s = time.monotonic()
        while ground.studies()[study].state is not StudyState.DONE:
            _keep_alive(peer)
            expect(time.monotonic() - begun_s < _LIMIT_S, "no result while one is open")
            time.sleep(0.1)
        seconds = time.monotonic() - begun_s
        late = [_another_of(run) for _ in range(3)]
        for each in late:
            _expect_success([store(peer, each)])
            wait_s = time.monotonic() + QUIET_PERIOD_S / 2
            while time.monotonic() < wait_s:
                _keep_alive(peer)
                state = ground.studies()[study].state
                expect(state is StudyState.RECEIVING, f"{state} between two instances")
                time.sleep(0.05)
    record = await_ended(ground, study)
    expect(record.instances == 1 + len(late), f"{record.instances} of 4 instances")
    return (
        f"scored {seconds:.1f} s after its last instance, shown as receiving while more came,"
        f" then generation {record.generation} with all 4"
    )


STUDY_FAULTS = (
    Fault(
        number="18a",
        what="late instance after the result",
        expected="new version that names the one before",
        commit=_late_after_result,
    ),
    Fault(
        number="18b",
        what="late instance while the study is scored",
        expected="new version with all instances",
        commit=_late_while_scored,
    ),
    Fault(
        number="19",
        what="association held open, instances trickle",
        expected="complete by quiet period, visible",
        commit=_held_open,
    ),
)
