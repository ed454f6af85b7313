"""What a running node answered, read as an operator and a PACS would."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from imaging_node.settings import free_environment
from tests.integration.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Collection

    from imaging_node.demonstration.local_node import LocalNode

FINAL = {"done", "not_analysed", "not_applicable", "failed"}


def command(node: LocalNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `imaging-node` with the node's settings."""
    return subprocess.run(
        [sys.executable, "-m", "imaging_node", *arguments, "--config", str(node.config)],
        capture_output=True,
        text=True,
        check=False,
        env=free_environment(),
    )


def listing(node: LocalNode, *arguments: str) -> list[dict[str, Any]]:
    """A JSON listing of the node."""
    shown = command(node, *arguments, "--json")
    assert shown.returncode == 0, shown.stderr
    rows: list[dict[str, Any]] = json.loads(shown.stdout)
    return rows


def await_answers(
    node: LocalNode, study_uids: Collection[str], *, limit_s: float = 60
) -> dict[str, dict[str, Any]]:
    """Worklist rows of the studies once all have ended and nothing waits for delivery."""
    rows: dict[str, dict[str, Any]] = {}

    def all_answered() -> bool:
        rows.update({row["study_instance_uid"]: row for row in listing(node, "worklist")})
        ended = all(uid in rows and rows[uid]["state"] in FINAL for uid in study_uids)
        return ended and not any(row["state"] == "waiting" for row in listing(node, "deliveries"))

    wait_until(all_answered, limit_s=limit_s, what="every study answered and delivered")
    return rows
