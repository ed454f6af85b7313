"""Commands say what they did, and exit as promised."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from imaging_node.settings import free_environment

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
    "models list", "models show", "models verify", "config check", "config show", "config schema",
    "doctor",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_takes_a_settings_file(tmp_path: Path, command: str) -> None:
    shown = run(tmp_path, *command.split(), "--help")

    assert shown.returncode == 0
    assert "--config" in shown.stdout


@pytest.mark.parametrize("listing", ["studies", "deliveries", "worklist", "models list", "doctor"])
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
