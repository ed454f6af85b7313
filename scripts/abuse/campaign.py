"""All faults, one after the other, and the table of what came of them."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abuse.echo import LIMIT_MS, EchoProbe
from abuse.fault import Fault
from abuse.ground import Ground, UnexpectedError
from abuse.levels import MIB, MemoryPeak, await_baseline, levels
from abuse.sending import warm_up
from imaging_node.domain.errors import ImagingNodeError
from imaging_node.telemetry import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from abuse.fault import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one fault.

    Attributes:
        seen: What the node did.
        failure: What it should not have done; "" when all was as expected.
        slowest_echo_ms: Of the honest peer; None when nobody asked.
        grown_bytes: How much the receiver's memory grew at most.
        back_after_s: How long threads, descriptors, memory and files took to be back.
    """

    fault: Fault
    seen: str
    failure: str
    seconds: float
    slowest_echo_ms: float | None = None
    grown_bytes: int | None = None
    back_after_s: float | None = None

    def line(self) -> str:
        """For the table."""
        fault = self.fault
        verdict = "FAILED" if self.failure else "ok"
        echoes = "-" if self.slowest_echo_ms is None else f"{self.slowest_echo_ms:.0f}"
        grown = "-" if self.grown_bytes is None else f"{self.grown_bytes / MIB:+.0f}"
        back = "-" if self.back_after_s is None else f"{self.back_after_s:.1f}"
        return (
            f"{fault.number:<4} {verdict:<6} {echoes:>5} {grown:>5} {back:>5} {self.seconds:>5.0f}"
            f"  {fault.what} | {fault.expected} | {self.failure or self.seen}"
        )


HEADING = (
    f"{'no.':<4} {'':<6} {'echo':>5} {'mem':>5} {'back':>5} {'time':>5}"
    "  what | expected | seen\n"
    f"{'':<4} {'':<6} {'ms':>5} {'MiB':>5} {'s':>5} {'s':>5}"
)


def run_scene(
    scene: Scene, faults: Iterable[Fault], folder: Path, tell: Callable[[str], None]
) -> list[Outcome]:
    """Commit faults against one node, in order."""
    outcomes = []
    with scene(folder) as ground:
        if not ground.is_fresh:
            warm_up(ground)
        for fault in faults:
            outcome = _commit(fault, ground)
            tell(outcome.line())
            outcomes.append(outcome)
    return outcomes


def _commit(fault: Fault, ground: Ground) -> Outcome:
    begun_s = time.monotonic()
    before = levels(ground)
    failed_threads = len(ground.events(Event.THREAD_FAILED))
    failures: list[str] = []
    seen, back_after_s = "", None
    with MemoryPeak(ground) as memory:
        probe = EchoProbe(ground)
        if fault.answers_echo:
            with probe:
                seen = _attempt(fault, ground, failures)
            failures += _echo_failures(probe)
        else:
            seen = _attempt(fault, ground, failures)
    grown_bytes = memory.peak_bytes - before["receive"].resident_bytes
    if fault.most_memory_mib is not None and grown_bytes > fault.most_memory_mib * MIB:
        failures.append(f"the receiver grew by {grown_bytes / MIB:.0f} MiB")
    if fault.answers_echo:
        try:
            back_after_s = await_baseline(ground, before, may_restart=False)
        except UnexpectedError as error:
            failures.append(str(error))
    new_failures = ground.events(Event.THREAD_FAILED)[failed_threads:]
    if new_failures:
        places = sorted({f"{each['error']} at {each['where']}" for each in new_failures})
        failures.append(f"{len(new_failures)} threads failed: {', '.join(places)}")
    return Outcome(
        fault=fault,
        seen=seen,
        failure="; ".join(failures),
        seconds=time.monotonic() - begun_s,
        slowest_echo_ms=probe.slowest_ms if fault.answers_echo else None,
        grown_bytes=grown_bytes,
        back_after_s=back_after_s,
    )


def _attempt(fault: Fault, ground: Ground, failures: list[str]) -> str:
    try:
        return fault.commit(ground)
    except (UnexpectedError, ImagingNodeError, OSError, AssertionError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        failures.append(f"{error} ({place.name})" if str(error) else repr(error))
        return ""


def _echo_failures(probe: EchoProbe) -> list[str]:
    failures = []
    if probe.failures:
        failures.append(f"{len(probe.failures)} C-ECHO unanswered: {probe.failures[0]}")
    if probe.slowest_ms > LIMIT_MS:
        failures.append(f"C-ECHO took {probe.slowest_ms:.0f} ms")
    return failures


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line on all of them."""
    failed = [each.fault.number for each in outcomes if each.failure]
    slowest = max((each.slowest_echo_ms or 0 for each in outcomes), default=0)
    return (
        f"{len(outcomes)} faults, {len(failed)} not as expected"
        f"{': ' + ', '.join(failed) if failed else ''}; slowest C-ECHO {slowest:.0f} ms"
    )
