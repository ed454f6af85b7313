"""Fault 28: PDUs of real senders, mutated and said again to a live listener."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from abuse.fault import Fault
from abuse.ground import Ground, expect
from abuse.recording import record_streams
from imaging_node.telemetry import Event, Metric

_PROCESSES = 8
_SCRIPTS = Path(__file__).resolve().parents[1]
_FOREVER_S, _ANY_NUMBER = 3600.0, 10**9


def pdu_fault(pdus: int, seconds: float, seed: int) -> Fault:
    """So many mutated PDUs, or so many seconds of them if `seconds` is not 0."""
    length = f"{seconds:g} s of" if seconds else f"{pdus:,}"
    return Fault(
        number="28",
        what=f"{length} mutated PDUs of real senders",
        expected="no dead listener, no failed thread",
        commit=partial(
            _replay,
            pdus=_ANY_NUMBER if seconds else pdus,
            seconds=seconds or _FOREVER_S,
            seed=seed,
        ),
    )


def _replay(ground: Ground, *, pdus: int, seconds: float, seed: int) -> str:
    streams = record_streams(ground)
    failures = ground.counted(Metric.THREAD_FAILURES)
    receiver = ground.role("receive").pid
    begun_s = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "abuse.replay"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(_SCRIPTS)},
        )
        for _ in range(_PROCESSES)
    ]
    for number, each in enumerate(processes):
        assert each.stdin is not None
        orders = {
            "port": ground.port,
            "source": f"127.0.0.{20 + number}",
            "streams": [[pdu.hex() for pdu in stream] for stream in streams],
            "pdus": -(-pdus // _PROCESSES),
            "seconds": seconds,
            "seed": seed * 100 + number,
        }
        each.stdin.write(json.dumps(orders).encode())
        each.stdin.close()
    tallies = []
    for each in processes:
        assert each.stdout is not None
        with each.stdout:
            tallies.append(json.loads(each.stdout.read()))
        each.wait()
    elapsed_s = time.monotonic() - begun_s
    total = {name: sum(each[name] for each in tallies) for name in tallies[0]}
    dead = ground.role("receive").pid != receiver
    failed = ground.counted(Metric.THREAD_FAILURES) - failures
    logged = len(ground.events(Event.THREAD_FAILED))
    expect(not dead, "the receiver died")
    expect(not failed, f"thread_failures_total rose by {failed:g}")
    expect(not total["hung"], f"{total['hung']} connections hung")
    expect(
        total["refused"] <= total["connections"] // 100,
        f"{total['refused']} of {total['connections']} connections could not be made",
    )
    return (
        f"{total['mutated']:,} mutated of {total['pdus']:,} PDUs, {total['connections']:,}"
        f" connections, {elapsed_s:.0f} s, 0 dead listeners, thread_failures_total 0,"
        f" {logged} such lines, seed {seed}"
    )
