"""All trials: which points, side by side, and the table of what came of them."""

from __future__ import annotations

import itertools
import queue
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from crash.shim import Fault, Mode, Phase
from crash.trial import Stage, TrialOutcome
from crash.variants import WRONG, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path


_SHOWN_VIOLATIONS = 20
_TRIES = 3
# A point that is never reached: the restart that comes before it is all that happens.
RESTART_ALONE = Fault(mode=Mode.KILL, phase=Phase.RESTART, number=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One trial to be run."""

    fault: Fault | None
    variant: Variant = Variant.AS_DESIGNED


class Campaign:
    """Owns stages that run trials side by side; a context manager."""

    def __init__(self, folder: Path, library: Path, *, stages: int) -> None:
        self._folder = folder
        self._library = library
        self._numbers = itertools.count(1)
        self._stages = stages
        self._free: queue.SimpleQueue[Stage] = queue.SimpleQueue()
        self._owned = ExitStack()

    def __enter__(self) -> Self:
        for _ in range(self._stages):
            self._free.put(self._owned.enter_context(Stage(self._folder, self._library)))
        return self

    def __exit__(self, *error: object) -> None:
        self._owned.close()

    def run(
        self, orders: Iterable[Order], *, on_outcome: Callable[[TrialOutcome], None]
    ) -> list[TrialOutcome]:
        """Run all trials, `on_outcome` after each."""
        with ThreadPoolExecutor(self._stages) as pool:
            outcomes = []
            for outcome in pool.map(self._run_one, orders):
                on_outcome(outcome)
                outcomes.append(outcome)
        return outcomes

    def _run_one(self, order: Order) -> TrialOutcome:
        stage = self._free.get()
        try:
            outcome = stage.run(next(self._numbers), order.fault, order.variant)
            for _ in range(_TRIES):
                if order.fault in (None, RESTART_ALONE) or outcome.is_hit or outcome.violations:
                    break
                # Threads share some calls: their number differs a little from run to run.
                fault = replace(order.fault, number=order.fault.number * 9 // 10)
                order = replace(order, fault=fault)
                outcome = stage.run(next(self._numbers), fault, order.variant)
            return outcome
        finally:
            self._free.put(stage)


def dry_runs() -> list[Order]:
    """Runs without a fault. The first two count the points, one of them over a restart.

    The others show that the wrong variants keep every promise as long as nothing happens.
    """
    return [
        Order(fault=None),
        Order(fault=RESTART_ALONE),
        *(Order(fault=None, variant=each) for each in WRONG),
    ]


def faults(dry: Sequence[TrialOutcome], *, points: int) -> list[Order]:
    """At most `points` evenly spread points of every mode and phase; 0: every point."""
    orders = []
    for mode, phase in itertools.product(Mode, Phase):
        total = dry[phase is Phase.RESTART].tally.counts[phase][mode.group]
        orders += [
            Order(fault=Fault(mode=mode, phase=phase, number=number))
            for number in _spread(total, points)
        ]
    return orders


def wrong_nodes(dry: Sequence[TrialOutcome], *, points: int) -> list[Order]:
    """The four wrong variants, each at points where it should break its promise."""
    orders = []
    for variant in WRONG:
        mode = Mode.KILL if variant is Variant.ACKNOWLEDGE_FIRST else Mode.POWER
        total = dry[0].tally.counts[Phase.RECEIVE][mode.group]
        orders += [
            Order(fault=Fault(mode=mode, phase=Phase.RECEIVE, number=number), variant=variant)
            # At the first nothing was acknowledged yet.
            for number in _spread(total, points + 1)[1:]
        ]
    return orders


def table(outcomes: Sequence[TrialOutcome]) -> list[str]:
    """Runs by mode and phase, and their violations."""
    runs: Counter[tuple[Mode, Phase]] = Counter()
    broken: Counter[Mode] = Counter()
    missed = 0
    for outcome in outcomes:
        if outcome.fault is None:
            continue
        broken[outcome.fault.mode] += bool(outcome.violations)
        if outcome.is_hit:
            runs[outcome.fault.mode, outcome.fault.phase] += 1
        else:
            missed += 1
    lines = [
        f"{'mode':<8}"
        + "".join(f"{phase.name.lower():>9}" for phase in Phase)
        + f"{'runs':>7}{'violations':>12}"
    ]
    for mode in Mode:
        cells = [runs[mode, phase] for phase in Phase]
        lines.append(
            f"{mode:<8}"
            + "".join(f"{cell:>9}" for cell in cells)
            + f"{sum(cells):>7}{broken[mode]:>12}"
        )
    lines.append(
        f"{'all':<8}" + " " * 9 * len(Phase) + f"{sum(runs.values()):>7}{sum(broken.values()):>12}"
    )
    if missed:
        lines.append(f"{missed} more runs ended before their point was reached")
    return lines


def variant_table(outcomes: Sequence[TrialOutcome]) -> tuple[list[str], bool]:
    """Runs of each wrong variant that broke a promise, and whether every variant did."""
    by_variant: dict[Variant, list[TrialOutcome]] = defaultdict(list)
    for outcome in outcomes:
        by_variant[outcome.variant].append(outcome)
    lines = [f"{'wrong on purpose':<28}{'runs':>6}{'caught':>8}  first broken promise"]
    are_all_caught = True
    for variant in WRONG:
        ran = by_variant[variant]
        caught = [each for each in ran if each.violations]
        are_all_caught &= bool(caught)
        first = caught[0].violations[0] if caught else "NOT CAUGHT"
        lines.append(f"{variant:<28}{len(ran):>6}{len(caught):>8}  {first[:70]}")
    return lines, are_all_caught


def explain(outcomes: Sequence[TrialOutcome]) -> list[str]:
    """The broken promises, the first twenty."""
    lines = [
        f"{_name(outcome)}: {violation}" for outcome in outcomes for violation in outcome.violations
    ]
    more = len(lines) - _SHOWN_VIOLATIONS
    return [*lines[:_SHOWN_VIOLATIONS], *([f"and {more} more"] if more > 0 else [])]


def _name(outcome: TrialOutcome) -> str:
    fault = outcome.fault
    if fault is None:
        return "no fault"
    return f"{fault.mode} {fault.phase.name.lower()} {fault.number} ({outcome.what})"


def _spread(total: int, points: int) -> list[int]:
    """Numbers from 1 to `total`: the first, the last and what lies evenly between."""
    if not points or total <= points:
        return list(range(1, total + 1))
    if points == 1:
        return [(total + 1) // 2]
    return sorted({1 + round(index * (total - 1) / (points - 1)) for index in range(points)})
