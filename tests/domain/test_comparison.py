"""What changes when one model takes another's place is counted study by study."""

from __future__ import annotations

import numpy as np
import pytest

from imaging_node.domain.comparison import ComparedStudy, ModelView, auroc, compare
from imaging_node.domain.finding import FindingScore
from imaging_node.domain.priority import ReadingPriority

LABEL = "Pneumonia"


def view(probability: float | None, priority: str = "routine") -> ModelView:
    findings = {}
    if probability is not None:
        findings[LABEL] = FindingScore(
            label=LABEL, probability=probability, operating_point=0.8, undetermined_from=0.3
        )
    return ModelView(findings=findings, priority=ReadingPriority(priority))


def study(
    number: int, first: ModelView, second: ModelView, patient: str | None = None
) -> ComparedStudy:
    return ComparedStudy(
        study_instance_uid=f"1.2.{number}",
        patient=patient or f"p{number}",
        first=first,
        second=second,
    )


def test_flips_shifts_and_who_scored_what_are_counted() -> None:
    found = compare(
        [
            study(1, view(0.1), view(0.9)),
            study(2, view(0.9), view(0.5)),
            study(3, view(0.1), view(0.4)),
            study(4, view(0.85), view(0.85)),
            study(5, view(0.2), view(None)),
            study(6, view(None), view(0.2)),
            study(7, view(None), view(None)),
        ],
        {},
    )
    assert (found.both, found.only_first, found.only_second, found.neither) == (4, 1, 1, 1)
    [finding] = found.findings
    assert finding.studies == 4
    assert (finding.newly_present, finding.no_longer_present, finding.other_calls) == (1, 1, 1)
    assert finding.mean_shift == pytest.approx((0.8 - 0.4 + 0.3) / 4)
    assert finding.largest_shift == pytest.approx(0.8)
    assert finding.discrimination is None


def test_the_order_of_the_worklist_is_compared_by_rank_and_pair() -> None:
    routine, urgent = view(0.1), view(0.9, "urgent")
    found = compare(
        [study(1, routine, routine), study(2, routine, routine), study(3, routine, urgent)], {}
    ).worklist
    # The third passes both that came before.
    assert (found.earlier, found.later, found.moved) == (1, 0, 3)
    assert (found.swapped_pairs, found.pairs) == (2, 3)
    same = compare([study(1, urgent, urgent), study(2, routine, routine)], {}).worklist
    assert (same.moved, same.swapped_pairs) == (0, 0)


def test_nothing_to_compare_is_no_error() -> None:
    found = compare([], {})
    assert (found.both, found.findings, found.worklist.pairs) == (0, (), 0)


def test_auroc_counts_ties_half() -> None:
    truth = np.array([False, False, True, True])
    assert auroc(np.array([0.1, 0.2, 0.3, 0.4]), truth) == 1
    assert auroc(np.array([0.4, 0.3, 0.2, 0.1]), truth) == 0
    assert auroc(np.array([0.1, 0.2, 0.2, 0.4]), truth) == pytest.approx(3.5 / 4)


def drawn(patients: int, per_patient: int, second_shift: float) -> list[ComparedStudy]:
    """Studies whose second model separates better by so much."""
    generator = np.random.default_rng(7)
    made = []
    for patient in range(patients):
        is_positive = patient % 2
        for each in range(per_patient):
            noise, other = generator.normal(0, 0.1, 2)
            first = float(np.clip(0.45 + 0.1 * is_positive + noise, 0, 1))
            second = float(np.clip(0.45 + (0.1 + second_shift) * is_positive + other, 0, 1))
            number = patient * per_patient + each
            made.append(study(number, view(first), view(second), f"p{patient}"))
    return made


def test_a_better_model_has_an_interval_above_zero_and_an_equal_one_does_not() -> None:
    for shift, is_better in ((0.3, True), (0.0, False)):
        studies = drawn(120, 1, shift)
        labels = {
            (each.study_instance_uid, LABEL): bool(int(each.patient[1:]) % 2) for each in studies
        }
        [finding] = compare(studies, labels).findings
        found = finding.discrimination
        assert found is not None
        assert found.interval is not None
        assert (found.studies, found.positives) == (120, 60)
        assert (found.interval[0] > 0) is is_better
        assert found.interval[0] <= found.difference <= found.interval[1]


def test_many_studies_of_few_patients_give_no_false_certainty() -> None:
    """The same study ten times is one patient: the interval stays as wide."""
    once = drawn(40, 1, 0.05)
    tenfold = [
        study(number * 10 + copy, each.first, each.second, each.patient)
        for number, each in enumerate(once)
        for copy in range(10)
    ]

    def width(studies: list[ComparedStudy]) -> float:
        labels = {
            (each.study_instance_uid, LABEL): bool(int(each.patient[1:]) % 2) for each in studies
        }
        found = compare(studies, labels).findings[0].discrimination
        assert found is not None
        assert found.interval is not None
        return found.interval[1] - found.interval[0]

    assert width(tenfold) == pytest.approx(width(once), rel=0.1)
