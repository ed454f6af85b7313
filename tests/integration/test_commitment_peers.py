"""Orthanc asks the node for storage commitment, and the node asks Orthanc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, tool_path: Callable[[str], str]
) -> dict[str, Any]:
    for tool in ("Orthanc", "unshare"):
        tool_path(tool)
    folder = tmp_path_factory.mktemp("commitment")
    own_user = [] if os.geteuid() == 0 else ["--map-root-user"]
    round_ = subprocess.run(
        [
            "unshare", "--net", *own_user,
            sys.executable, "-m", "tests.integration.commitment_round", str(folder),
        ],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    )  # fmt: skip
    assert round_.returncode == 0, round_.stderr[-2000:]
    outcome: dict[str, Any] = json.loads(round_.stdout.splitlines()[-1])
    return outcome


def test_orthanc_hears_that_what_it_sent_is_kept_and_why_something_is_not(
    found: dict[str, Any],
) -> None:
    all_kept, some_kept = found["reports"]

    assert (all_kept["Status"], len(all_kept["Success"])) == ("Success", 1)
    assert (some_kept["Status"], len(some_kept["Success"])) == ("Failure", 1)
    assert [each["FailureReason"] for each in some_kept["Failures"]] == [0x0112, 0x0119]


def test_every_result_counts_as_delivered_once_orthanc_has_committed_itself(
    found: dict[str, Any],
) -> None:
    assert found["deliveries"]
    for each in found["deliveries"]:
        assert (each["state"], each["last_status"]) == ("delivered", "0000")
    events = [json.loads(line) for line in found["log"].splitlines()]
    done = [each for each in events if each["event"] == "object delivered"]
    assert {each["reason"] for each in done} == {"storage commitment"}
    assert len(done) == len(found["deliveries"])
