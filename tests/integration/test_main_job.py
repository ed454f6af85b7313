"""A study in over DICOM, a structured report back."""

from __future__ import annotations

import subprocess
from io import BytesIO
from typing import TYPE_CHECKING

import httpx
from pydicom import dcmread

from tests.integration.answers import await_answers, command, listing
from tests.integration.films import film, send, study_uid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.demonstration.local_node import LocalNode


def report_of(node: LocalNode, uid: str) -> Dataset:
    """The last SR that the PACS has for a study."""
    reports = [
        each for each in node.pacs.stored if each.is_report and each.study_instance_uid == uid
    ]
    return dcmread(BytesIO(reports[-1].payload))


def test_a_chest_film_is_answered_in_its_own_study_under_its_own_patient(
    node: LocalNode, tmp_path: Path
) -> None:
    payload = film()
    source = dcmread(BytesIO(payload))
    assert send(node, tmp_path, payload).stored == 1

    row = await_answers(node, [study_uid(payload)])[study_uid(payload)]

    assert row["state"] == "done"
    assert [score["label"] for score in row["findings"]] == ["Pneumonia"]
    report = report_of(node, study_uid(payload))
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyID"):
        assert report[keyword].value == source[keyword].value
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    referenced = [
        item.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert source.SOPInstanceUID in referenced


def test_the_same_film_again_gets_no_second_answer(node: LocalNode, tmp_path: Path) -> None:
    payload = film()
    send(node, tmp_path, payload)
    await_answers(node, [study_uid(payload)])
    before = len(node.pacs.stored)

    assert send(node, tmp_path, payload).stored == 1

    await_answers(node, [study_uid(payload)])
    assert len(node.pacs.stored) == before


def test_a_late_film_gets_a_new_report_that_names_the_one_before(
    node: LocalNode, tmp_path: Path
) -> None:
    first = film("late")
    send(node, tmp_path, first)
    await_answers(node, [study_uid(first)])
    answered = report_of(node, study_uid(first))

    def of_the_same_study(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.1"[:64]

    send(node, tmp_path, film("late", of_the_same_study, seed=3))

    row = await_answers(node, [study_uid(first)])[study_uid(first)]
    assert row["generation"] == 2
    revised = report_of(node, study_uid(first))
    assert revised.SOPInstanceUID != answered.SOPInstanceUID
    [predecessor] = revised.PredecessorDocumentsSequence
    named = predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == answered.SOPInstanceUID
    assert (revised.SeriesDate, revised.SeriesTime) == (answered.SeriesDate, answered.SeriesTime)


def test_a_stat_order_is_read_first(node: LocalNode, tmp_path: Path) -> None:
    def ordered_stat(dataset: Dataset) -> None:
        dataset.RequestAttributesSequence[0].RequestedProcedurePriority = "STAT"

    stat = film(change=ordered_stat)
    send(node, tmp_path, film(), stat)

    row = await_answers(node, [study_uid(stat)])[study_uid(stat)]

    assert (row["priority"], row["rank"]) == ("stat", 1)


def test_storescu_and_the_echo_command_reach_the_node(
    node: LocalNode, tmp_path: Path, tool_path: Callable[[str], str]
) -> None:
    payload = film()
    (tmp_path / "film.dcm").write_bytes(payload)
    dicom = node.settings.dicom
    subprocess.run(
        [tool_path("storescu"), "-aec", dicom.ae_title, "127.0.0.1", str(dicom.port),
         str(tmp_path / "film.dcm")],
        check=True,
    )  # fmt: skip

    assert await_answers(node, [study_uid(payload)])[study_uid(payload)]["state"] == "done"
    assert command(node, "echo", f"{dicom.ae_title}@127.0.0.1:{dicom.port}").returncode == 0


def test_every_answer_is_valid_dicom(
    node: LocalNode, tmp_path: Path, tool_path: Callable[[str], str]
) -> None:
    payload = film()
    send(node, tmp_path, payload)
    await_answers(node, [study_uid(payload)])

    for number, stored in enumerate(node.pacs.stored):
        path = tmp_path / f"stored-{number}.dcm"
        path.write_bytes(stored.payload)
        checked = subprocess.run(
            [tool_path("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
        )
        assert "Error" not in checked.stderr, checked.stderr


def test_listings_and_health_tell_what_happened(node: LocalNode, tmp_path: Path) -> None:
    payload = film()
    send(node, tmp_path, payload)
    uid = study_uid(payload)
    await_answers(node, [uid])

    [study] = [each for each in listing(node, "studies") if each["study_instance_uid"] == uid]
    assert (study["state"], study["generation"], study["instances"]) == ("done", 1, 1)
    sent = [each for each in listing(node, "deliveries") if each["study_instance_uid"] == uid]
    assert {(each["state"], each["last_status"]) for each in sent} == {("delivered", "0000")}
    page = f"http://127.0.0.1:{node.settings.web.port}"
    assert 'imaging_node_studies{state="done"}' in httpx.get(f"{page}/metrics").text
    assert study["accession_number"] in httpx.get(f"{page}/").text


def test_an_ended_study_can_be_scored_again(node: LocalNode, tmp_path: Path) -> None:
    payload = film()
    send(node, tmp_path, payload)
    uid = study_uid(payload)
    await_answers(node, [uid])

    assert command(node, "studies", "retry", uid).returncode == 0

    assert await_answers(node, [uid])[uid]["generation"] == 2
    assert "PredecessorDocumentsSequence" in report_of(node, uid)
    assert command(node, "studies", "retry", "1.2.3").returncode == 1
