"""Every audit message reaches the syslog server, in order, whatever happens to the server."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from imaging_node.demonstration.local_node import free_ports
from imaging_node.node.audit_shipping import AuditShipper
from imaging_node.settings import SyslogSettings, TlsSettings
from imaging_node.store.audit_log import AuditLog
from tests.dicom.certificates import Authority, authority, certificate
from tests.node.syslog_server import SyslogServer
from tests.store.auditing import entries

if TYPE_CHECKING:
    from pathlib import Path

APPEND_AND_DIE = """
import os, signal, sys
from pathlib import Path
from imaging_node.store.audit_log import AuditLog
from tests.store.auditing import entries
AuditLog(Path(sys.argv[1])).append(entries(*(str(number) for number in range(7))))
os.kill(os.getpid(), signal.SIGKILL)
"""
FRAME = re.compile(
    r"<85>1 \S+ host imaging-node/receive 1 DICOM\+RFC3881 - \ufeff<a>(.*)</a>", re.DOTALL
)


@pytest.fixture
def root(tmp_path: Path) -> Authority:
    return authority(tmp_path, "authority")


@pytest.fixture
def identity(tmp_path: Path, root: Authority) -> TlsSettings:
    return certificate(tmp_path, root, "server")


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit")


def settings(tmp_path: Path, port: int, root: Authority) -> SyslogSettings:
    client = certificate(tmp_path, root, "client")
    return SyslogSettings(
        host="127.0.0.1",
        port=port,
        ca=client.ca,
        certificate=client.certificate,
        key=client.key,
    )


def await_shipped(log: AuditLog, sequence: int, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while log.shipped() < sequence:
        assert time.monotonic() < deadline, f"shipped {log.shipped()} of {sequence}"
        time.sleep(0.02)


def names(server: SyslogServer) -> list[str]:
    matches = [FRAME.fullmatch(message) for message in server.messages]
    assert all(matches), server.messages
    return [match[1] for match in matches if match]


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_messages_arrive_in_order_as_frames_of_the_standard(
    tmp_path: Path, log: AuditLog, root: Authority, identity: TlsSettings, says_goodbye: bool
) -> None:
    with SyslogServer(identity, says_goodbye=says_goodbye) as server:
        log.append(entries("one", "zwei ü", "three"))
        shipper = AuditShipper(log, settings(tmp_path, server.port, root), host="host")
        await_shipped(log, 3)
        log.append(entries("four"))
        await_shipped(log, 4)
        shipper.close()

    assert names(server) == ["one", "zwei ü", "three", "four"]
    assert server.errors == []


def test_a_server_that_was_down_gets_all_of_it_in_order_once_it_is_back(
    tmp_path: Path, log: AuditLog, root: Authority, identity: TlsSettings
) -> None:
    [port] = free_ports(1)
    log.append(entries(*(str(number) for number in range(600))))
    shipper = AuditShipper(log, settings(tmp_path, port, root), host="host")
    log.append(entries(*(str(number) for number in range(600, 1200))))

    with SyslogServer(identity, port=port) as server:
        await_shipped(log, 1200)
        shipper.close()

    assert names(server) == [str(number) for number in range(1200)]


def test_a_server_that_dies_with_messages_unread_gets_them_again(
    tmp_path: Path, log: AuditLog, root: Authority, identity: TlsSettings
) -> None:
    log.append(entries(*(str(number) for number in range(50))))
    with SyslogServer(identity, takes=20) as server:
        shipper = AuditShipper(log, settings(tmp_path, server.port, root), host="host")
        await_shipped(log, 50)
        shipper.close()

    told = [str(number) for number in range(50)]
    assert names(server) == [*told[:20], *told]


def test_what_a_killed_process_had_appended_is_shipped_by_the_next(
    tmp_path: Path, log: AuditLog, root: Authority, identity: TlsSettings
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", APPEND_AND_DIE, str(tmp_path / "audit")], check=False
    )
    assert killed.returncode == -9
    with SyslogServer(identity) as server:
        shipper = AuditShipper(log, settings(tmp_path, server.port, root), host="host")
        await_shipped(log, 7)
        shipper.close()

    assert names(server) == [str(number) for number in range(7)]


def test_a_server_of_another_authority_is_told_nothing(
    tmp_path: Path, log: AuditLog, root: Authority
) -> None:
    stranger = certificate(
        tmp_path, authority(tmp_path, "stranger"), "impostor", ca=root.certificate_path
    )
    log.append(entries("one"))
    with SyslogServer(stranger) as server:
        shipper = AuditShipper(log, settings(tmp_path, server.port, root), host="host")
        deadline = time.monotonic() + 20
        while len(server.errors) < 2:  # it was tried, and tried again
            assert time.monotonic() < deadline
            time.sleep(0.02)
        shipper.close()

    assert server.messages == []
    assert log.shipped() == 0
    assert set(server.errors) == {"SSLError"}


def test_a_server_with_the_certificate_of_another_address_is_told_nothing(
    tmp_path: Path, log: AuditLog, root: Authority
) -> None:
    log.append(entries("one"))
    elsewhere = certificate(tmp_path, root, "elsewhere", hosts=("192.0.2.1",))
    with SyslogServer(elsewhere) as server:
        shipper = AuditShipper(log, settings(tmp_path, server.port, root), host="host")
        deadline = time.monotonic() + 20
        while not server.errors:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        shipper.close()

    assert server.messages == []
    assert log.shipped() == 0
