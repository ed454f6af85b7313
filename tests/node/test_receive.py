"""What the receive role does to its own process."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

THREADS = """
import ctypes, threading
from imaging_node.node.receive import {name}
{call}
allocated = threading.Barrier(13)
def hold():
    kept = bytearray(100_000)
    allocated.wait()
for _ in range(12):
    threading.Thread(target=hold).start()
allocated.wait()
libc = ctypes.CDLL(None)
libc.malloc_stats()
"""


def heaps(call: str) -> int:
    """Heaps of a process with a dozen threads, by glibc's own account."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS.format(name="_share_heaps", call=call)],
        capture_output=True,
        text=True,
        check=True,
    )
    return len(re.findall(r"^Arena \d+:", done.stderr, re.MULTILINE))


def test_a_dozen_threads_share_two_heaps_where_each_would_have_its_own() -> None:
    apart = heaps("")
    if not apart:
        pytest.skip("the C library is not glibc")

    assert apart > 2
    assert heaps("_share_heaps()") <= 2
