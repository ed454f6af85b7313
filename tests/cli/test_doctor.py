"""`doctor` says how far decoders are confined on the machine that it runs on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from imaging_node.settings import free_environment

ROOT = Path(__file__).resolve().parents[2]
# Both hold for the program that comes after, as for all that it starts.
OTHER_PROCESSOR = "ctypes.CDLL(None).personality(8)  # PER_LINUX32: another name for it"
NO_MORE_FILTERS = """
from imaging_node import confinement as c
seccomp = c._ARCHITECTURES[platform.machine()].seccomp
steps = [
    (c._LOAD, 0, 0, c._NUMBER_AT),
    *c._by_argument(seccomp, 0, c._if(c._EQUAL, c._FILTER_MODE, c._REFUSE), c._ALLOW),
    (c._RETURN, 0, 0, c._ALLOW),
]
packed = b"".join(struct.pack("HBBI", *each) for each in steps)
program = c._Program(len(steps), packed)
library = ctypes.CDLL(None)
assert library.prctl(c._NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
assert library.syscall(seccomp, c._FILTER_MODE, 0, ctypes.byref(program)) == 0
"""


def seen(state: Path, machine: str = "") -> tuple[dict[str, Any], int]:
    """The row of confinement, and how `doctor` exits on a machine that is made so before."""
    code = (
        f"import ctypes, os, platform, struct, sys\n{machine}\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'imaging_node', 'doctor', '--json'])"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        cwd=state,
        env=free_environment(
            IMAGING_NODE__STATE_DIRECTORY=str(state / "state"), PYTHONPATH=str(ROOT)
        ),
    )
    [row] = [each for each in json.loads(asked.stdout) if each["what"].startswith("confinement")]
    return row, asked.returncode


def test_decoders_are_confined_on_a_machine_that_takes_the_filter(tmp_path: Path) -> None:
    row, status = seen(tmp_path)
    assert row["is_sound"]
    assert "no network" in row["found"]
    assert status == 0


def test_a_processor_without_a_filter_is_worth_a_note_for_images_are_decoded(
    tmp_path: Path,
) -> None:
    row, status = seen(tmp_path, OTHER_PROCESSOR)
    assert (row["is_sound"], row["is_fault"]) == (False, False)
    assert "decoded without" in row["found"]
    assert status == 0


def test_a_kernel_that_refuses_the_filter_is_a_fault_for_no_image_is_decoded(
    tmp_path: Path,
) -> None:
    row, status = seen(tmp_path, NO_MORE_FILTERS)
    assert row["is_fault"]
    assert "no image is decoded" in row["found"]
    assert status == 1
