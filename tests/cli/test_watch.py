"""`watch` tells how models fare, and takes final labels."""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.watching import ReferenceSource, WatchedModel
from imaging_node.store.database import open_database
from imaging_node.store.watches import AlarmChange, record_watch
from tests.cli.test_commands import run
from tests.store.arriving import NOON, arriving, note
from tests.store.auditing import read_all
from tests.store.observing import DIGEST, observation, see

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ["watch status", "watch report", "watch accept", "watch labels import"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A node that has seen seventy studies, with an alarm that is on."""
    database = open_database(f"sqlite:///{tmp_path / 'state' / 'node.sqlite'}")
    for number in range(70):
        one = arriving(f"1.2.{number}", f"1.2.{number}.1")
        note(database, replace(one, accession_number=f"ACC-{number}"))
        see(database, f"1.2.{number}", observation(call="present" if number < 35 else "absent"))
    record_watch(
        database,
        WatchedModel(
            model="chest", model_digest=DIGEST, reference_source=ReferenceSource.BUNDLE,
            studies=70, baseline_left=0, updated_at=NOON,
        ),
        plain={},
        seen_id=70,
        changes=[
            AlarmChange(
                is_raised=True,
                quantity="input_mean", group_kind="scanner", group_value="1",
                statistic="cusum_up", value=20.0, threshold=20.0, raised_after=30,
            )
        ],
        former=None,
    )  # fmt: skip
    database.close()
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    outcome = run(tmp_path, *command.split(), "--help")
    assert outcome.returncode == 0
    assert "--config" in outcome.stdout


def test_status_shows_models_and_alarms_with_the_scanners_name(state: Path) -> None:
    text = run(state, "watch", "status").stdout
    for expected in ("chest", "bundle", "input_mean", "scanner 1", "ACME DR", "cusum_up"):
        assert expected in text
    shown = json.loads(run(state, "watch", "status", "--json").stdout)
    assert shown["alarms"][0]["raised_after"] == 30


def test_labels_are_taken_and_reported_and_small_groups_are_hidden(state: Path) -> None:
    lines = [f"ACC-{number},Pneumonia,{int(number < 28)}" for number in range(70)]
    (state / "labels.csv").write_text("\n".join(["accession_number,finding,present", *lines, ""]))

    taken = run(state, "watch", "labels", "import", "labels.csv")
    report = json.loads(run(state, "watch", "report", "--json").stdout)

    assert (taken.returncode, taken.stdout.strip()) == (0, "70 labels, 70 of them news")
    whole = next(each for each in report["rows"] if each["of"] == "all")
    assert (whole["positive_predictive_value"]["successes"], whole["labelled"]) == (28, 70)
    assert whole["sensitivity"]["value"] == 1
    assert whole["specificity"] == {"value": 35 / 42, "interval": whole["specificity"]["interval"],
                                    "successes": 35, "n": 42}  # fmt: skip
    of_sex = next(each for each in report["rows"] if (each["of"], each["value"]) == ("sex", "F"))
    assert of_sex["positive_predictive_value"]["n"] == 35
    assert of_sex["sensitivity"] == "fewer than 30"
    assert "verification bias" in report["note"]
    assert "fewer than 30" in run(state, "watch", "report").stdout


def test_lines_that_were_left_out_end_with_status_1_and_are_not_quoted(state: Path) -> None:
    (state / "labels.csv").write_text("accession_number,finding,present\nSECRET,Pneumonia,1\n")
    outcome = run(state, "watch", "labels", "import", "labels.csv")
    assert outcome.returncode == 1
    assert outcome.stderr.strip().splitlines()[-1] == "line 2: no such study here"
    assert "SECRET" not in outcome.stdout + outcome.stderr


def test_too_few_studies_are_no_reference(state: Path) -> None:
    outcome = run(state, "watch", "accept", "chest")
    assert outcome.returncode == 1
    assert "500 are needed" in outcome.stderr


def test_what_is_decided_about_watching_is_audited_with_its_user(state: Path) -> None:
    (state / "labels.csv").write_text("accession_number,finding,present\nACC-1,Pneumonia,1\n")

    assert run(state, "watch", "labels", "import", "labels.csv").returncode == 0
    returned = run(state, "watch", "accept", "chest", "--bundle")

    assert "bundle's reference" in returned.stdout
    audited = [str(each) for each in read_all(state / "state" / "audit")]
    user = pwd.getpwuid(os.getuid()).pw_name
    for words in ("final labels imported: 1 labels, 1 of them news", "with its bundle's reference"):
        [event] = [each for each in audited if words in each]
        assert user in event
    assert "ACC-1" not in "".join(audited)
    shown = json.loads(run(state, "watch", "status", "--json").stdout)
    assert shown["alarms"][0]["cleared_at"]
