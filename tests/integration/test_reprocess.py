"""Archives: resumable, every study to an end, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import dcmread

from imaging_node.demonstration.local_node import DRAWN_FILMS_MODELS
from imaging_node.settings import free_environment
from tests.integration.answers import await_answers, command
from tests.integration.conftest import wait_until
from tests.integration.films import film, study_uid
from tests.integration.test_bad_input import another_body_part, ct, truncated

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.demonstration.local_node import LocalNode


def archive(folder: Path, count: int) -> list[bytes]:
    """A folder of films, with what archives also hold."""
    (folder / "deep" / "er").mkdir(parents=True)
    films = [film(seed=number) for number in range(count)]
    films += [film(change=truncated), film(change=another_body_part), film(change=ct)]
    for number, payload in enumerate(films):
        (folder / "deep" / f"{number}.dcm").write_bytes(payload)
    (folder / "deep" / "er" / "notes.txt").write_text("no DICOM file")
    return films


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    # The films are drawn: the image gates would refuse them.
    config = out.parent / "drawn.yaml"
    config.write_text(json.dumps({"models": DRAWN_FILMS_MODELS}), encoding="utf-8")
    return [
        sys.executable, "-m", "imaging_node", "reprocess", str(folder), "--out", str(out),
        "--config", str(config), *more,
    ]  # fmt: skip


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_every_study_of_an_archive_ends_in_a_state_with_its_files(tmp_path: Path) -> None:
    films = archive(tmp_path / "in", 3)
    out = tmp_path / "out"

    run = subprocess.run(
        arguments(tmp_path / "in", out, "--save-maps"),
        capture_output=True, text=True, check=False, env=free_environment(),
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    rows = {row["study_instance_uid"]: row for row in results(out)}
    assert set(rows) == {study_uid(each) for each in films}
    states = [rows[study_uid(each)]["state"] for each in films]
    assert states == ["done"] * 3 + ["not_analysed"] * 2 + ["not_applicable"]
    for row in rows.values():
        reports = [each for each in row["files"] if each["kind"] != "capture"]
        assert len(reports) == (0 if row["state"] == "not_applicable" else 1)
        for each in row["files"]:
            answer = dcmread(out / each["file"])
            assert answer.StudyInstanceUID == row["study_instance_uid"]
    maps = [np.load(path, allow_pickle=False) for path in out.rglob("*.npy")]
    assert len(maps) == 3
    source = dcmread(BytesIO(films[0]))
    assert all(
        each.dtype == np.float32 and each.shape == (source.Rows, source.Columns) for each in maps
    )


def test_a_killed_run_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    films = archive(tmp_path / "in", 40)
    out = tmp_path / "out"
    killed = subprocess.Popen(
        arguments(tmp_path / "in", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=free_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out / "results.jsonl").exists() or len(results_so_far(out)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    before = results_so_far(out)
    assert len(before) < len(films)
    reports = {path: path.read_bytes() for path in out.rglob("*.dcm")}

    for _ in range(2):  # the second finds nothing left to do
        again = subprocess.run(
            arguments(tmp_path / "in", out), capture_output=True, text=True, check=False,
            env=free_environment(),
        )  # fmt: skip
        assert again.returncode == 0, again.stderr

        rows = results(out)
        assert len(rows) == len({row["study_instance_uid"] for row in rows}) == len(films)
        assert [json.dumps(row) for row in rows][: len(before)] == before
        for path, content in reports.items():
            assert path.read_bytes() == content


def results_so_far(out: Path) -> list[str]:
    whole = (out / "results.jsonl").read_text()
    return whole[: whole.rfind("\n") + 1].splitlines()


def test_a_folder_queued_on_a_running_node_is_scored_and_delivered(
    node: LocalNode, tmp_path: Path
) -> None:
    films = archive(tmp_path / "in", 2)

    queued = command(node, "reprocess", str(tmp_path / "in"), "--deliver")

    assert queued.returncode == 0, queued.stderr
    rows = await_answers(node, [study_uid(each) for each in films])
    assert rows[study_uid(films[0])]["state"] == "done"
    delivered = {each.study_instance_uid for each in node.pacs.stored if each.is_report}
    assert {study_uid(each) for each in films[:4]} <= delivered


def test_out_and_deliver_exclude_each_other(tmp_path: Path) -> None:
    for extra in ([], ["--out", str(tmp_path), "--deliver"]):
        wrong = subprocess.run(
            [sys.executable, "-m", "imaging_node", "reprocess", str(tmp_path), *extra],
            capture_output=True, check=False, env=free_environment(),
        )  # fmt: skip
        assert wrong.returncode == 2


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "in", 20)
    out = tmp_path / "out"
    first = subprocess.Popen(
        arguments(tmp_path / "in", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=free_environment(),
    )  # fmt: skip
    wait_until((out / ".imaging-node" / "lock").exists, limit_s=30, what="the first run began")

    second = subprocess.run(
        arguments(tmp_path / "in", out), capture_output=True, text=True, check=False,
        env=free_environment(),
    )  # fmt: skip

    assert second.returncode == 1
    assert "another reprocess run" in second.stderr
    assert first.wait(timeout=60) == 0
