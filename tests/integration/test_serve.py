"""The supervisor: ready line, restart, drain, and no orphan."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

from imaging_node.demonstration.local_node import LocalNode, free_ports
from imaging_node.inference.bundle import default_bundle_directory
from imaging_node.node.serve import ROLES
from imaging_node.settings import free_environment
from tests.integration.answers import command
from tests.integration.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[LocalNode]:
    with LocalNode(tmp_path, {"study": {"quiet_period_s": 0.5}}) as node:
        yield node


def roles(node: LocalNode) -> dict[str, psutil.Process]:
    """Role processes by title: each a direct child of `serve`."""
    found = {}
    for child in psutil.Process(node.process.pid).children():
        try:
            title = " ".join(child.cmdline())
        except psutil.NoSuchProcess:  # killed a moment ago
            continue
        if title.startswith("imaging-node: "):
            found[title.removeprefix("imaging-node: ").strip()] = child
    return found


def test_each_role_is_a_child_with_its_name_and_a_dead_one_is_back_within_five_seconds(
    served: LocalNode,
) -> None:
    before = roles(served)
    assert set(before) == set(ROLES)

    for role in ROLES:
        before[role].kill()
        wait_until(
            lambda role=role: roles(served).get(role, before[role]).pid != before[role].pid,  # type: ignore[misc]  # bound now
            limit_s=5,
            what=f"{role} restarted",
        )
    dicom = served.settings.dicom
    wait_until(
        lambda: command(served, "echo", f"{dicom.ae_title}@127.0.0.1:{dicom.port}").returncode == 0,
        limit_s=20,
        what="C-ECHO answered after the restart",
    )


def test_sigterm_drains_and_exits_0_within_30_s(served: LocalNode) -> None:
    children = psutil.Process(served.process.pid).children(recursive=True)
    started = time.monotonic()

    served.process.send_signal(signal.SIGTERM)

    assert served.process.wait(timeout=30) == 0
    assert time.monotonic() - started < 30
    assert not [each for each in children if each.is_running()]


def test_a_drained_node_refuses_callers_and_does_not_let_them_wait(served: LocalNode) -> None:
    found = roles(served)
    found["score"].suspend()  # takes longer to end than the receiver
    try:
        served.process.send_signal(signal.SIGTERM)
        found["receive"].wait(timeout=30)

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.settings.dicom.port), timeout=5)
    finally:
        found["score"].resume()


def test_all_roles_are_gone_within_20_s_of_a_killed_serve(served: LocalNode) -> None:
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert len(children) >= len(ROLES)

    served.process.kill()

    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert len(gone) == len(children)


def test_the_ready_line_names_ae_title_port_and_page(tmp_path: Path) -> None:
    dicom_port, web_port = free_ports(2)
    config = tmp_path / "node.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "state_directory": str(tmp_path / "state"),
                "dicom": {"ae_title": "MY_NODE", "port": dicom_port},
                "web": {"port": web_port},
            }
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "imaging_node", "serve", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=free_environment(),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    rest, _ = process.communicate(timeout=30)

    assert re.fullmatch(
        rf"ready: AE title MY_NODE, DICOM 127\.0\.0\.1 port {dicom_port},"
        rf" page http://127\.0\.0\.1:{web_port}/\n",
        line,
    )
    assert rest == ""


def test_a_damaged_bundle_keeps_serve_from_starting_with_one_line(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(default_bundle_directory(), zoo)
    weights = next((zoo / "chest_xray_pneumonia" / "models").glob("*.onnx"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)

    for arguments in (
        ["serve"],
        ["models", "verify"],
        ["models", "verify", "chest_xray_pneumonia"],
    ):
        refused = subprocess.run(
            [sys.executable, "-m", "imaging_node", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=free_environment(
                IMAGING_NODE__MODEL_DIRECTORY=str(zoo),
                IMAGING_NODE__STATE_DIRECTORY=str(tmp_path / "state"),
            ),
        )
        assert refused.returncode == 1
        [line] = refused.stderr.strip().splitlines()
        assert "chest_xray_pneumonia" in line
        assert weights.name in line


def serve_again(node: LocalNode, **variables: str) -> subprocess.CompletedProcess[str]:
    """A second `serve` with the settings of a node."""
    return subprocess.run(
        [sys.executable, "-m", "imaging_node", "serve", "--config", str(node.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=free_environment(**variables),
    )


def test_a_port_in_use_is_told_in_one_line_and_serve_exits_1(
    served: LocalNode, tmp_path: Path
) -> None:
    second = serve_again(served, IMAGING_NODE__STATE_DIRECTORY=str(tmp_path / "other"))

    assert second.returncode == 1
    [line] = second.stderr.strip().splitlines()
    assert f"port {served.settings.dicom.port}" in line


def test_a_second_node_on_the_same_state_directory_is_refused(served: LocalNode) -> None:
    dicom_port, web_port = free_ports(2)
    second = serve_again(
        served,
        IMAGING_NODE__DICOM__PORT=str(dicom_port),
        IMAGING_NODE__WEB__PORT=str(web_port),
    )

    assert second.returncode == 1
    [line] = second.stderr.strip().splitlines()
    assert "another node is at work in the state directory" in line
    assert served.process.poll() is None


def test_after_a_kill_a_new_node_starts_at_once_and_recovers(served: LocalNode) -> None:
    spool = served.settings.state_directory / "spool"
    unnamed = spool / "00" / f"{'0' * 64}.dcm"
    unnamed.parent.mkdir(exist_ok=True)
    unnamed.write_bytes(b"never acknowledged")
    part = spool / "00" / "4194303.1.2.part"
    part.write_bytes(b"never finished")
    served.process.kill()
    served.process.wait()
    started = time.monotonic()
    again = subprocess.Popen(
        [sys.executable, "-m", "imaging_node", "serve", "--config", str(served.config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=free_environment(),
    )
    assert again.stdout is not None
    line = again.stdout.readline()
    ready_after_s = time.monotonic() - started
    again.terminate()
    _, log = again.communicate(timeout=30)

    assert line.startswith("ready"), log
    assert ready_after_s < 30
    assert not part.exists()
    assert not unnamed.exists()
    assert "state directory verified and cleaned" in log


def test_a_missing_database_beside_kept_files_keeps_serve_from_starting(
    served: LocalNode,
) -> None:
    served.process.terminate()
    served.process.wait(timeout=30)
    state = served.settings.state_directory
    kept = state / "spool" / "00" / f"{'0' * 64}.dcm"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"acknowledged")
    for path in state.glob("node.sqlite*"):
        path.unlink()

    refused = serve_again(served)

    assert refused.returncode == 1
    assert "restore it from a backup" in refused.stderr.strip().splitlines()[-1]
    assert kept.exists()
    assert not (state / "node.sqlite").exists()
