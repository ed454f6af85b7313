"""A few of the numbered crash points, and every node that is wrong on purpose."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imaging_node.settings import free_environment

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "scripts" / "crash_test.py")]


def rows(printed: str) -> dict[str, list[int]]:
    """The numbers of each line of the tables, by its first words."""
    found = {}
    for line in printed.splitlines():
        match = re.match(r"(\D+?)\s{2,}(\d[\d ]*\d)(?:\s{2,}\D.*)?$", line)
        if match:
            found[match[1]] = [int(number) for number in match[2].split()]
    return found


@pytest.mark.slow
def test_no_promise_is_broken_at_a_sample_of_the_points_and_every_wrong_node_is_caught(
    tool_path: Callable[[str], str],
) -> None:
    tool_path("cc")
    done = subprocess.run(
        [*COMMAND, "--sample"],
        cwd=ROOT,
        env=free_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(done.stdout)
    for mode in ("kill", "power", "eio", "enospc"):
        *cells, runs, violations = table[mode]
        assert all(cells[1:4]), done.stdout  # receive, score and deliver
        assert runs == sum(cells)
        assert violations == 0
    for variant in (
        "SQLite synchronous=NORMAL",
        "no fsync of files",
        "no fsync of folders",
        "acknowledge first",
    ):
        runs, caught = table[variant]
        assert 1 <= caught <= runs


def test_the_kills_at_random_moments_break_no_promise_either() -> None:
    done = subprocess.run(
        [*COMMAND, "--random-for", "15", "--seed", "4"],
        env=free_environment(PYTHONPATH=str(ROOT)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "no promise was broken" in done.stdout
    kills, studies = re.findall(r"(\d+) (?:kills|studies)", done.stdout)
    assert int(kills) > 3
    assert int(studies) > 3
