"""Words and numbers as a reader in a dark room sees them; never one that could mean "normal"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaging_node.domain.finding import FindingScore, Presence
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.watching import FEWEST_SHOWN

if TYPE_CHECKING:
    from datetime import datetime

    from imaging_node.domain.watching import Proportion

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A word with a sign and a style class: colour is never the only signal."""

    sign: str
    word: str
    style: str


STATE_BADGES = {
    StudyState.RECEIVING: Badge(sign="↓", word="Receiving", style="busy"),
    StudyState.QUEUED: Badge(sign="…", word="Waiting for analysis", style="busy"),
    StudyState.SCORING: Badge(sign="…", word="Being analysed", style="busy"),
    StudyState.DONE: Badge(sign="●", word="Analysed", style="done"),
    StudyState.NOT_ANALYSED: Badge(sign="!", word="Not analysed", style="refused"),
    StudyState.NOT_APPLICABLE: Badge(sign="-", word="Not meant for a model", style="idle"),
    StudyState.FAILED: Badge(sign="✕", word="Analysis failed", style="refused"),
}

QUARANTINE_BADGE = Badge(sign="!", word="Quarantined", style="refused")

CALL_BADGES = {
    Presence.PRESENT: Badge(sign="■", word="Present", style="present"),
    Presence.UNDETERMINED: Badge(sign="◧", word="Undetermined", style="undetermined"),
    Presence.ABSENT: Badge(sign="□", word="Absent", style="absent"),
}

PRIORITY_BADGES = {
    ReadingPriority.STAT: Badge(sign="▲▲▲", word="Stat", style="stat"),
    ReadingPriority.ASAP: Badge(sign="▲▲", word="Asap", style="asap"),
    ReadingPriority.URGENT: Badge(sign="▲", word="Urgent", style="urgent"),
    ReadingPriority.ROUTINE: Badge(sign="·", word="Routine", style="routine"),
}

DELIVERY_BADGES = {
    DeliveryState.WAITING: Badge(sign="…", word="waiting", style="busy"),
    DeliveryState.STORED: Badge(sign="○", word="stored, not yet committed", style="busy"),
    DeliveryState.DELIVERED: Badge(sign="●", word="delivered", style="done"),
    DeliveryState.PARKED: Badge(sign="!", word="parked", style="refused"),
}

_OBJECT_NAMES = {
    "1.2.840.10008.5.1.4.1.1.88.34": "Structured report",
    "1.2.840.10008.5.1.4.1.1.88.33": "Structured report",
    "1.2.840.10008.5.1.4.1.1.7": "Saliency capture",
}


def object_name(sop_class_uid: str) -> str:
    """What a reader calls an object of this SOP class."""
    return _OBJECT_NAMES.get(sop_class_uid, "Result object")


def duration(seconds: float) -> str:
    """A time span in at most two units, e.g. "45 s", "12 min", "3 h 05 min", "2 d 4 h"."""
    whole = max(0, int(seconds))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02d} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def since(moment: datetime, now: datetime) -> str:
    """How long ago `moment` was."""
    return duration((now - moment).total_seconds())


def clock(moment: datetime | None) -> str:
    """Date and time on the clock of the node's machine; "not stated" for None."""
    return "not stated" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def probability(score: FindingScore) -> str:
    """Probability with two digits, or that there is none."""
    return "no score" if score.probability is None else f"{score.probability:.2f}"


def interval(score: FindingScore) -> str:
    """The 95 % interval, "" when there is none."""
    return "" if score.interval is None else f"{score.interval[0]:.2f} to {score.interval[1]:.2f}"


FEWER = f"fewer than {FEWEST_SHOWN}"
"""In the place of a figure that would stand for too few cases."""


def share(figure: Proportion | None, *, hides_few: bool = False) -> str:
    """A share with its interval and cases, e.g. "0.80 (0.71 to 0.87), 80 of 100".

    Args:
        figure: None: cannot be told.
        hides_few: Whether to say only that there are few cases.
    """
    if figure is not None and hides_few and not figure.is_shown:
        return FEWER
    if figure is None or figure.value is None or figure.interval is None:
        return "not known"
    low, high = figure.interval
    return f"{figure.value:.2f} ({low:.2f} to {high:.2f}), {figure.successes} of {figure.n}"
