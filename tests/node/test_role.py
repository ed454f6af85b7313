"""What a role process does beside its work."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from imaging_node.settings import free_environment

if TYPE_CHECKING:
    from pathlib import Path

# The disk stops taking what is written, as SQLite tells it, once the role is at work.
BEAT_ON_A_FAILING_DISK = """
import sqlite3
from sqlalchemy import event
from imaging_node.node.role import Role
from imaging_node.node.wiring import open_state
from imaging_node.settings import Settings

def fail(_):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    raise error

settings = Settings()
with Role("score", settings, supervisor_pid=None) as role:
    database, _, _ = open_state(settings)
    event.listen(database._engine, "commit", fail)
    role.start_heartbeat(database)
    assert role.stopping.wait(10)
    assert role.durability_lost.is_set()
"""


def test_a_role_whose_heartbeat_meets_a_failed_fsync_ends_as_after_any_other(
    tmp_path: Path,
) -> None:
    subprocess.run(
        [sys.executable, "-c", BEAT_ON_A_FAILING_DISK],
        check=True,
        timeout=60,
        env=free_environment(
            IMAGING_NODE__STATE_DIRECTORY=str(tmp_path / "state"),
            PYTHONPATH=os.pathsep.join(sys.path),
        ),
    )
