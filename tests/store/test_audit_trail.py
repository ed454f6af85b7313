"""No event is lost, and none holds the node up: floods, full disks, kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from imaging_node.domain.audit import AuditKind
from imaging_node.store.audit_log import AuditLog
from imaging_node.store.audit_trail import DIFFERENT_REFUSALS, AuditTrail
from tests.store.auditing import SOURCE, count_in, event, outcome_words, read_all

if TYPE_CHECKING:
    from pathlib import Path

FLOOD = 5000

# A disk that is full for a while: the kernel refuses to let any file of the process grow.
ON_A_FULL_DISK = """
import io, json, resource, sys, time
from pathlib import Path
from imaging_node.domain.audit import AuditKind
from imaging_node.store.audit_log import AuditLog
from imaging_node.store.audit_trail import WAITING_EVENTS, AuditTrail
from imaging_node.telemetry import configure_logging
from tests.store.auditing import SOURCE, event
said = io.StringIO()
configure_logging("test", stream=said)
trail = AuditTrail(AuditLog(Path(sys.argv[1])), SOURCE, role="receive")
before = trail.record(event(AuditKind.APPLICATION_START), is_durable=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
began = time.monotonic()
for number in range(WAITING_EVENTS + 25):
    trail.record(event(AuditKind.INSTANCES_TRANSFERRED, instances=number))
took_s = time.monotonic() - began
during = trail.flush(1.5)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
after = trail.flush(60)
trail.close()
print(json.dumps([before, during, after, took_s, said.getvalue()]))
"""

RECORD_AND_HANG = """
import sys, threading
from pathlib import Path
from imaging_node.domain.audit import AuditKind
from imaging_node.store.audit_log import AuditLog
from imaging_node.store.audit_trail import AuditTrail
from tests.store.auditing import SOURCE, event
trail = AuditTrail(AuditLog(Path(sys.argv[1])), SOURCE, role="receive")
for number in range(20):
    trail.record(event(AuditKind.INSTANCES_TRANSFERRED, instances=number))
print(trail.record(event(AuditKind.APPLICATION_START), is_durable=True), flush=True)
threading.Event().wait()
"""


def open_trail(folder: Path) -> AuditTrail:
    return AuditTrail(AuditLog(folder), SOURCE, role="receive")


def test_what_was_recorded_is_in_the_log_in_order_once_the_trail_is_closed(tmp_path: Path) -> None:
    trail = open_trail(tmp_path)
    for number in range(1200):
        trail.record(event(AuditKind.APPLICATION_START, reason=str(number)))
    trail.close()

    assert [outcome_words(xml) for xml in read_all(tmp_path)] == [str(n) for n in range(1200)]


def test_what_was_recorded_durably_survives_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RECORD_AND_HANG, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGKILL)

    assert len(read_all(tmp_path)) == 21


def test_a_flood_of_one_refusal_is_a_message_a_second_that_counts_them_all(
    tmp_path: Path,
) -> None:
    trail = open_trail(tmp_path)
    began = time.monotonic()
    for number in range(FLOOD):
        trail.record(
            event(
                outcome=8,
                reason="unknown caller",
                peer_address="192.0.2.7",
                peer_ae_title=f"ANY{number}",
            )
        )
    trail.close()
    elapsed_s = time.monotonic() - began

    messages = read_all(tmp_path)
    assert sum(count_in(xml) for xml in messages) == FLOOD
    assert len(messages) <= 2 + elapsed_s


def test_a_flood_from_everywhere_shares_one_message_beyond_the_first_few(tmp_path: Path) -> None:
    trail = open_trail(tmp_path)
    began = time.monotonic()
    for number in range(FLOOD):
        trail.record(event(outcome=8, peer_address=f"2001:db8::{number:x}", reason="unknown"))
    trail.close()
    elapsed_s = time.monotonic() - began

    messages = read_all(tmp_path)
    assert sum(count_in(xml) for xml in messages) == FLOOD
    assert len(messages) <= (DIFFERENT_REFUSALS + 2) * (1 + elapsed_s)


def test_the_first_refusal_is_written_at_once_and_another_a_second_later(tmp_path: Path) -> None:
    trail = open_trail(tmp_path)
    log = AuditLog(tmp_path)
    trail.record(event(outcome=8, reason="unknown caller"))
    deadline = time.monotonic() + 10
    while not log.read_after(0, limit=9).records:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    trail.record(event(outcome=8, reason="unknown caller"))

    while len(records := log.read_after(0, limit=9).records) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    trail.close()
    assert [count_in(record.entry.xml) for record in records] == [1, 1]
    assert len(read_all(tmp_path)) == 2


def test_a_full_disk_holds_nobody_up_and_the_log_says_how_many_events_it_cost(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    before, during, after, took_s, said = json.loads(done.stdout)

    assert (before, during, after) == (True, False, True)
    assert took_s < 5
    assert "audit log cannot be written" in said
    assert "audit log is written again" in said
    messages = read_all(tmp_path)
    [lost] = [xml for xml in messages if "110133" in xml]
    assert outcome_words(lost).startswith("events lost while the audit log could not be written")
    assert len(messages) + count_in(lost) == 1 + 10_000 + 25 + 1
