"""The local audit log keeps its lines whole, numbered and in order."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from imaging_node.store.audit_log import AuditLog
from tests.store.auditing import entries, read_all

if TYPE_CHECKING:
    from pathlib import Path

APPEND_100_BATCHES = """
import sys
from pathlib import Path
from imaging_node.store.audit_log import AuditEntry, AuditLog
folder, name = sys.argv[1:]
log = AuditLog(Path(folder), maximum_file_bytes=4000)
for number in range(0, 300, 3):
    log.append([AuditEntry(occurred_at="now", role="score", pid=1, xml=f"{name} {number + each}")
                for each in range(3)])
"""


def test_several_processes_append_whole_numbered_lines_each_in_its_order(tmp_path: Path) -> None:
    names = ("first", "second", "third")
    running = [
        subprocess.Popen([sys.executable, "-c", APPEND_100_BATCHES, str(tmp_path / "audit"), name])
        for name in names
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]

    batch = AuditLog(tmp_path / "audit").read_after(0, limit=10_000)

    assert [record.sequence for record in batch.records] == list(range(1, 901))
    assert batch.damaged == 0
    for name in names:
        said = [record.entry.xml for record in batch.records if record.entry.xml.startswith(name)]
        assert said == [f"{name} {number}" for number in range(300)]
    assert len(list((tmp_path / "audit").glob("audit-*.log"))) > 3


@pytest.mark.parametrize("torn", [b"3 0123", b"3 ", b"\xff\xfe\x00", b"\n\n", b"3 a b\n4 c"])
def test_a_tail_torn_by_a_power_failure_is_skipped_and_ends_nothing(
    tmp_path: Path, torn: bytes
) -> None:
    log = AuditLog(tmp_path)
    log.append(entries("one", "two"))
    [file] = tmp_path.glob("audit-*.log")
    with file.open("ab") as tail:
        tail.write(torn)

    AuditLog(tmp_path).append(entries("three"))

    assert read_all(tmp_path) == ["<a>one</a>", "<a>two</a>", "<a>three</a>"]
    records = log.read_after(2, limit=9).records
    assert [record.sequence for record in records] == [3]


def test_a_line_that_was_changed_is_skipped_and_counted_once(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.append(entries("one", "two", "three"))
    [file] = tmp_path.glob("audit-*.log")
    file.write_bytes(file.read_bytes().replace(b"<a>two", b"<a>TWO"))

    seen = [log.read_after(0, limit=9), log.read_after(3, limit=9), log.read_after(3, limit=9)]

    assert [record.sequence for record in seen[0].records] == [1, 3]
    assert sum(each.damaged for each in seen) == 1


def test_what_comes_later_is_read_behind_what_was_read(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, maximum_file_bytes=200)
    told: list[str] = []
    for number in range(40):
        log.append(entries(str(number)))
        batch = log.read_after(len(told), limit=3)
        told += [record.entry.xml for record in batch.records]

    assert told == [f"<a>{number}</a>" for number in range(40)]


def test_archived_files_are_not_missed_and_numbers_go_on(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, maximum_file_bytes=1)
    for name in ("one", "two", "three"):
        log.append(entries(name))
    log.note_shipped(3)
    first, second, third = sorted(tmp_path.glob("audit-*.log"))
    first.unlink()
    second.unlink()
    assert [record.sequence for record in log.read_after(0, limit=9).records] == [3]

    third.unlink()  # even that one
    log.append(entries("four"))

    assert [record.sequence for record in log.read_after(3, limit=9).records] == [4]


def test_only_the_user_of_the_node_can_read_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    log.append(entries("one"))
    log.note_shipped(1)

    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "audit").iterdir()}
    assert modes == {0o600}
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700


def test_the_note_of_what_was_shipped_survives_and_a_damaged_one_ships_all_again(
    tmp_path: Path,
) -> None:
    AuditLog(tmp_path).note_shipped(41)
    assert AuditLog(tmp_path).shipped() == 41

    (tmp_path / "shipped").write_bytes(b"\x00\x00")
    assert AuditLog(tmp_path).shipped() == 0
