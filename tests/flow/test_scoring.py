"""From a claimed study to its recorded answer."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from imaging_node.demonstration.local_node import DRAWN_FILMS_MODELS
from imaging_node.dicom.file_format import split_part10
from imaging_node.dicom.intake_port import IncomingInstance
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.flow.analysis import lane
from imaging_node.flow.intake import accept_instance, open_room
from imaging_node.flow.scoring import (
    ATTEMPTS_BEFORE_DECLINING,
    ATTEMPTS_BEFORE_FAILING,
    ScoringRoom,
    score_study,
)
from imaging_node.inference.lanes import ARCHIVE, ROUTINE, STAT
from imaging_node.node.scoring_room import close_scoring_room, open_scoring_room
from imaging_node.settings import Settings
from imaging_node.store.arrivals import read_study
from imaging_node.store.claims import Claim, claim_study
from imaging_node.store.listings import (
    list_deliveries,
    list_objects,
    list_studies,
    list_worklist,
)
from imaging_node.store.schema import instances, studies
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Counters
from tests.integration.films import film
from tests.integration.test_bad_input import truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from pydicom.dataset import Dataset
    from sqlalchemy import Table

    from imaging_node.domain.records import StudyRecord
    from tests.flow.conftest import Clock

LEASE = timedelta(seconds=60)


def accept(room: ScoringRoom, clock: Callable[[], datetime], payload: bytes) -> str:
    """Bring a film in as the receiver does; returns its Study Instance UID."""
    header = dcmread(BytesIO(payload), stop_before_pixels=True)
    transfer_syntax_uid, dataset = split_part10(payload)
    intake = open_room(
        room.database,
        room.spool,
        room.pseudonyms,
        quiet_period=timedelta(0),
        priority_by_calling_ae_title={},
        is_archive=False,
        clock=clock,
    )
    accept_instance(
        IncomingInstance(
            sop_class_uid=str(header.SOPClassUID),
            sop_instance_uid=str(header.SOPInstanceUID),
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title="MODALITY",
            is_high_priority=False,
        ),
        dataset,
        intake,
    )
    return str(header.StudyInstanceUID)


def claimed(room: ScoringRoom, clock: Clock, *, attempts: int = 1) -> Claim:
    """Claim the study, as often as workers are said to have died over it."""
    claim = None
    for _ in range(attempts):
        claim = claim_study(room.database, worker="w", now=clock(), lease=LEASE)
        clock.advance(LEASE.total_seconds())
    assert claim is not None
    return claim


def record(room: ScoringRoom, clock: Clock, uid: str) -> StudyRecord:
    [study] = list_studies(room.database, now=clock(), study_instance_uid=uid)
    return study


def answers(room: ScoringRoom, uid: str) -> list[Dataset]:
    return [
        dcmread(BytesIO(room.spool.read(each.digest))) for each in list_objects(room.database, uid)
    ]


def of_the_same_study(number: int, *, is_damaged: bool = False) -> bytes:
    def change(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.{number}"[:64]
        if is_damaged:
            truncated(dataset)

    return film("one-study", change, seed=number)


def test_a_damaged_image_beside_a_good_one_leaves_no_absent_behind(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    accept(room, clock, of_the_same_study(1))
    uid = accept(room, clock, of_the_same_study(2, is_damaged=True))

    score_study(claimed(room, clock), room)

    assert record(room, clock, uid).state is StudyState.DONE
    [row] = [
        each
        for each in list_worklist(room.database, room.pseudonyms, now=clock())
        if each.study.study_instance_uid == uid
    ]
    assert {str(score.presence) for score in row.findings} <= {"undetermined", "present"}
    report = answers(room, uid)[-1]
    assert report.CompletionFlag == "PARTIAL"
    assert '"272519000"' not in report.to_json()  # Absent


def test_a_study_over_which_workers_died_is_declined_not_lost(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())

    score_study(claimed(room, clock, attempts=ATTEMPTS_BEFORE_DECLINING + 1), room)

    study = record(room, clock, uid)
    assert (study.state, study.reason) == (StudyState.NOT_ANALYSED, "software failure")
    assert answers(room, uid)[-1].SeriesNumber == 9000


def test_a_study_that_kills_even_the_decline_ends_as_failed_and_visible(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())

    score_study(claimed(room, clock, attempts=ATTEMPTS_BEFORE_FAILING + 1), room)

    assert record(room, clock, uid).state is StudyState.FAILED


def test_a_spooled_file_that_cannot_be_read_is_tried_again_and_not_for_ever(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())
    [image] = read_study(room.database, room.spool, uid).instances
    kept = image.path.rename(image.path.with_suffix(".kept"))
    image.path.symlink_to("/proc/self/mem")  # its first page belongs to nobody: EIO

    score_study(claimed(room, clock), room)

    waiting = record(room, clock, uid)
    assert waiting.state is StudyState.QUEUED
    assert "cannot read" in waiting.reason
    image.path.unlink()
    kept.rename(image.path)
    clock.advance(LEASE.total_seconds())
    score_study(claimed(room, clock), room)
    assert record(room, clock, uid).state is StudyState.DONE


def test_a_spooled_file_that_never_can_be_read_ends_its_study_visibly(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())
    [image] = read_study(room.database, room.spool, uid).instances
    image.path.unlink()
    image.path.symlink_to("/proc/self/mem")
    for _ in range(ATTEMPTS_BEFORE_FAILING + 1):
        score_study(claimed(room, clock), room)
        if record(room, clock, uid).state is not StudyState.QUEUED:
            break
        clock.advance(LEASE.total_seconds())
    assert record(room, clock, uid).state is StudyState.FAILED
    assert answers(room, uid) == []


@pytest.mark.parametrize("table", [instances, studies], ids=["instance", "study"])
def test_a_study_with_a_damaged_row_fails_with_that_reason_and_without_a_result(
    opened: ScoringRoom, clock: Clock, table: Table
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())
    claim = claimed(room, clock)
    with room.database.write() as connection:
        # As if another value had changed: the checksum itself is free to write.
        connection.execute(
            table.update()
            .where(table.c.study_instance_uid == uid)
            .values(checksum=table.c.checksum + 1)
        )

    score_study(claim, room)

    study = record(room, clock, uid)
    assert study.state is StudyState.FAILED
    assert study.reason.startswith("row damaged")
    assert "restore the database from a backup" in study.reason
    assert claim_study(room.database, worker="w", now=clock(), lease=LEASE) is None
    assert not [each for each in list_deliveries(room.database) if each.study_instance_uid == uid]


def test_a_full_disk_delays_a_study_and_never_ends_it(opened: ScoringRoom, clock: Clock) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())
    full = replace(room, spool=Spool(room.spool.path("00").parents[1], min_free_bytes=2**60))

    for _ in range(ATTEMPTS_BEFORE_FAILING + 2):
        score_study(claimed(room, clock), full)
        waiting = record(room, clock, uid)
        assert waiting.state is StudyState.QUEUED
        assert "free space" in waiting.reason
        clock.advance(LEASE.total_seconds())

    score_study(claimed(room, clock), room)
    assert record(room, clock, uid).state is StudyState.DONE


def test_a_site_may_ask_for_an_answer_where_no_model_is_meant(
    opened: ScoringRoom, clock: Clock
) -> None:
    def ct(dataset: Dataset) -> None:
        dataset.Modality = "CT"

    room = replace(opened, clock=clock, answer_not_applicable=True)
    uid = accept(room, clock, film(change=ct))

    score_study(claimed(room, clock), room)

    assert record(room, clock, uid).state is StudyState.NOT_APPLICABLE
    [report] = answers(room, uid)
    assert (report.SeriesNumber, report.CompletionFlag) == (9000, "PARTIAL")


ROOM = {"spool": {"min_free_bytes": 0}, "models": DRAWN_FILMS_MODELS}


@contextmanager
def another_room(folder: Path, **settings: object) -> Iterator[ScoringRoom]:
    opened = open_scoring_room(
        Settings.model_validate({"state_directory": folder, **ROOM, **settings}), Counters()
    )
    yield opened
    close_scoring_room(opened)


def test_the_same_study_on_two_nodes_gets_the_same_result_uids(
    opened: ScoringRoom, clock: Clock, tmp_path: Path
) -> None:
    payload = film()
    uids = []
    with another_room(tmp_path, dicom={"port": 11999}, web={"port": 8999}) as second:
        for each in (opened, second):
            room = replace(each, clock=clock)
            uid = accept(room, clock, payload)
            score_study(claimed(room, clock), room)
            uids.append([str(answer.SOPInstanceUID) for answer in answers(room, uid)])
            clock.advance(3600)

    assert uids[0] == uids[1] != []


def test_what_the_site_decided_stands_in_the_report_and_on_the_worklist(
    clock: Clock, tmp_path: Path
) -> None:
    model = {
        "name": "chest_xray_pneumonia",
        "operating_points": {"Pneumonia": 0.01},
        "waive": ["age"],
        "gates": "report",
    }

    def adult(dataset: Dataset) -> None:
        dataset.PatientAge = "061Y"

    with another_room(tmp_path, models=[model]) as other:
        room = replace(other, clock=clock)
        uid = accept(room, clock, film(change=adult))
        score_study(claimed(room, clock), room)

        [row] = list_worklist(room.database, room.pseudonyms, now=clock())
        assert row.study.state is StudyState.DONE
        assert len(row.remarks) >= 3
        text = answers(room, uid)[-1].to_json()
        for remark in row.remarks:
            assert remark in text
        assert "waived by the site: age" in text
        assert "set by the site: Pneumonia 0.01" in text
        assert "operating_point=0.01" in text


def test_captures_are_as_large_as_the_site_wants_them(clock: Clock, tmp_path: Path) -> None:
    model = {**DRAWN_FILMS_MODELS[0], "operating_points": {"Pneumonia": 0}}
    results = {"capture_long_side": 512}
    with another_room(tmp_path, models=[model], results=results) as other:
        room = replace(other, clock=clock)
        uid = accept(room, clock, film())
        score_study(claimed(room, clock), room)
        capture, report = answers(room, uid)
    image = dcmread(BytesIO(film()), stop_before_pixels=True)
    long_side, legend = 512, 132
    width = round(image.Columns * long_side / max(image.Rows, image.Columns))
    assert capture.Columns == max(width, 480) + legend
    assert long_side < capture.Rows < 1024, "the image, its title and the words below"
    assert report.Modality == "SR"


def test_a_later_answer_never_lowers_what_an_earlier_one_raised(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film(change=truncated))
    raised = replace(
        claimed(room, clock),
        shown_priority=ReadingPriority.ASAP,
        priority_reason="Pneumonia present, p=0.97",
    )

    score_study(raised, room)

    assert record(room, clock, uid).priority is ReadingPriority.ASAP


def test_a_capture_that_the_pacs_routes_back_makes_no_new_answer(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())
    score_study(claimed(room, clock), room)
    before = record(room, clock, uid)
    [*_, result] = list_objects(room.database, uid)

    accept(room, clock, room.spool.read(result.digest))

    assert record(room, clock, uid) == before


def test_a_colour_image_beside_a_scored_one_leaves_no_absent_behind(
    opened: ScoringRoom, clock: Clock
) -> None:
    def in_colour(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.7"[:64]
        dataset.PhotometricInterpretation = "RGB"

    room = replace(opened, clock=clock)
    accept(room, clock, film("colour-beside"))
    uid = accept(room, clock, film("colour-beside", in_colour))

    score_study(claimed(room, clock), room)

    report = answers(room, uid)[-1]
    assert report.CompletionFlag == "PARTIAL"
    assert '"272519000"' not in report.to_json()  # Absent


def test_a_study_that_an_earlier_answer_raised_is_scored_as_an_urgent_one(
    opened: ScoringRoom, clock: Clock
) -> None:
    accept(opened, clock, film())
    claim = claimed(opened, clock)

    assert lane(claim) == ROUTINE
    assert lane(replace(claim, shown_priority=ReadingPriority.URGENT)) == STAT
    assert lane(replace(claim, shown_priority=ReadingPriority.STAT, is_archive=True)) == ARCHIVE
