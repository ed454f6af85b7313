"""Faults 1 to 3: what the crash test commits, on nodes of its own, beside the one that is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from abuse.fault import Fault
from abuse.ground import expect

if TYPE_CHECKING:
    from abuse.ground import Ground

_CRASH_TEST = Path(__file__).resolve().parents[1] / "crash_test.py"
_LIMIT_S = 600
_MODES = ("kill", "power", "eio")
_WRONG_NODES = (
    "SQLite synchronous=NORMAL",
    "no fsync of files",
    "no fsync of folders",
    "acknowledge first",
)


def _crash(_: Ground) -> str:
    done = subprocess.run(
        [sys.executable, str(_CRASH_TEST), "--sample"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    expect(done.returncode == 0, f"crash-test: {(done.stdout + done.stderr).strip()[-300:]}")
    seen = []
    for mode in _MODES:
        runs, violations = _numbers(done.stdout, mode)[-2:]
        expect(runs > 0 and violations == 0, f"{mode}: {violations} violations in {runs} runs")
        seen.append(f"{mode} {runs} runs")
    for each in _WRONG_NODES:
        expect(_numbers(done.stdout, each)[1] > 0, f"not caught: {each}")
    return f"{', '.join(seen)}, 0 violations, 4 of 4 wrong nodes caught (all: scripts/crash-test)"


def _numbers(printed: str, first_words: str) -> list[int]:
    """The numbers of the line that begins so."""
    match = re.search(rf"^{re.escape(first_words)}\s+(\d[\d ]*\d)", printed, re.MULTILINE)
    return [int(each) for each in match[1].split()] if match else [0, 0]


CRASH_FAULTS = (
    Fault(
        number="1-3",
        what="kill -9, power loss, failing fsync: the crash test's sample",
        expected="I1-I5 after each restart, wrong nodes caught",
        commit=_crash,
        is_sampled=False,
    ),
)
