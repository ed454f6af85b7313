"""One watched number of one group: its reference, its CUSUMs, its last 200 studies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from imaging_node.inference.drift import (
    CHECK_EVERY,
    WINDOW,
    Cusum,
    Limits,
    QuantityReference,
    RateReference,
    kolmogorov_smirnov,
    population_stability,
    position_cusum,
    rate_cusum,
    share_change,
)
from imaging_node.inference.reference import quantiles_of

CUSUM_UP, CUSUM_DOWN, CUSUM_SPREAD, KS, PSI, SHARE = (
    "cusum_up", "cusum_down", "cusum_spread", "ks", "psi", "share",
)  # fmt: skip
"""Every statistic, by the name that alarms and metrics use."""

# About the last 200 studies.
_RECENT_WEIGHT = 0.01
# A CUSUM's alarm ends when it is back at its beginning, a window's at half of its threshold.
_CLEARED = {CUSUM_UP: 0.0, CUSUM_DOWN: 0.0, CUSUM_SPREAD: 0.0, KS: 0.5, PSI: 0.5, SHARE: 0.5}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one statistic says now; it raises an alarm from `threshold` on."""

    value: float
    threshold: float

    def is_over(self) -> bool:
        """Whether it raises an alarm."""
        return self.value >= self.threshold

    def is_cleared(self, statistic: str) -> bool:
        """Whether it ends an alarm."""
        return self.value <= _CLEARED[statistic] * self.threshold


@dataclass(slots=True)
class QuantityStream:
    """A quantity's stream; without a reference its first values become one.

    Attributes:
        baseline: How many.
        studies: Values so far, those of the baseline included.
        recent: Mean of about the last 200.
        bins: Bins of the last 200 since there is a reference.
    """

    baseline: int
    reference: QuantityReference | None = None
    collected: list[float] = field(default_factory=list)
    studies: int = 0
    recent: float = 0.0
    mean: Cusum | None = None
    spread: Cusum | None = None
    bins: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    window: dict[str, Reading] = field(default_factory=dict)

    def add(self, value: float, limits: Limits) -> None:
        """Take the value of one study."""
        self.studies += 1
        self.recent += max(_RECENT_WEIGHT, 1 / self.studies) * (value - self.recent)
        if self.reference is None:
            self.collected.append(value)
            if len(self.collected) >= self.baseline:
                values = quantiles_of(self.collected)
                self.reference = QuantityReference(len(self.collected), values)
                self.collected.clear()
            return
        if self.mean is None or self.spread is None:
            self.mean = position_cusum(self.reference, limits)
            self.spread = position_cusum(self.reference, limits)
        position = self.reference.position(value)
        self.mean.add(position, limits.cusum)
        self.spread.add(abs(2 * position - 1), limits.cusum)
        self.bins.append(self.reference.bin_of(value))
        if len(self.bins) == WINDOW and not self.studies % CHECK_EVERY:
            ks = kolmogorov_smirnov(self.bins, self.reference, limits)
            psi = population_stability(self.bins, self.reference, limits)
            self.window = {KS: Reading(*ks), PSI: Reading(*psi)}

    def forget_evidence(self) -> None:
        """Begin the CUSUMs and the window anew."""
        self.mean = self.spread = None
        self.bins.clear()
        self.window = {}

    def readings(self, limits: Limits) -> dict[str, Reading]:
        """What each statistic says now; nothing before there is a reference."""
        if self.mean is None or self.spread is None:
            return {}
        return {
            CUSUM_UP: Reading(self.mean.up, limits.cusum),
            CUSUM_DOWN: Reading(self.mean.down, limits.cusum),
            CUSUM_SPREAD: Reading(self.spread.up, limits.cusum),
            **self.window,
        }

    def to_plain(self) -> dict[str, Any]:
        """For JSON; `quantity_stream` reads it."""
        reference = self.reference
        return {
            "reference": None if reference is None else [reference.images, reference.quantiles],
            "collected": self.collected,
            "studies": self.studies,
            "recent": self.recent,
            "sums": [each and [each.up, each.down] for each in (self.mean, self.spread)],
            # A letter a study: there may be hundreds of streams.
            "bins": "".join(chr(97 + each) for each in self.bins),
            "window": {name: [each.value, each.threshold] for name, each in self.window.items()},
        }


