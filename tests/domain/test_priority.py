"""A rule may raise a reading priority, never lower it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_node.domain.finding import FindingScore
from imaging_node.domain.priority import ReadingPriority, TriageRule, ordered_priority, triage

PRIORITIES = st.sampled_from(ReadingPriority)
RULES = st.lists(
    st.builds(
        TriageRule,
        finding=st.sampled_from(["Pneumonia", "Mass"]),
        minimum_probability=st.floats(0, 1),
        priority=PRIORITIES,
    )
)


def score(probability: float | None) -> FindingScore:
    return FindingScore(
        label="Pneumonia", probability=probability, operating_point=0.6, undetermined_from=0.3
    )


@given(ordered=PRIORITIES, rules=RULES, probability=st.none() | st.floats(0, 1))
def test_no_rule_lowers_the_ordered_priority(
    ordered: ReadingPriority, rules: list[TriageRule], probability: float | None
) -> None:
    assert triage(ordered, [score(probability)], rules).priority.urgency >= ordered.urgency


@given(rules=RULES, probability=st.none() | st.floats(0, 0.59))
def test_what_is_not_called_present_changes_nothing(
    rules: list[TriageRule], probability: float | None
) -> None:
    decision = triage(ReadingPriority.ROUTINE, [score(probability)], rules)

    assert decision.priority is ReadingPriority.ROUTINE
    assert decision.reason == "as ordered"


def test_a_present_finding_raises_and_says_why() -> None:
    rule = TriageRule(finding="Pneumonia", minimum_probability=0, priority=ReadingPriority.URGENT)

    decision = triage(ReadingPriority.ROUTINE, [score(0.9)], [rule])

    assert decision.priority is ReadingPriority.URGENT
    assert decision.reason == "Pneumonia present, p=0.90"


@pytest.mark.parametrize(
    ("words", "priority"),
    [
        (("STAT",), ReadingPriority.STAT),
        (("", "high "), ReadingPriority.URGENT),
        (("ROUTINE", "LOW"), ReadingPriority.ROUTINE),
        (("nonsense",), ReadingPriority.ROUTINE),
        ((), ReadingPriority.ROUTINE),
    ],
)
def test_the_most_urgent_order_counts(words: tuple[str, ...], priority: ReadingPriority) -> None:
    assert ordered_priority(*words) is priority
