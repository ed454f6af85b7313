"""Two models on the same studies: shifts, flips, discrimination, and the order of the worklist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imaging_node.domain.finding import FindingScore
from imaging_node.domain.priority import ReadingPriority

if TYPE_CHECKING:
    from collections.abc import Sequence


_RESAMPLES = 1000
_SEED = 20261129
_FEWEST_OF_A_KIND = 2
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """What one model says of one study.

    Attributes:
        findings: By label; empty when it did not score the study.
        priority: That the study would have with this answer alone.
    """

    findings: Mapping[str, FindingScore]
    priority: ReadingPriority


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStudy:
    """One study as two models see it.

    Attributes:
        patient: Whatever is the same for studies of one patient.
    """

    study_instance_uid: str
    patient: str
    first: ModelView
    second: ModelView


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrimination:
    """Area under the ROC curve of both models on the labelled studies.

    Attributes:
        studies, positives: With a label.
        difference: Second minus first.
        interval: 95 % bootstrap interval of the difference over patients; None when there are too
            few of a kind.
    """

    studies: int
    positives: int
    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingComparison:
    """One finding that both models score.

    Attributes:
        studies: Scored by both.
        mean_shift, largest_shift: Of the probability, second minus first; the largest by size.
        shift_deviation: Standard deviation of the shifts.
        newly_present, no_longer_present: Flips at each model's operating point.
        other_calls: Changes between absent and undetermined.
        discrimination: None without labels of both kinds.
    """

    label: str
    studies: int
    mean_shift: float
    shift_deviation: float
    largest_shift: float
    newly_present: int
    no_longer_present: int
    other_calls: int
    discrimination: Discrimination | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistComparison:
    """How the order of reading would change, over all studies in order of arrival.

    Attributes:
        earlier, later: Studies with a more, or less, urgent priority.
        moved: Studies with another rank.
        swapped_pairs, pairs: Pairs of studies that change places, of all.
    """

    earlier: int
    later: int
    moved: int
    swapped_pairs: int
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """All of it.

    Attributes:
        both, only_first, only_second, neither: Studies by who scored them.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    findings: tuple[FindingComparison, ...]
    worklist: WorklistComparison


def compare(
    studies: Sequence[ComparedStudy], labels: Mapping[tuple[str, str], bool]
) -> ModelComparison:
    """Compare two models study by study.

    Args:
        studies: In order of arrival.
        labels: Whether a finding is there, by Study Instance UID and finding.
    """
    scored = [(bool(each.first.findings), bool(each.second.findings)) for each in studies]
    common = dict.fromkeys(
        label for each in studies for label in each.first.findings if label in each.second.findings
    )
    return ModelComparison(
        both=scored.count((True, True)),
        only_first=scored.count((True, False)),
        only_second=scored.count((False, True)),
        neither=scored.count((False, False)),
        findings=tuple(_compare_finding(label, studies, labels) for label in common),
        worklist=_compare_order(studies),
    )


def _compare_finding(
    label: str, studies: Sequence[ComparedStudy], labels: Mapping[tuple[str, str], bool]
) -> FindingComparison:
    paired = [
        each for each in studies if label in each.first.findings and label in each.second.findings
    ]
    first = np.array([_probability(each.first, label) for each in paired])
    second = np.array([_probability(each.second, label) for each in paired])
    shifts = second - first
    calls = [(each.first.findings[label], each.second.findings[label]) for each in paired]
    return FindingComparison(
        label=label,
        studies=len(paired),
        mean_shift=float(shifts.mean()),
        shift_deviation=float(shifts.std()),
        largest_shift=float(shifts[np.abs(shifts).argmax()]),
        newly_present=sum(new.is_present and not old.is_present for old, new in calls),
        no_longer_present=sum(old.is_present and not new.is_present for old, new in calls),
        other_calls=sum(
            old.presence is not new.presence and not (old.is_present or new.is_present)
            for old, new in calls
        ),
        discrimination=_discriminate(label, paired, first, second, labels),
    )


def _probability(view: ModelView, label: str) -> float:
    probability = view.findings[label].probability
    return float("nan") if probability is None else probability


def _discriminate(
    label: str,
    paired: Sequence[ComparedStudy],
    first: npt.NDArray[np.float64],
    second: npt.NDArray[np.float64],
    labels: Mapping[tuple[str, str], bool],
) -> Discrimination | None:
    known = [
        place for place, each in enumerate(paired) if (each.study_instance_uid, label) in labels
    ]
    truth = np.array([labels[paired[place].study_instance_uid, label] for place in known], bool)
    if not truth.any() or truth.all():
        return None
    first, second = first[known], second[known]
    areas = auroc(first, truth), auroc(second, truth)
    return Discrimination(
        studies=len(known),
        positives=int(truth.sum()),
        first=areas[0],
        second=areas[1],
        difference=areas[1] - areas[0],
        interval=_interval(first, second, truth, [paired[place].patient for place in known]),
    )


def auroc(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    Args:
        scores, truth: Shape (n,), with at least one of each kind.
    """
    values, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places] if len(values) else scores
    positives = int(truth.sum())
    negatives = len(truth) - positives
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _interval(
    first: npt.NDArray[np.float64],
    second: npt.NDArray[np.float64],
    truth: npt.NDArray[np.bool_],
    patients: Sequence[str],
) -> tuple[float, float] | None:
    """Percentile bootstrap of the paired difference: patients are drawn, with all their studies."""
    if min(truth.sum(), (~truth).sum()) < _FEWEST_OF_A_KIND:
        return None
    groups = [
        np.array([place for place, each in enumerate(patients) if each == patient])
        for patient in dict.fromkeys(patients)
    ]
    generator = np.random.default_rng(_SEED)
    differences = []
    for _ in range(_RESAMPLES):
        drawn = generator.integers(0, len(groups), len(groups))
        places = np.concatenate([groups[each] for each in drawn])
        if 0 < truth[places].sum() < len(places):
            differences.append(
                auroc(second[places], truth[places]) - auroc(first[places], truth[places])
            )
    low, high = np.percentile(differences, _INTERVAL)
    return float(low), float(high)


def _compare_order(studies: Sequence[ComparedStudy]) -> WorklistComparison:
    before = np.array([each.first.priority.urgency for each in studies], int)
    after = np.array([each.second.priority.urgency for each in studies], int)
    ranks = [np.argsort(np.argsort(-each, kind="stable")) for each in (before, after)]
    in_old_order = ranks[1][np.argsort(ranks[0])] if len(studies) else ranks[1]
    swapped = sum(
        int((in_old_order[place + 1 :] < each).sum()) for place, each in enumerate(in_old_order)
    )
    return WorklistComparison(
        earlier=int((after > before).sum()),
        later=int((after < before).sum()),
        moved=int((ranks[0] != ranks[1]).sum()),
        swapped_pairs=swapped,
        pairs=len(studies) * (len(studies) - 1) // 2,
    )
