"""A launch that never ends costs its own study some attempts, and no other study anything."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from imaging_node.demonstration.local_node import LocalNode
from imaging_node.dicom.phantom import phantom_dataset
from imaging_node.domain.lifecycle import StudyState
from imaging_node.node.launch_watch import EXIT_LAUNCH_HANGS
from imaging_node.telemetry import Event
from tests.integration.answers import listing
from tests.integration.conftest import wait_until
from tests.integration.films import CLEAR, film, send, study_uid

if TYPE_CHECKING:
    from pathlib import Path


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
    died = [each["exit_code"] for each in log if each["event"] == Event.ROLE_DIED]
    assert set(died) == {EXIT_LAUNCH_HANGS}
    assert sum(each["event"] == Event.LAUNCH_FAULTY for each in log) == len(died)
