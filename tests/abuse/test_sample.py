"""The quick faults of the abuse test, and some seconds of mutated PDUs, for every change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
# Three minutes of mutated PDUs: ABUSE_PDU_SECONDS=180.
PDU_SECONDS = os.environ.get("ABUSE_PDU_SECONDS", "60")


def abuse(*arguments: str) -> str:
    """What `scripts/abuse-test` prints; fails when a fault ended otherwise than expected."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "abuse_test.py"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_whatever_a_peer_does_the_node_answers_as_it_should_and_is_back_at_its_baseline(
    tool_path: Callable[[str], str],
) -> None:
    tool_path("storescu")
    printed = abuse("--sample", "--pdu-seconds", "5")

    verdicts = dict(re.findall(r"^(\d[\da-d]*) +(ok|FAILED)", printed, re.MULTILINE))
    assert {"15", "16", "17b", "20a", "21", "22a", "23", "25", "26", "27", "28", "31"} <= set(
        verdicts
    )
    assert set(verdicts.values()) == {"ok"}


@pytest.mark.slow
def test_mutated_pdus_of_real_senders_leave_no_dead_listener_and_no_failed_thread(
    tool_path: Callable[[str], str],
) -> None:
    tool_path("dcmsend")
    printed = abuse("--only", "28", "--pdu-seconds", PDU_SECONDS)

    found = re.search(r"([\d,]+) mutated of ([\d,]+) PDUs, ([\d,]+) connections", printed)
    assert found, printed
    mutated, pdus, connections = (int(each.replace(",", "")) for each in found.groups())
    assert pdus > mutated > connections > 100
    assert "0 dead listeners, thread_failures_total 0, 0 such lines" in printed
