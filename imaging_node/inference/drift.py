"""Has a stream of numbers changed? CUSUM, KS and PSI whose false alarms are bounded together.

The promise: over `PROMISED_STUDIES` exchangeable studies of a model, the probability that anything
that is watched raises a false alarm, in any group and at any time, is at most `FALSE_ALARM`. It is
kept by theory and a union bound; `scripts/drift_run.py` shows it.

CUSUM. Values become positions in the reference (probability integral transform), whose mean is 1/2
whatever the distribution. `1 + bet * (position - mean)` then has expectation 1 or less, and so has
every product of such factors from any study on: each exceeds A with probability 1 / A at most
(Ville 1939), and the CUSUM of their logarithms exceeds log(studies / p) with probability p at most
(a union over its beginnings). Nothing is assumed of the values but that they are exchangeable, and
looking after every study costs nothing. Shares are their own positions.

KS. P(D > d) <= 2 exp(-2 n d**2) with n = window * reference / (window + reference) (Dvoretzky,
Kiefer, Wolfowitz; for two samples Wei and Dudley 2012), taken at the 21 quantiles: less than D.

PSI. In a stable stream PSI / (1 / window + 1 / reference) is nearly chi-squared, with a heavier
end: at a tail of 3e-8, about that of 20 streams, the approximation alone is exceeded up to ten
times as often as it says, by windows with an all but empty bin. With `_PSI_MARGIN` it is exceeded
less often than it says, for references of 200 and more; a test holds both (importance sampling).

Shares. Of two samples of one share, W * KL(window, pooled) + n * KL(reference, pooled) exceeds t
with a probability well under 2 exp(-t): Chernoff's bound where the share is known, and by Wilks
half of a chi-squared variable where it is not. A test holds it against 40,000 draws, rare cases
included.

The reference is a sample, too: the CUSUM's mean may be off by what such a sample allows. Every
scanner and every view has a sample of its own, so the error is shared out over all that there may
be. That costs it small changes, which the windows see: they weigh both samples' errors together.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from imaging_node.domain.observation import MOST_SCANNERS, MOST_VIEWS
from imaging_node.domain.proportion import wilson_interval
from imaging_node.inference.declaration import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

PROMISED_STUDIES = 20_000
FALSE_ALARM = 0.01
WINDOW = 200
"""Studies that KS and PSI look back on."""
CHECK_EVERY = 25
"""Studies between two looks of KS and PSI."""

# Every study counts among all, among those of its scanner and among those of its view.
_GROUP_KINDS = 3
# Each with a reference of its own: all, scanners with those beyond the first 32 as one, views.
_REFERENCES = 1 + MOST_SCANNERS + 1 + MOST_VIEWS
# Of a reference: the mean position, too high or too low, and its distance from the middle.
_REFERENCE_ENDS = 3
# Up, down, spread, KS, PSI, and the error of the reference: each has its part of FALSE_ALARM.
_PARTS = 6
_STEPS = QUANTILES - 1
# Grows fastest for positions that moved by 0.2 to 0.3, about one standard deviation.
_POSITION_BET = 1.6
# The share that a rate's CUSUM looks for has odds so many times higher, or lower.
_ODDS = 3.0
_PSI_MARGIN = 1.4
# A tenth, but for rounding.
_SMALLEST_PSI_BIN = 0.0999
# Positions between two quantiles are interpolated; equal quantiles hide up to a step of the mass.
_INTERPOLATION, _TIED_MEAN, _TIED_KS, _TIED_PSI = 0.005, 0.03, 0.05, 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds for a number of watched quantities and rates.

    Attributes:
        cusum: In natural logarithms.
        tail: Probability of one look of KS or PSI.
        reference_z: Standard errors that a reference may be off.
    """

    cusum: float
    tail: float
    reference_z: float


@lru_cache
def limits(streams: int) -> Limits:
    """Thresholds by which `streams` quantities and rates keep the promise together."""
    part = FALSE_ALARM / _PARTS / (_GROUP_KINDS * streams)
    of_reference = FALSE_ALARM / _PARTS / (_REFERENCES * streams)
    return Limits(
        cusum=math.log(PROMISED_STUDIES / part),
        tail=part * CHECK_EVERY / PROMISED_STUDIES,
        reference_z=NormalDist().inv_cdf(1 - of_reference / _REFERENCE_ENDS),
    )


@dataclass(frozen=True)
class QuantityReference:
    """A quantity's distribution as 21 ascending quantiles of a sample of `images`."""

    images: int
    quantiles: tuple[float, ...]

    @cached_property
    def expected(self) -> npt.NDArray[np.float64]:
        """Mass of 20 bins; each holds what is at least its lower quantile and below its upper."""
        values = self.quantiles
        first_equal = [bisect_left(values, each) for each in values]
        return np.array(
            [
                0.0
                if index < _STEPS - 1 and values[index] == values[index + 1]
                else (index + 1 - first_equal[index]) / _STEPS
                for index in range(_STEPS)
            ]
        )

    @cached_property
    def has_ties(self) -> bool:
        """Whether one value fills a bin of the reference or more."""
        return len(set(self.quantiles)) < QUANTILES

    @cached_property
    def psi_begins(self) -> tuple[int, ...]:
        """Bins with which those of the stability index begin, a tenth of the mass each or more."""
        begins, mass = [0], 0.0
        for index, share in enumerate(self.expected):
            if mass >= _SMALLEST_PSI_BIN:
                begins.append(index)
                mass = 0.0
            mass += share
        if mass < _SMALLEST_PSI_BIN and len(begins) > 1:
            begins.pop()
        return tuple(begins)

    def position(self, value: float) -> float:
        """Share of the reference below `value`, half of what equals it included; in [0, 1]."""
        low = bisect_left(self.quantiles, value)
        high = bisect_right(self.quantiles, value)
        if low < high:
            return (low + high - 1) / (2 * _STEPS)
        if low in (0, QUANTILES):
            return float(low > 0)
        below, above = self.quantiles[low - 1], self.quantiles[low]
        return (low - 1 + (value - below) / (above - below)) / _STEPS

    def bin_of(self, value: float) -> int:
        """Which of 20 bins `value` falls into; those at the ends take what lies beyond."""
        return min(max(bisect_right(self.quantiles, value) - 1, 0), _STEPS - 1)

    def mean_error(self, limits: Limits) -> float:
        """How far the mean position of a stable stream may lie from 1/2, or of its distance."""
        sampling = limits.reference_z * math.sqrt(1 / 12 / self.images)
        return sampling + (_TIED_MEAN if self.has_ties else _INTERPOLATION)


