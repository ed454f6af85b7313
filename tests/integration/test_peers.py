"""DCMTK sends; DCMTK and Orthanc receive every answer, each valid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import SHARED_DATA

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def outcome(
    tmp_path_factory: pytest.TempPathFactory, tool_path: Callable[[str], str]
) -> tuple[Path, dict[str, Any]]:
    for tool in ("storescu", "storescp", "Orthanc", "unshare"):
        tool_path(tool)
    folder = tmp_path_factory.mktemp("peers")
    data = [str(SHARED_DATA)] if SHARED_DATA.is_dir() else []
    command = [sys.executable, "-m", "tests.integration.peers_round", str(folder), *data]
    own_user = [] if os.geteuid() == 0 else ["--map-root-user"]
    round_ = subprocess.run(
        ["unshare", "--net", *own_user, *command],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    )  # fmt: skip
    assert round_.returncode == 0, round_.stderr[-2000:]
    found: dict[str, Any] = json.loads(round_.stdout.splitlines()[-1])
    return folder, found


def test_every_study_that_dcmtk_sends_is_answered_at_both_peers(
    outcome: tuple[Path, dict[str, Any]],
) -> None:
    _, found = outcome
    assert found["refused"] == []
    expected = []
    for row in found["rows"]:
        uid = row["study_instance_uid"]
        assert row["state"] in {"done", "not_analysed"}
        expected.append([uid, REPORT])
        present = [each for each in row["findings"] if each["presence"] == "present"]
        expected += [[uid, CAPTURE]] * len(present)
    assert found["storescp"] == sorted(expected)
    assert found["orthanc"] == sorted(expected)
    states = [row["state"] for row in found["rows"]]
    sys.stdout.write(f"{Counter(states)}, {len(expected)} objects at each peer\n")


def test_what_dcmtk_received_is_valid(
    outcome: tuple[Path, dict[str, Any]], tool_path: Callable[[str], str]
) -> None:
    folder, _ = outcome
    validator, reader = tool_path("dciodvfy"), tool_path("dsrdump")
    files = sorted((folder / "storescp").iterdir())
    assert files
    # What is illegal in a source's identity is carried word for word, so that the result files
    # into the right study.
    inherited = {line for path in sent_files(folder) for line in errors(validator, path)}
    for path in files:
        assert set(errors(validator, path)) <= inherited
        if path.name.startswith("SRc3"):
            subprocess.run([reader, str(path)], check=True, capture_output=True)


def sent_files(folder: Path) -> list[Path]:
    films = sorted(folder.glob("film-*.dcm"))
    if SHARED_DATA.is_dir():
        films += [*(SHARED_DATA / "dicom" / "chest").glob("*.dcm")]
        films += [*(SHARED_DATA / "dicom" / "pylibjpeg-data").glob("*.dcm")]
    return films


def errors(validator: str, path: Path) -> list[str]:
    checked = subprocess.run(
        [validator, "-new", str(path)], capture_output=True, text=True, check=False
    )
    return [line for line in checked.stderr.splitlines() if line.startswith("Error")]
