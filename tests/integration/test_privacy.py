"""Nothing the node writes names a patient, but the database and the spooled bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psutil

from tests.integration.answers import await_answers
from tests.integration.films import film, send
from tests.integration.test_bad_input import truncated

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from pydicom.dataset import Dataset

from imaging_node.demonstration.local_node import LocalNode

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
NEEDLES = [value.split("^")[0].encode() for value in CANARIES.values()]


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


def test_what_was_planted_is_found_nowhere_outside_database_and_spool(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, bytes] = {}
    with LocalNode(tmp_path, {"study": {"quiet_period_s": 0.3}}) as node:
        outcome = send(node, tmp_path, film(change=plant), film(change=plant_damaged))
        assert outcome.stored == 2
        assert send(node, tmp_path, film(change=plant_conflict)).refused == ["0xC010"]
        uid = CANARIES["StudyInstanceUID"]
        await_answers(node, [uid, f"{uid}9"])
        for child in psutil.Process(node.process.pid).children(recursive=True):
            seen[f"title of {child.pid}"] = " ".join(child.cmdline()).encode()
        page = f"http://127.0.0.1:{node.settings.web.port}"
        seen["metrics"] = httpx.get(f"{page}/metrics").content
        seen["readiness"] = httpx.get(f"{page}/readyz").content
        worklist = httpx.get(f"{page}/").text
        seen["links"] = " ".join(
            part.split('"')[0] for part in worklist.replace("src=", "href=").split('href="')[1:]
        ).encode()
    seen["output of this process"] = "".join(capfd.readouterr()).encode()
    state = node.settings.state_directory
    for path in tmp_path.rglob("*"):
        seen[f"name of {path}"] = str(path.relative_to(tmp_path)).encode()
        is_kept = path.is_relative_to(state / "spool") or path.name.startswith("node.sqlite")
        if path.is_file() and not is_kept and path.suffix != ".dcm":
            seen[f"content of {path.name}"] = path.read_bytes()

    assert b"study ended" in seen["content of node.log"]
    found = [place for place, text in seen.items() for needle in NEEDLES if needle in text]
    assert found == []
    # The search itself can fail: the spool, which may hold them, does.
    assert any(NEEDLES[0] in path.read_bytes() for path in (state / "spool").rglob("*.dcm"))
