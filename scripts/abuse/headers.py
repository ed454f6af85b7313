"""Fault 29, the many: mutated datasets at the reader of headers, without a network between."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from abuse.mutation import mutated
from imaging_node.dicom.headers import read_header
from imaging_node.domain.errors import RejectedInstanceError

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOWEST_S = 10.0
_BATCH = 5000


@dataclass(slots=True)
class Reading:
    """What became of mutated datasets.

    Attributes:
        outcomes: How many were accepted ("accepted"), or refused with which status.
        defects: Exceptions that are no refusal, by kind and the seed that made them.
        slowest_s: Longest time that one took.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, other: Reading) -> None:
        """Count what another process saw."""
        for name, count in other.outcomes.items():
            self.outcomes[name] = self.outcomes.get(name, 0) + count
        self.defects += other.defects
        self.slowest_s = max(self.slowest_s, other.slowest_s)


def read_mutated(seeds: Sequence[tuple[bytes, str]], count: int, *, seed: int) -> Reading:
    """Mutate datasets of these encodings so many times, on all processors."""
    total = Reading()
    # A new interpreter: the node under test and its probe run threads in this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        batches = range(0, count, _BATCH)
        read = partial(_read_batch, list(seeds), count=min(count, _BATCH))
        for each in pool.map(read, [seed * 1_000_003 + begin for begin in batches]):
            total.add(each)
    return total


def _read_batch(seeds: Sequence[tuple[bytes, str]], seed: int, *, count: int) -> Reading:
    warnings.simplefilter("ignore")  # as in the roles: pydicom warns of each unknown encoding
    chance, reading = random.Random(seed), Reading()  # noqa: S311 - repeatable
    for number in range(count):
        dataset, syntax = chance.choice(seeds)
        changed = mutated(dataset, chance)
        begun_s = time.perf_counter()
        try:
            read_header(changed, transfer_syntax_uid=syntax)
            outcome = "accepted"
        except RejectedInstanceError as error:
            outcome = f"{error.status:04X}"
        except Exception as error:  # noqa: BLE001 - whatever else comes is what is looked for
            outcome = "defect"
            reading.defects.append(f"{type(error).__name__} at number {number} of seed {seed}")
        reading.slowest_s = max(reading.slowest_s, time.perf_counter() - begun_s)
        reading.outcomes[outcome] = reading.outcomes.get(outcome, 0) + 1
    return reading
