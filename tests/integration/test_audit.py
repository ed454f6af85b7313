"""A whole node tells an auditor when its roles begin and end, here and at a syslog server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.demonstration.local_node import LocalNode
from imaging_node.node.serve import ROLES
from tests.dicom.certificates import authority, certificate
from tests.integration.conftest import wait_until
from tests.node.syslog_server import SyslogServer
from tests.store.auditing import read_all, valid

if TYPE_CHECKING:
    from pathlib import Path


def test_every_role_says_that_it_began_and_that_it_ended(tmp_path: Path) -> None:
    root = authority(tmp_path, "authority")
    client = certificate(tmp_path, root, "client")
    with SyslogServer(certificate(tmp_path, root, "server")) as server:
        syslog = {
            "host": "127.0.0.1",
            "port": server.port,
            "ca": str(client.ca),
            "certificate": str(client.certificate),
            "key": str(client.key),
        }
        with LocalNode(tmp_path, {"audit": {"syslog": syslog}}) as node:
            wait_until(
                lambda: len(server.messages) >= len(ROLES), limit_s=120, what="four messages"
            )
        shipped = [message.partition("\ufeff")[2] for message in server.messages]

    kept = read_all(node.settings.state_directory / "audit")
    assert shipped == kept[: len(shipped)]
    said = [
        (kind.get("originalText"), participant.get("UserName"))
        for message in map(valid, kept)
        for kind in message.iter("EventTypeCode")
        for participant in message.iter("ActiveParticipant")
    ]
    for role in ROLES:
        assert ("Application Start", f"imaging-node: {role}") in said
        assert ("Application Stop", f"imaging-node: {role}") in said
