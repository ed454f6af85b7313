"""Limits that hold among processes, and never outlive the processes they were counted for."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from imaging_node.dicom import connection_slots
from imaging_node.dicom.connection_slots import ConnectionSlots

if TYPE_CHECKING:
    from pathlib import Path

TAKE_ALL = """
import sys
from pathlib import Path
from imaging_node.dicom.connection_slots import ConnectionSlots
slots = ConnectionSlots(Path(sys.argv[1]), total=2, per_address=2)
assert [slots.take("10.0.0.1") for _ in range(2)] == [0, 1]
print("taken", flush=True)
sys.stdin.read()
"""


def test_limits_are_shared_by_processes_and_end_with_them(tmp_path: Path) -> None:
    path = tmp_path / "associations"
    with subprocess.Popen(
        [sys.executable, "-c", TAKE_ALL, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        slots = ConnectionSlots(path, total=2, per_address=2)
        assert slots.take("10.0.0.2") is None
        other.kill()
    assert slots.take("10.0.0.2") == 0
    slots.close()


def test_a_process_with_the_number_of_one_that_died_does_not_inherit_its_connections(
    tmp_path: Path,
) -> None:
    path = tmp_path / "associations"
    # What a node leaves that was killed with all slots taken; in a container the next one's
    # processes have the same numbers.
    slot = connection_slots._SLOT.pack(os.getpid(), 1, bytes(16))
    path.write_bytes(slot * 2)

    slots = ConnectionSlots(path, total=2, per_address=2)

    assert [slots.take("10.0.0.1") for _ in range(3)] == [0, 1, None]
    slots.close()
