"""A launch that never ends costs its own study some attempts, and no other study anything."""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from imaging_node.demonstration.local_node import LocalNode
from imaging_node.dicom.phantom import phantom_dataset
from imaging_node.domain.lifecycle import StudyState
from imaging_node.flow.scoring import ATTEMPTS_BEFORE_DECLINING
from imaging_node.node.launch_watch import EXIT_LAUNCH_HANGS
from imaging_node.telemetry import Event
from tests.integration.answers import listing
from tests.integration.conftest import wait_until
from tests.integration.films import CLEAR, film, send, study_uid
from tests.signing import write_test_key

if TYPE_CHECKING:
    from pathlib import Path


def attempts_by_study(node: LocalNode) -> dict[str, int]:
    """What the database holds against each study, its last claim included."""
    location = make_url(node.settings.database_url).database or ""
    with closing(sqlite3.connect(f"file:{location}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT study_instance_uid, attempts FROM studies")
        return dict(rows.fetchall())


@pytest.mark.slow
def test_a_hanging_launch_ends_its_process_and_only_its_study_is_given_up(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra torch plants the loop")
    from tests.integration.hanging_bundle import (  # noqa: PLC0415 - needs onnx
        picture_that_hangs,
        plant_hanging_bundle,
    )

    zoo = tmp_path / "zoo"
    plant_hanging_bundle(zoo)
    hanging = BytesIO()
    phantom_dataset(
        replace(CLEAR, number=1), run=uuid.uuid4().hex, picture=picture_that_hangs()
    ).save_as(hanging, enforce_file_format=True)
    good = [film(seed=number) for number in range(3)]
    changes = {
        "study": {"quiet_period_s": 0.5},
        "model_directory": str(zoo),
        "model_keys": [str(write_test_key(tmp_path))],
        "scoring": {"launch_limit_s": 2},
    }
    with LocalNode(tmp_path, changes) as node:
        assert send(node, tmp_path, hanging.getvalue(), *good).stored == 4

        def states() -> dict[str, str]:
            return {each["study_instance_uid"]: each["state"] for each in listing(node, "studies")}

        ended = {each.value for each in StudyState if each.is_final}
        wait_until(
            lambda: len(states()) == 4 and set(states().values()) <= ended,
            limit_s=150,
            what="every study answered",
        )
        found = states()
        assert found.pop(study_uid(hanging.getvalue())) == StudyState.NOT_ANALYSED
        assert set(found) == {study_uid(each) for each in good}
        assert set(found.values()) == {StudyState.DONE}
        log = [json.loads(line) for line in node.log.read_text().splitlines()]
        attempts = attempts_by_study(node)
    died = [each["exit_code"] for each in log if each["event"] == Event.ROLE_DIED]
    assert died == [EXIT_LAUNCH_HANGS] * ATTEMPTS_BEFORE_DECLINING
    at_fault = [each["count"] for each in log if each["event"] == Event.LAUNCH_FAULTY]
    assert len(at_fault) == len(died)
    # The guilty one was charged each time, and once more for its answer ...
    assert attempts.pop(study_uid(hanging.getvalue())) == len(died) + 1
    # ... once it had a charge it was alone, and the others paid at most for the launch they shared.
    assert at_fault[1:] == [1] * (len(died) - 1)
    charges = sum(each - 1 for each in attempts.values())
    assert charges == at_fault[0] - 1
    assert set(attempts.values()) <= {1, 2}
