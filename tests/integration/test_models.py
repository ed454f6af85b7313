"""Models are added, tried, promoted and rolled back while the node runs; a shadow is never sent."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from imaging_node.demonstration.local_node import LocalNode
from imaging_node.domain.model_state import ModelAction, ModelState, is_in_share, promoted
from imaging_node.node.models import GATES_REPORT
from imaging_node.store.database import open_database
from imaging_node.store.model_states import read_decisions, record_changes
from imaging_node.store.shadow_results import ShadowResult, list_shadow_results
from tests.integration.answers import await_answers, command, listing
from tests.integration.conftest import wait_until
from tests.integration.films import film, send, study_uid
from tests.integration.other_version import NAME, make_version
from tests.signing import write_test_key
from tests.store.auditing import read_all, valid
from tests.store.model_records import model_change

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

OLD, NEW = "0.2.1", "9.0.0"
BUNDLE = f"{NAME}@{NEW}"
# The new version calls no film present: a study that the shipped one raises stays routine.
_NEVER = 1.0
_ALGORITHM_VERSION = "111003"  # DCM
_LIMIT_S = 300.0


def models(node: LocalNode, *arguments: str) -> str:
    """What a `models` command on the node's settings prints."""
    finished = command(node, "models", *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def answer(node: LocalNode, folder: Path) -> tuple[str, list[Dataset]]:
    """Send a film; its study, and what the PACS got for it."""
    payload = film()
    uid = study_uid(payload)
    assert send(node, folder, payload).stored == 1
    await_answers(node, [uid], limit_s=_LIMIT_S)
    return uid, sent(node, uid)


def sent(node: LocalNode, uid: str) -> list[Dataset]:
    return [
        dcmread(BytesIO(each.payload))
        for each in node.pacs.stored
        if each.study_instance_uid == uid
    ]


def versions(objects: list[Dataset]) -> set[str]:
    """Model versions that the reports name as what they are from."""
    found = set()
    for report in objects:
        for item in report.iterall():
            if item.keyword == "ConceptNameCodeSequence":
                continue
            if item.VR == "SQ":
                found |= {
                    str(each.TextValue)
                    for each in item.value
                    if "TextValue" in each
                    and each.ConceptNameCodeSequence[0].CodeValue == _ALGORITHM_VERSION
                }
    return found


def kept(node: LocalNode, uid: str) -> list[ShadowResult]:
    """What the node keeps to compare, once there is something."""
    database = open_database(node.settings.database_url, may_create=False)
    try:
        wait_until(
            lambda: bool(list_shadow_results(database, study_instance_uid=uid)),
            limit_s=_LIMIT_S,
            what="the shadow's scores",
        )
        return list_shadow_results(database, study_instance_uid=uid)
    finally:
        database.close()


def await_served(node: LocalNode, version: str, state: str, *, times: int = 1) -> None:
    """Return once the scorer has taken the state that a command gave a version."""

    def is_served() -> bool:
        lines = [json.loads(line) for line in node.log.read_text().splitlines()]
        said = [
            each
            for each in lines
            if each["event"] == "model serves"
            and (each["version"], each["state"]) == (version, state)
        ]
        return len(said) >= times

    wait_until(is_served, limit_s=_LIMIT_S, what=f"{version} serves as {state}")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # many commands, each a process
def test_a_bundle_is_added_tried_promoted_and_rolled_back_without_a_restart(
    tmp_path: Path,
) -> None:
    new = make_version(tmp_path / "made", NEW, operating_point=_NEVER)
    changes = {
        "study": {"quiet_period_s": 0.2},
        "model_keys": [str(write_test_key(tmp_path))],
    }
    with LocalNode(tmp_path, changes) as node:
        _, before = answer(node, tmp_path)
        assert versions(before) == {OLD}

        said = models(node, "add", str(new), "--reason", "a first look")
        assert "would have taken 1 of 1 studies of the last 30 days" in said
        await_served(node, NEW, "shadow")
        uid, objects = answer(node, tmp_path)
        assert versions(objects) == {OLD}
        results = kept(node, uid)
        assert [(each.version, each.is_delivered) for each in results] == [
            (OLD, True),
            (NEW, False),
        ]
        # They disagree, and only the one that answered is heard.
        assert [score.is_present for each in results for score in each.findings] == [True, False]
        assert [each.priority for each in results] == ["urgent", "routine"]
        [row] = [each for each in listing(node, "worklist") if each["study_instance_uid"] == uid]
        assert (row["priority"], row["remarks"][0]) == ("urgent", GATES_REPORT)
        assert {score["probability"] for score in row["findings"]} == {
            score.probability for score in results[0].findings
        }
        assert sent(node, uid) == objects

        models(node, "promote", BUNDLE, "--share", "0.5")
        await_served(node, NEW, "canary")
        by_version: dict[str, tuple[str, list[Dataset]]] = {}
        while len(by_version) < 2:
            uid, objects = answer(node, tmp_path)
            [version] = versions(objects)
            assert version == (NEW if is_in_share(uid, 0.5) else OLD)
            by_version[version] = (uid, objects)
        uid, objects = by_version[NEW]
        remark = f"Version {NEW} on trial: it answers 0.5 of all studies instead of {OLD}."
        assert any(remark in each.to_json() for each in objects)
        assert {(each.version, each.is_delivered) for each in kept(node, uid)} == {
            (NEW, True),
            (OLD, False),
        }

        models(node, "promote", BUNDLE, "--reason", "better in shadow")
        await_served(node, NEW, "primary")
        assert versions(answer(node, tmp_path)[1]) == {NEW}

        models(node, "rollback", NAME)
        await_served(node, OLD, "primary", times=2)
        assert versions(answer(node, tmp_path)[1]) == {OLD}

        models(node, "remove", BUNDLE)
        assert BUNDLE not in {each["name"] for each in listing(node, "models", "list")}
        history = listing(node, "models", "history")
        assert [(each["bundle"], each["action"], each["state"]) for each in history] == [
            (BUNDLE, "add", "shadow"),
            (BUNDLE, "promote", "canary"),
            (NAME, "promote", "retired"),
            (BUNDLE, "promote", "primary"),
            (BUNDLE, "rollback", "retired"),
            (NAME, "rollback", "primary"),
            (BUNDLE, "remove", None),
        ]
        assert all(each["changed_by"] and each["digest"] for each in history)
        role_starts = node.log.read_text().count('"role started"')
    assert role_starts == 4  # nothing was restarted
    audited = [
        xml
        for xml in map(valid, read_all(node.settings.state_directory / "audit"))
        if xml.find(".//EventTypeCode[@csd-code='110131']") is not None
    ]
    assert len(audited) == len(history)
    requestors = {
        each.get("UserID")
        for xml in audited
        for each in xml.iter("ActiveParticipant")
        if each.get("UserIsRequestor") == "true"
    }
    assert requestors == {history[0]["changed_by"]}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # many commands, each a process
def test_a_bundle_that_no_longer_verifies_leaves_the_old_one_serving_and_is_seen(
    tmp_path: Path,
) -> None:
    new = make_version(tmp_path / "made", NEW, operating_point=_NEVER)
    changes = {
        "study": {"quiet_period_s": 0.2},
        "model_keys": [str(write_test_key(tmp_path))],
    }
    with LocalNode(tmp_path, changes) as node:
        models(node, "add", str(new))
        await_served(node, NEW, "shadow")
        added = node.settings.state_directory / "models" / BUNDLE
        (added / "docs/README.md").write_text("changed by somebody")

        refused = command(node, "models", "promote", BUNDLE)
        assert refused.returncode == 1
        assert f"bundle {BUNDLE}: docs/README.md: was changed" in refused.stderr
        assert "primary" not in {each["state"] for each in listing(node, "models", "history")}

        # The same after the command's own check: the manifest goes just when the scorer looks.
        (added / "manifest.json").unlink()
        decide_behind_the_back_of_the_command(node)
        wait_until(
            lambda: "model refused" in node.log.read_text(), limit_s=_LIMIT_S, what="a refusal"
        )
        assert versions(answer(node, tmp_path)[1]) == {OLD}
        shown = command(node, "models", "list", "--json")
        assert shown.returncode == 1
        [row] = [each for each in json.loads(shown.stdout) if each["name"] == BUNDLE]
        assert "manifest.json: is missing" in row["fault"]


def decide_behind_the_back_of_the_command(node: LocalNode) -> None:
    """Make the added bundle primary without the checks of `models promote`."""
    database = open_database(node.settings.database_url, may_create=False)
    decisions = read_decisions(database)
    change = model_change(BUNDLE, action=ModelAction.PROMOTE, state=ModelState.PRIMARY)
    rows = promoted(decisions.rows, BUNDLE, None)
    record_changes(database, [change], rows, revision=decisions.revision)
    database.close()
