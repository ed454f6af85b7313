"""Killed at any moment: nothing acknowledged is lost, nothing is sent twice with other content."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from imaging_node.demonstration.local_node import LocalNode
from imaging_node.domain.errors import PeerUnavailableError
from imaging_node.node.serve import ROLES
from tests.integration.answers import await_answers, listing
from tests.integration.conftest import wait_until
from tests.integration.films import film, send, study_uid
from tests.integration.test_serve import roles

if TYPE_CHECKING:
    from pathlib import Path

STUDIES = 20


@pytest.mark.parametrize("role", ROLES)
def test_each_role_killed_in_the_middle_of_20_studies_loses_no_acknowledged_study(
    tmp_path: Path, role: str
) -> None:
    films = [film(seed=number) for number in range(STUDIES)]
    acknowledged: list[str] = []
    settings = {"study": {"quiet_period_s": 0.2}, "scoring": {"lease_s": 5}}
    with LocalNode(tmp_path, settings) as node:

        def send_all() -> None:
            for payload in films:
                # A killed listener answers nothing: the modality tries again.
                for _ in range(100):
                    try:
                        if send(node, tmp_path, payload).stored:
                            acknowledged.append(study_uid(payload))
                            break
                    except PeerUnavailableError:
                        time.sleep(0.1)

        sender = threading.Thread(target=send_all)
        sender.start()
        wait_until(lambda: len(acknowledged) >= STUDIES // 2, limit_s=30, what="half are sent")
        if role in ("score", "deliver", "web"):
            wait_until(lambda: bool(node.pacs.stored), limit_s=30, what="a first answer")
        roles(node)[role].kill()
        sender.join(timeout=60)
        assert len(acknowledged) == STUDIES

        rows = await_answers(node, acknowledged, limit_s=90)

        assert {rows[uid]["state"] for uid in acknowledged} == {"done"}
        answered = {each.study_instance_uid for each in node.pacs.stored if each.is_report}
        assert set(acknowledged) <= answered
        contents = defaultdict(set)
        for stored in node.pacs.stored:
            contents[stored.sop_instance_uid].add(stored.payload)
        assert all(len(each) == 1 for each in contents.values())


def test_a_killed_serve_goes_on_where_it_was(tmp_path: Path) -> None:
    films = [film(seed=number) for number in range(8)]
    settings = {"study": {"quiet_period_s": 0.2}, "scoring": {"lease_s": 5}}
    first = LocalNode(tmp_path, settings)
    send(first, tmp_path, *films)
    first.process.kill()
    first.stop()

    with LocalNode(tmp_path, settings) as second:
        rows = await_answers(second, [study_uid(each) for each in films], limit_s=60)

        assert {row["state"] for row in rows.values()} == {"done"}
        answered = {
            each.study_instance_uid
            for each in (*first.pacs.stored, *second.pacs.stored)
            if each.is_report
        }
        assert answered == {study_uid(each) for each in films}


def test_results_wait_for_a_pacs_that_is_down_and_arrive_once_it_is_back(tmp_path: Path) -> None:
    settings = {
        "study": {"quiet_period_s": 0.2},
        "delivery": {"retry_first_s": 0.2, "retry_max_s": 1},
    }
    with LocalNode(tmp_path, settings) as node:
        node.pacs.close()
        payload = film()
        send(node, tmp_path, payload)
        wait_until(
            lambda: any(
                row["attempts"] >= 2 and row["last_status"].startswith("no association")
                for row in _deliveries(node)
            ),
            limit_s=30,
            what="a second attempt",
        )
        node.pacs.open()

        await_answers(node, [study_uid(payload)])

        assert {row["state"] for row in _deliveries(node)} == {"delivered"}


def _deliveries(node: LocalNode) -> list[dict[str, Any]]:
    return listing(node, "deliveries")
