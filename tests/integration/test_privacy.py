"""Nothing the node writes names a patient, but the database and the spooled bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import psutil

from imaging_node.demonstration.local_node import LocalNode, free_ports
from imaging_node.dicom.commitment import CommitmentReport, CommitmentRequest
from tests.dicom.listening import CT
from tests.integration.answers import await_answers
from tests.integration.conftest import wait_until
from tests.integration.films import film, send, study_uid
from tests.integration.hostile_peer import (
    Answered,
    ask_commitment,
    associate_as,
    report_commitment,
    store_raw,
)
from tests.integration.receiving import dataset_of
from tests.integration.test_bad_input import truncated

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from pydicom.dataset import Dataset

CANARIES = {
    "PatientName": "CANARYNAME^UNIQUE",
    "PatientID": "CANARYID-77",
    "AccessionNumber": "CANARYACC77",
    "StudyInstanceUID": "2.25.7777777777777701",
    "SeriesInstanceUID": "2.25.7777777777777702",
    "SOPInstanceUID": "2.25.7777777777777703",
    "PatientBirthDate": "20210317",
    "ReferringPhysicianName": "CANARYDOCTOR^X",
}
TRANSACTION_UID = "2.25.7777777777777799"
NEEDLES = [value.split("^")[0].encode() for value in (*CANARIES.values(), TRANSACTION_UID)]
ASKER = "ASKER"
HOSTILE_TITLES = (
    b"A\r\n{forged: line}"[:16],
    b"\x1b[31mRED\x1b]0;T\x07BC",
    b"\x00\x9b2J" + b"\xff" * 12,
    b"CT\\MR\\NODES\\XRAY",
    b"<script>&\"'{%s%n",
)


def plant(dataset: Dataset) -> None:
    for keyword, value in CANARIES.items():
        setattr(dataset, keyword, value)


def plant_damaged(dataset: Dataset) -> None:
    plant(dataset)
    dataset.StudyInstanceUID = f"{CANARIES['StudyInstanceUID']}9"
    dataset.SOPInstanceUID = f"{CANARIES['SOPInstanceUID']}9"
    truncated(dataset)


def plant_conflict(dataset: Dataset) -> None:
    plant(dataset)
    dataset.SOPInstanceUID = f"{CANARIES['SOPInstanceUID']}8"
    dataset.PatientID = "CANARYID-77-OTHER"


def places(node: LocalNode, folder: Path) -> dict[str, bytes]:
    """What a running node shows to others than its peers, by where it stands."""
    page = f"http://127.0.0.1:{node.settings.web.port}"
    seen = {
        f"title of {child.pid}": " ".join(child.cmdline()).encode()
        for child in psutil.Process(node.process.pid).children(recursive=True)
    }
    seen["metrics"] = httpx.get(f"{page}/metrics").content
    seen["readiness"] = httpx.get(f"{page}/readyz").content
    worklist = httpx.get(f"{page}/").text
    seen["links"] = " ".join(
        part.split('"')[0] for part in worklist.replace("src=", "href=").split('href="')[1:]
    ).encode()
    return seen | files(node, folder)


def files(node: LocalNode, folder: Path) -> dict[str, bytes]:
    """Names of all files, and contents of those that may not hold what was received."""
    state, seen = node.settings.state_directory, {}
    for path in folder.rglob("*"):
        seen[f"name of {path}"] = str(path.relative_to(folder)).encode()
        is_kept = path.is_relative_to(state / "spool") or path.name.startswith("node.sqlite")
        if path.is_file() and not is_kept and path.suffix != ".dcm":
            seen[f"content of {path.name}"] = path.read_bytes()
    return seen


def found_in(seen: dict[str, bytes]) -> list[str]:
    return [place for place, text in seen.items() for needle in NEEDLES if needle in text]


def test_what_was_planted_is_found_nowhere_outside_database_and_spool(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with LocalNode(tmp_path, {"study": {"quiet_period_s": 0.3}}) as node:
        outcome = send(node, tmp_path, film(change=plant), film(change=plant_damaged))
        assert outcome.stored == 2
        assert send(node, tmp_path, film(change=plant_conflict)).refused == ["C010"]
        uid = CANARIES["StudyInstanceUID"]
        await_answers(node, [uid, f"{uid}9"])
        seen = places(node, tmp_path)
    seen["output of this process"] = "".join(capfd.readouterr()).encode()
    seen |= files(node, tmp_path)

    assert b"study ended" in seen["content of node.log"]
    assert found_in(seen) == []
    # The search itself can fail: the spool, which may hold them, does.
    spool = node.settings.state_directory / "spool"
    assert any(NEEDLES[0] in path.read_bytes() for path in spool.rglob("*.dcm"))


def refusals(port: int) -> list[Answered]:
    """Everything that is refused, with names and identifiers wherever bytes may stand."""
    uid = CANARIES["SOPInstanceUID"]
    dataset = dataset_of(film(change=plant))
    another_class = {"sop_instance_uid": uid, "calling": "HOSTILE"}
    return [
        # The command's class is not the context's; the dataset is not the command's.
        store_raw(port, dataset, sop_class_uid="1.2.840.10008.5.1.4.1.1.4", **another_class),
        store_raw(port, dataset, **another_class),
        store_raw(port, b"".join(NEEDLES) * 3, **another_class),
        store_raw(port, dataset, sop_instance_uid="CANARYID-77/../\n1", calling="HOSTILE"),
        store_raw(port, dataset, sop_instance_uid="1" * 65 + uid, calling="HOSTILE"),
    ]


def commitments(port: int) -> list[Answered]:
    """Requests and reports whose every UID is planted."""
    kept = (CT, CANARIES["SOPInstanceUID"])
    asked = CommitmentRequest(
        transaction_uid=TRANSACTION_UID, calling_ae_title=ASKER, references=(kept,)
    )
    reported = CommitmentReport(
        transaction_uid=TRANSACTION_UID, calling_ae_title=ASKER, committed=(kept,), failed=()
    )
    return [
        ask_commitment(port, asked),
        ask_commitment(port, replace(asked, calling_ae_title="UNKNOWN")),
        ask_commitment(port, asked, cut=7),
        report_commitment(port, reported),
        report_commitment(port, replace(reported, committed=(), failed=((*kept, 0x0112),))),
    ]


def test_what_was_refused_or_asked_is_found_nowhere_either(tmp_path: Path) -> None:
    [dicom_port, nobody] = free_ports(2)
    changes = {
        "dicom": {"host": "127.0.0.1", "port": dicom_port},
        # Its reports go nowhere, so that the node has much to say about them.
        "peers": {"asker": {"ae_title": ASKER, "host": "127.0.0.1", "port": nobody}},
    }
    with LocalNode(tmp_path, changes) as node:
        answers = refusals(dicom_port)
        assert [each.status for each in answers] == [0xA900, 0xA900, 0xC000, 0x0117, 0x0117]
        reports = commitments(dicom_port)
        assert [each.status for each in reports] == [0x0000, 0x0110, 0x0115, 0x0110, 0x0110]
        for title in HOSTILE_TITLES:
            for called in ("IMAGING_NODE", "OTHER"):
                associate_as(dicom_port, title, called=called)
        wait_until(
            lambda: b"storage commitment will be reported again" in node.log.read_bytes(),
            limit_s=20,
            what="a report was tried",
        )
        seen = places(node, tmp_path)
    seen |= files(node, tmp_path)
    for number, each in enumerate((*answers, *reports)):
        seen[f"error comment {number}"] = each.text

    assert any(each.text for each in answers)
    assert found_in(seen) == []
    audit = b"".join(text for place, text in seen.items() if "audit" in place)
    assert audit
    # A claim of a title is written without what no title can hold, PS3.5 6.2: nothing that a
    # terminal or a reader of lines would obey.
    assert not set(audit) - {*range(0x20, 0x7F), 0x0A}
    lines = [json.loads(line) for line in seen["content of node.log"].splitlines()]
    titles = {line["ae_title"] for line in lines if "ae_title" in line}
    assert {"HOSTILE", "ASKER", "<script>&\"'{%s%n"} <= titles
    assert all(each.isascii() and each.isprintable() for each in titles)


def test_only_the_nodes_user_can_enter_its_state_directory(tmp_path: Path) -> None:
    with LocalNode(tmp_path, {"study": {"quiet_period_s": 0.3}}) as node:
        payload = film()
        assert send(node, tmp_path, payload).stored == 1
        await_answers(node, [study_uid(payload)])
    state = node.settings.state_directory
    folders = [state, *(path for path in state.rglob("*") if path.is_dir())]
    secrets = [*state.glob("node.sqlite*"), state / "hash.key", *(state / "audit").glob("*")]

    assert len(secrets) >= 3
    for path in (*folders, *secrets):
        assert not path.stat().st_mode & 0o077, path
