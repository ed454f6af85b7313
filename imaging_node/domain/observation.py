"""What one image of the stream looked like to one model: all that watching a model needs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime

SCORED = "scored"
"""Outcome of an image that has scores; every other outcome is a `NotAnalysedReason`."""

NOT_STATED = "not stated"
"""Of what the header does not say."""

LONGEST_SCANNER = 48
MOST_SCANNERS = 32
"""Scanners that are told apart; later ones are counted together."""
OTHER_SCANNERS = 0
"""Number of the group of all scanners beyond `MOST_SCANNERS`."""

_OTHER = "other"
# PS3.3 C.8.1.2, (0018,5101), and the words that headers are translated to.
_VIEWS = frozenset(
    {"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "OBLIQUE", NOT_STATED}
)
MOST_VIEWS = len(_VIEWS) + 1
"""Views that are told apart, all others as one."""
_SEXES = frozenset({"F", "M"})
_AGE_BANDS = ((1, "under 1"), (6, "1 to 5"), (18, "6 to 17"), (40, "18 to 39"), (65, "40 to 64"))
_OLDEST_BAND = "65 and over"
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageObservation:
    """One image that a model was meant for, scored or refused; no patient data.

    Attributes:
        model: Bundle name.
        model_digest: Of the bundle that looked at it, "sha256:" and 64 hex digits.
        observed_at: Timezone-aware.
        scanner: Manufacturer and model name from the header, as from `scanner_name`.
        view_position: Word of a closed list, as from `view_word`.
        sex: "F", "M" or "not stated".
        age_band: Of a closed list, as from `age_band`.
        outcome: "scored", or the words of a `NotAnalysedReason`.
        is_eligible: False when the header alone excluded the image.
        probabilities: Calibrated probability by label; empty unless scored.
        presences: Call of the image by label, a word of `Presence`; empty unless scored.
        disagreement: Largest spread between the members over the findings; None unless scored.
        quantities: Named statistics of the input and distances of its features.
    """

    model: str
    model_digest: str
    observed_at: datetime
    scanner: str
    view_position: str
    sex: str = NOT_STATED
    age_band: str = NOT_STATED
    outcome: str
    is_eligible: bool = True
    probabilities: dict[str, float] = field(default_factory=dict)
    presences: dict[str, str] = field(default_factory=dict)
    disagreement: float | None = None
    quantities: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.observed_at.tzinfo is None:
            raise ValueError("observed_at must be timezone-aware")
        if self.is_scored != bool(self.probabilities):
            raise ValueError("an image has probabilities if, and only if, it was scored")
        # A statistic that is no number says nothing, and would end every sum it enters.
        kept = {name: value for name, value in self.quantities.items() if math.isfinite(value)}
        object.__setattr__(self, "quantities", kept)

    @property
    def is_scored(self) -> bool:
        """Whether the image has scores."""
        return self.outcome == SCORED

    def watched_quantities(self) -> dict[str, float]:
        """All numbers of a scored image that can drift, by the names that a reference uses."""
        if not self.is_scored:
            return {}
        watched = dict(self.quantities)
        watched |= {f"probability:{label}": value for label, value in self.probabilities.items()}
        if self.disagreement is not None:
            watched["disagreement"] = self.disagreement
        return watched

    def watched_rates(self) -> dict[str, float]:
        """What either is so or not so of this image (1 or 0), by name; absent: not asked."""
        rates = {"not_eligible": float(not self.is_eligible)}
        if self.is_eligible:
            rates["refused"] = float(not self.is_scored)
        for label, presence in self.presences.items():
            rates[f"positive:{label}"] = float(presence == "present")
            rates[f"undetermined:{label}"] = float(presence == "undetermined")
        return rates


def scanner_name(manufacturer: str, model_name: str) -> str:
    """One short printable text for a scanner; "not stated" when the header names none.

    Station names, serial numbers and institutions stay out: they are nobody's business here.
    """
    words = f"{manufacturer} {model_name}"
    return " ".join(_NOT_PRINTABLE.sub(" ", words).split())[:LONGEST_SCANNER].strip() or NOT_STATED


def view_word(view_position: str) -> str:
    """The view as a word of a closed list."""
    word = view_position or NOT_STATED
    return word if word in _VIEWS else _OTHER


def sex_word(sex: str) -> str:
    """The sex as "F", "M" or "not stated"."""
    return sex if sex in _SEXES else NOT_STATED


def age_band(age_years: float | None) -> str:
    """The band that an age falls into: all that is kept of it."""
    if age_years is None:
        return NOT_STATED
    return next((band for below, band in _AGE_BANDS if age_years < below), _OLDEST_BAND)
