"""Reading priority, and the rules that may raise it, never lower it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imaging_node.domain.finding import FindingScore


class ReadingPriority(StrEnum):
    """FHIR request priority words, from least to most urgent."""

    ROUTINE = "routine"
    URGENT = "urgent"
    ASAP = "asap"
    STAT = "stat"

    @property
    def urgency(self) -> int:
        """Rank of the word: 0 is routine, 3 is stat."""
        return _URGENCY[self]


_URGENCY = {priority: rank for rank, priority in enumerate(ReadingPriority)}


# Requested Procedure Priority (0040,1003), PS3.3 C.4.11: STAT, HIGH, ROUTINE, MEDIUM, LOW.
_ORDERED = {
    "STAT": ReadingPriority.STAT,
    "HIGH": ReadingPriority.URGENT,
}


def ordered_priority(*defined_terms: str) -> ReadingPriority:
    """Most urgent of what order, sender and settings said; unknown words are routine."""
    return most_urgent(
        _ORDERED.get(term.strip().upper(), ReadingPriority.ROUTINE) for term in defined_terms
    )


def most_urgent(priorities: Iterable[ReadingPriority]) -> ReadingPriority:
    """Most urgent of `priorities`, routine if there are none."""
    return max(priorities, key=lambda each: each.urgency, default=ReadingPriority.ROUTINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriageRule:
    """A finding called present at or above a probability suggests a reading priority.

    Attributes:
        finding: Label as in `FindingScore.label`.
        minimum_probability: In [0, 1]; the finding must also be called present.
        priority: Suggested reading priority.
    """

    finding: str
    minimum_probability: float
    priority: ReadingPriority


@dataclass(frozen=True, slots=True, kw_only=True)
class TriageDecision:
    """A priority and the sentence that explains it."""

    priority: ReadingPriority
    reason: str


def triage(
    ordered: ReadingPriority, findings: Iterable[FindingScore], rules: Iterable[TriageRule]
) -> TriageDecision:
    """Raise `ordered` to what the rules suggest; what is absent or unknown changes nothing.

    Returns:
        A decision at least as urgent as `ordered`.
    """
    scores = {score.label: score for score in findings}
    decision = TriageDecision(priority=ordered, reason="as ordered")
    for rule in rules:
        score = scores.get(rule.finding)
        if score is None or score.probability is None or not score.is_present:
            continue
        if score.probability < rule.minimum_probability:
            continue
        if rule.priority.urgency > decision.priority.urgency:
            decision = TriageDecision(
                priority=rule.priority,
                reason=f"{rule.finding} present, p={score.probability:.2f}",
            )
    return decision