def quantity_stream(plain: dict[str, Any], baseline: int, limits: Limits) -> QuantityStream:
    """The stream that was made plain.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    stream = QuantityStream(
        baseline=baseline,
        collected=[float(each) for each in plain["collected"]],
        studies=int(plain["studies"]),
        recent=float(plain["recent"]),
        bins=deque((ord(each) - 97 for each in plain["bins"]), maxlen=WINDOW),
        window={name: Reading(*map(float, each)) for name, each in plain["window"].items()},
    )
    if plain["reference"] is not None:
        images, values = plain["reference"]
        stream.reference = QuantityReference(int(images), tuple(float(each) for each in values))
        mean, spread = plain["sums"]
        if mean and spread:
            stream.mean = _filled(position_cusum(stream.reference, limits), mean)
            stream.spread = _filled(position_cusum(stream.reference, limits), spread)
    return stream


@dataclass(slots=True)
class RateStream:
    """The stream of what is so or not so of a study; fields as in `QuantityStream`."""

    baseline: int
    reference: RateReference | None = None
    total: float = 0.0
    studies: int = 0
    recent: float = 0.0
    share: Cusum | None = None
    values: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    window: dict[str, Reading] = field(default_factory=dict)

    def add(self, value: float, limits: Limits) -> None:
        """Take the value of one study, in [0, 1]: 1 if it is so of all its images."""
        self.studies += 1
        self.recent += max(_RECENT_WEIGHT, 1 / self.studies) * (value - self.recent)
        if self.reference is None:
            self.total += value
            if self.studies >= self.baseline:
                self.reference = RateReference(self.studies, self.total / self.studies)
            return
        if self.share is None:
            self.share = rate_cusum(self.reference, limits)
        self.share.add(value, limits.cusum)
        self.values.append(value)
        if len(self.values) == WINDOW and not self.studies % CHECK_EVERY:
            self.window = {SHARE: Reading(*share_change(self.values, self.reference, limits))}

    def forget_evidence(self) -> None:
        """Begin the CUSUM and the window anew."""
        self.share = None
        self.values.clear()
        self.window = {}

    def readings(self, limits: Limits) -> dict[str, Reading]:
        """What each statistic says now; nothing before there is a reference."""
        if self.share is None:
            return {}
        return {
            CUSUM_UP: Reading(self.share.up, limits.cusum),
            CUSUM_DOWN: Reading(self.share.down, limits.cusum),
            **self.window,
        }

    def to_plain(self) -> dict[str, Any]:
        """For JSON; `rate_stream` reads it."""
        reference = self.reference
        return {
            "reference": None if reference is None else [reference.images, reference.rate],
            "total": self.total,
            "studies": self.studies,
            "recent": self.recent,
            "sums": self.share and [self.share.up, self.share.down],
            "values": list(self.values),
            "window": {name: [each.value, each.threshold] for name, each in self.window.items()},
        }


def rate_stream(plain: dict[str, Any], baseline: int, limits: Limits) -> RateStream:
    """The stream that was made plain.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    stream = RateStream(
        baseline=baseline,
        total=float(plain["total"]),
        studies=int(plain["studies"]),
        recent=float(plain["recent"]),
        values=deque((float(each) for each in plain["values"]), maxlen=WINDOW),
        window={name: Reading(*map(float, each)) for name, each in plain["window"].items()},
    )
    if plain["reference"] is not None:
        images, rate = plain["reference"]
        stream.reference = RateReference(int(images), float(rate))
        if plain["sums"]:
            stream.share = _filled(rate_cusum(stream.reference, limits), plain["sums"])
    return stream


def _filled(cusum: Cusum, sums: list[float]) -> Cusum:
    cusum.up, cusum.down = (float(each) for each in sums)
    return cusum
