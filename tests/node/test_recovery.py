"""One node a state directory, and none that begins anew beside what was kept."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import StorageError
from imaging_node.node.recovery import hold_state, recover_state
from imaging_node.node.wiring import open_state
from imaging_node.settings import Settings, free_environment
from imaging_node.store.lock_file import LockFile
from tests.store.arriving import arriving, note

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from imaging_node.store.lock_file import LockFile
lock = LockFile(Path(sys.argv[1]))
lock.share() if sys.argv[2] == "shared" else lock.take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {"state_directory": tmp_path / "state", "spool": {"min_free_bytes": 0}}
    )


@pytest.fixture
def used(settings: Settings) -> Settings:
    """A state directory with one instance in it, used by a process that has ended."""
    subprocess.run(
        [sys.executable, "-c", "from tests.node.test_recovery import fill; fill()"],
        check=True,
        env=free_environment(
            IMAGING_NODE__STATE_DIRECTORY=str(settings.state_directory),
            PYTHONPATH=os.pathsep.join(sys.path),
        ),
    )
    return settings


def fill() -> None:
    database, spool, _ = open_state(Settings())
    note(database, arriving(digest=spool.write(b"instance")))
    database.close()


def holding(path: Path, how: str) -> subprocess.Popen[str]:
    """Another process that holds a lock until it is closed or killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_node_is_refused_until_the_first_is_gone_however_it_went(
    settings: Settings,
) -> None:
    settings.state_directory.mkdir()
    first = holding(settings.state_directory / "node.lock", "alone")

    with pytest.raises(StorageError, match="another node is at work"):
        hold_state(settings)

    first.kill()
    first.wait()
    lock, was_killed = hold_state(settings)
    assert not was_killed
    lock.close()
    _, was_killed = hold_state(settings)
    assert was_killed


def test_a_child_does_not_keep_the_lock_of_a_process_that_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child_of = """
import subprocess, sys
from pathlib import Path
from imaging_node.store.lock_file import LockFile
assert LockFile(Path(sys.argv[1])).take()
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=sys.stdin)
print(child.pid, flush=True)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", child_of, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.wait()

    os.kill(child, 0)  # it lives
    assert LockFile(path).take()
    assert parent.stdin is not None
    parent.stdin.close()


def test_leavings_are_removed_before_a_node_starts_and_work_stays(used: Settings) -> None:
    spool = used.state_directory / "spool"
    [kept] = spool.glob("??/*.dcm")
    unnamed = spool / "00" / f"{'0' * 64}.dcm"
    unnamed.parent.mkdir(exist_ok=True)
    unnamed.write_bytes(b"never acknowledged")
    os.utime(unnamed, (0, 0))

    recover_state(used)

    assert kept.exists()
    assert not unnamed.exists()


def test_while_another_process_uses_the_spool_young_files_stay(used: Settings) -> None:
    spool = used.state_directory / "spool"
    young = spool / "00" / f"{'0' * 64}.dcm"
    young.parent.mkdir(exist_ok=True)
    young.write_bytes(b"its row is under way")
    dead = spool / "00" / "4194303.1.part"
    dead.write_bytes(b"cut short")
    other = holding(used.state_directory / "spool.lock", "shared")

    recover_state(used)

    assert young.exists()
    assert not dead.exists()
    other.kill()
    other.wait()


def test_a_process_that_opened_the_state_counts_as_a_writer_as_long_as_it_lives(
    settings: Settings,
) -> None:
    database, _, _ = open_state(settings)
    database.close()

    assert not LockFile(settings.state_directory / "spool.lock").take()


@pytest.mark.parametrize("left", ["nothing", "an empty file", "no journal"])
def test_a_database_that_is_gone_is_never_replaced_by_an_empty_one(
    used: Settings, left: str
) -> None:
    location = used.state_directory / "node.sqlite"
    if left == "no journal":
        location.with_name("node.sqlite-shm").write_bytes(bytes(32768))
    else:
        location.unlink()
        if left == "an empty file":
            location.touch()

    for start in (recover_state, open_state):
        with pytest.raises(StorageError, match="restore it"):
            start(used)

    assert [*(used.state_directory / "spool").glob("??/*.dcm")]


def test_a_damaged_database_keeps_a_node_from_starting_and_says_what_to_do(
    used: Settings,
) -> None:
    location = used.state_directory / "node.sqlite"
    content = location.read_bytes()
    location.write_bytes(content[: len(content) // 2])

    with pytest.raises(StorageError, match=r"restore node\.sqlite from a backup"):
        recover_state(used)
