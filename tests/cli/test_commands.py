"""Commands say what they did, and exit as promised."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from imaging_node.settings import free_environment
from imaging_node.store.database import open_database
from imaging_node.store.quarantine import add_to_quarantine
from tests.store.arriving import NOON, arriving, note
from tests.store.damaging import damage

if TYPE_CHECKING:
    from pathlib import Path


def run(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imaging_node", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=free_environment(
            IMAGING_NODE__STATE_DIRECTORY=str(tmp_path / "state"), COLUMNS="200", **variables
        ),
    )


COMMANDS = [
    "serve", "receive", "score", "deliver", "web", "demo", "echo", "send", "reprocess", "studies",
    "studies show", "studies retry", "deliveries", "deliveries requeue", "worklist",
    "models list", "models show", "models verify", "models add", "models shadow", "models promote",
    "models rollback", "models remove", "models compare", "models history", "config check",
    "config show",
    "config schema", "doctor", "explain",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_takes_a_settings_file(tmp_path: Path, command: str) -> None:
    shown = run(tmp_path, *command.split(), "--help")

    assert shown.returncode == 0
    assert "--config" in shown.stdout


@pytest.mark.parametrize(
    "listing", ["studies", "deliveries", "worklist", "models list", "models history", "doctor"]
)
def test_every_listing_is_one_json_array(tmp_path: Path, listing: str) -> None:
    shown = run(tmp_path, *listing.split(), "--json")

    assert shown.returncode == 0, shown.stderr
    assert isinstance(json.loads(shown.stdout), list)


def test_a_foreseen_error_is_one_line_and_exit_1(tmp_path: Path) -> None:
    for arguments in (
        ["echo", "nobody"],
        ["echo", "X@127.0.0.1:9"],
        ["studies", "show", "1.2.3"],
        ["studies", "retry", "1.2.3"],
        ["deliveries", "requeue", "7"],
        ["models", "show", "nothing"],
        ["models", "verify", "nothing"],
        ["models", "promote", "nothing"],
        ["models", "rollback", "chest_xray_pneumonia"],
        ["models", "remove", "chest_xray_pneumonia"],
        ["models", "add", str(tmp_path)],
        ["config", "check", "--config", str(tmp_path / "absent.yaml")],
    ):
        failed = run(tmp_path, *arguments)
        assert failed.returncode == 1, arguments
        assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
        assert failed.stderr.startswith("imaging-node: ")


def test_wrong_usage_is_exit_2(tmp_path: Path) -> None:
    for arguments in (["nonsense"], ["echo"], ["deliveries", "requeue", "x"], ["send", "absent"]):
        assert run(tmp_path, *arguments).returncode == 2


def test_settings_can_be_shown_checked_and_described(tmp_path: Path) -> None:
    assert run(tmp_path, "config", "check").returncode == 0
    assert (
        "ae_title: OTHER"
        in run(tmp_path, "config", "show", IMAGING_NODE__DICOM__AE_TITLE="OTHER").stdout
    )
    schema = json.loads(run(tmp_path, "config", "schema").stdout)
    assert "state_directory" in schema["properties"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("IMAGING_NODE__MODELS", '["nothing"]', "'nothing'"),
        (
            "IMAGING_NODE__MODELS",
            '[{"name": "chest_xray_pneumonia", "operating_points": {"Gout": 0.5}}]',
            "'Gout'",
        ),
        ("IMAGING_NODE__PRIORITY__RULES", '[{"finding": "Gout", "priority": "stat"}]', "'Gout'"),
    ],
)
def test_settings_that_no_bundle_fits_are_refused(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    refused = run(tmp_path, "config", "check", **{variable: value})

    assert refused.returncode == 1
    assert said in refused.stderr


def test_doctor_finds_every_codec_and_calls_two_runtimes_an_error(tmp_path: Path) -> None:
    rows = {row["what"]: row for row in json.loads(run(tmp_path, "doctor", "--json").stdout)}
    codecs = [row for what, row in rows.items() if what.startswith("codec")]
    assert len(codecs) == 16
    assert all(row["is_sound"] for row in codecs)

    both = tmp_path / "site"
    metadata = both / "onnxruntime_gpu-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.0\n"
    )
    ill = run(tmp_path, "doctor", "--json", PYTHONPATH=str(both))
    assert ill.returncode == 1
    [runtime] = [row for row in json.loads(ill.stdout) if row["what"] == "model runtime"]
    assert runtime["is_fault"]
    assert "onnxruntime-gpu" in runtime["found"]


@pytest.fixture
def worked(tmp_path: Path) -> Path:
    """A state directory with one instance in two contents, and one in quarantine."""
    database = open_database(f"sqlite:///{tmp_path / 'state' / 'node.sqlite'}")
    note(database, arriving(digest="a" * 64))
    note(database, arriving(digest="b" * 64))
    for study, reason in (("1.2.3", "another patient"), ("1.2.9", "known in another study")):
        with database.write() as connection:
            add_to_quarantine(
                connection, arriving(study, "1.2.3.7", digest="c" * 64), reason=reason, now=NOON
            )
    database.close()
    return tmp_path


def test_quarantined_instances_stand_among_the_studies_with_their_reason(worked: Path) -> None:
    rows = json.loads(run(worked, "studies", "--json").stdout)

    assert [(row["state"], row["study_instance_uid"]) for row in rows] == [
        ("queued", "1.2.3"),
        ("quarantined", "1.2.3"),
        ("quarantined", "1.2.9"),
    ]
    assert rows[1]["reason"] == "another patient"
    assert rows[1]["sop_instance_uid"] == "1.2.3.7"
    assert rows[1]["accession_number"] == "ACC1"
    assert rows[1]["received_at"] == NOON.isoformat()
    assert set(rows[0]) <= set(rows[1]) | {"study_at"}
    assert "another patient" in run(worked, "studies").stdout


def test_a_study_shows_every_content_of_every_instance_and_what_is_quarantined(
    worked: Path,
) -> None:
    [study] = json.loads(run(worked, "studies", "show", "1.2.3", "--json").stdout)

    assert [(each["sop_instance_uid"], each["digest"]) for each in study["instances"]] == [
        ("1.2.3.1", "a" * 64),
        ("1.2.3.1", "b" * 64),
    ]
    assert {"sop_class_uid", "received_at"} <= set(study["instances"][0])
    [quarantined] = study["quarantined"]
    assert quarantined["sop_instance_uid"] == "1.2.3.7"
    [alone] = json.loads(run(worked, "studies", "show", "1.2.9", "--json").stdout)
    assert (alone["state"], alone["instances"]) == ("quarantined", [])
    shown = run(worked, "studies", "show", "1.2.9").stdout
    assert "known in another study" in shown


def test_a_quarantined_instance_is_not_retried(worked: Path) -> None:
    failed = run(worked, "studies", "retry", "1.2.9")

    assert failed.returncode == 1
    assert "no study with this UID has ended" in failed.stderr


def test_a_study_whose_rows_are_damaged_is_shown_with_that(worked: Path) -> None:
    damage(worked / "state" / "node.sqlite", "instances", "digest")

    [study] = json.loads(run(worked, "studies", "show", "1.2.3", "--json").stdout)

    assert study["instances"] == []
    assert "restore the database from a backup" in study["damage"]