@dataclass(frozen=True, slots=True)
class RateReference:
    """A share of a sample of `images`."""

    images: int
    rate: float


@dataclass(slots=True)
class Cusum:
    """Two CUSUMs of a value in [0, 1] whose mean should lie between `low` and `high`.

    Attributes:
        bet_up, bet_down: Weights of a deviation; no factor may become negative.
        up, down: Natural logarithms; they stop at the limit, so that they find their way back.
    """

    low: float
    high: float
    bet_up: float
    bet_down: float
    up: float = 0.0
    down: float = 0.0

    def add(self, value: float, limit: float) -> None:
        """Take the value of one study."""
        up = self.up + math.log1p(self.bet_up * (value - self.high))
        self.up = min(max(up, 0.0), limit)
        down = self.down + math.log1p(self.bet_down * (self.low - value))
        self.down = min(max(down, 0.0), limit)


def position_cusum(reference: QuantityReference, limits: Limits) -> Cusum:
    """For positions in a reference, or for their distances from its middle."""
    high = min(0.5 + reference.mean_error(limits), 1.0)
    bet = min(_POSITION_BET, 0.99 / high)
    return Cusum(low=1 - high, high=high, bet_up=bet, bet_down=bet)


def rate_cusum(reference: RateReference, limits: Limits) -> Cusum:
    """For a share."""
    low, high = wilson_interval(
        reference.rate * reference.images, reference.images, z=limits.reference_z
    )
    return Cusum(low=low, high=high, bet_up=_bet(high), bet_down=_bet(1 - low))


def _bet(share: float) -> float:
    """The bet of a likelihood ratio: odds of the share against `_ODDS` times those."""
    if not 0 < share < 1:
        return 0.0
    odds = _ODDS * share / (1 - share)
    return (odds / (1 + odds) - share) / (share * (1 - share))


def kolmogorov_smirnov(
    bins: Sequence[int], reference: QuantityReference, limits: Limits
) -> tuple[float, float]:
    """Largest distance of the distribution of `bins` from the reference's, and its threshold."""
    counts = np.bincount(bins, minlength=_STEPS)
    distance = np.abs(np.cumsum(counts / len(bins) - reference.expected)).max()
    n = len(bins) * reference.images / (len(bins) + reference.images)
    threshold = math.sqrt(math.log(2 / limits.tail) / (2 * n))
    return float(distance), threshold + (_TIED_KS if reference.has_ties else 0.0)


def population_stability(
    bins: Sequence[int], reference: QuantityReference, limits: Limits
) -> tuple[float, float]:
    """Population stability index over bins of a tenth or more, and its threshold."""
    begins = np.array(reference.psi_begins)
    if len(begins) == 1:
        return 0.0, math.inf  # all of the reference is one value
    counts = np.add.reduceat(np.bincount(bins, minlength=_STEPS), begins)
    expected = np.add.reduceat(reference.expected, begins)
    # Half a study in each bin: an empty one would make the index infinite.
    shares = (counts + 0.5) / (len(bins) + 0.5 * len(begins))
    index = float(((shares - expected) * np.log(shares / expected)).sum())
    scale = 1 / len(bins) + 1 / reference.images
    threshold = _PSI_MARGIN * scale * _chi_squared_quantile(len(begins) - 1, limits.tail)
    return index, threshold + (_TIED_PSI if reference.has_ties else 0.0)


def share_change(
    values: Sequence[float], reference: RateReference, limits: Limits
) -> tuple[float, float]:
    """How little a window's share and the reference's are one, in natural logarithms."""
    window, n = len(values), reference.images
    share = sum(values) / window
    pooled = (window * share + n * reference.rate) / (window + n)
    distance = window * _divergence(share, pooled) + n * _divergence(reference.rate, pooled)
    return distance, math.log(2 / limits.tail)


def _divergence(share: float, other: float) -> float:
    """Kullback and Leibler's, of two shares; 0 * log(0) is 0."""
    return sum(
        p * math.log(p / q) for p, q in ((share, other), (1 - share, 1 - other)) if p > 0 and q > 0
    )


@lru_cache
def _chi_squared_quantile(degrees: int, tail: float) -> float:
    """What a chi-squared variable exceeds with probability `tail` (Wilson and Hilferty 1931)."""
    scale = 2 / (9 * degrees)
    root = 1 - scale + NormalDist().inv_cdf(1 - tail) * math.sqrt(scale)
    return float(degrees * root**3)
