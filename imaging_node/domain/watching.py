"""What is known of a model at work: alarms, labels of readers, and how often it was right."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from imaging_node.domain.proportion import wilson_interval

FEWEST_SHOWN = 30
"""Fewer cases than these say too little, and too much of each: their figures are hidden."""

VERIFICATION_NOTE = (
    "Sensitivity, specificity and negative predictive value are computed from final labels alone,"
    f" and only where {FEWEST_SHOWN} or more of them are of studies that were not flagged. What"
    " readers agree or disagree with on the page are mostly flagged studies: that tells the"
    " positive predictive value only (verification bias). All figures are of the labelled studies,"
    " each counted once: where others are labelled more or less often than flagged ones, they are"
    " not those of all studies."
)
"""What to say beside such figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAlarm:
    """One statistic of one model's stream that went over its threshold.

    Attributes:
        quantity: e.g. "input_mean", "probability:Pneumonia", "positive:Pneumonia", "refused".
        group_kind: "all", "scanner" or "view".
        group_value: "", number of the scanner, or the view's word.
        statistic: "cusum_up", "cusum_down", "cusum_spread", "ks", "psi" or "share".
        raised_at, cleared_at: Timezone-aware; None: it is on.
        raised_after: Studies of the group until then.
        scanner_name: Of a scanner's group, for people; it comes from a header: neither for logs
            nor for metrics.
    """

    id: int
    model: str
    model_digest: str
    quantity: str
    group_kind: str
    group_value: str
    statistic: str
    value: float
    threshold: float
    raised_at: datetime
    raised_after: int
    cleared_at: datetime | None
    scanner_name: str = ""

    @property
    def group(self) -> str:
        """The group in words that name no device, e.g. "all", "scanner 2", "view PA"."""
        return " ".join(each for each in (self.group_kind, self.group_value) if each)


class ReferenceSource(StrEnum):
    """Where a model's reference comes from."""

    BUNDLE = "bundle"
    NODE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedModel:
    """One model at work on this node.

    Attributes:
        studies: Studies that were watched.
        baseline_left: Studies until the node's own reference is complete; 0: it is, or the
            bundle has one.
        groups: As `DriftWatch.summary` gives them.
    """

    model: str
    model_digest: str
    reference_source: ReferenceSource
    studies: int
    baseline_left: int
    updated_at: datetime
    groups: list[dict[str, Any]] = field(default_factory=list)


class LabelSource(StrEnum):
    """Who said what a study really showed; of two the final labels count."""

    PAGE = "page"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCase:
    """One finding of one study: what the model called, and what it was.

    Attributes:
        is_flagged: The model called it present on one image of the study or more.
        is_undetermined: It left it open.
        is_present: What the reader or the final label says.
        sex, age_band, view, scanner: As an observation keeps them.
    """

    model: str
    model_digest: str
    label: str
    is_flagged: bool
    is_undetermined: bool
    is_present: bool
    source: LabelSource
    sex: str
    age_band: str
    view: str
    scanner: str


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share with its 95 % Wilson interval; None where there is no case."""

    successes: int
    n: int

    @property
    def value(self) -> float | None:
        """The share."""
        return self.successes / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval."""
        return wilson_interval(self.successes, self.n) if self.n else None

    @property
    def is_shown(self) -> bool:
        """Whether it stands for enough cases to be shown of a subgroup."""
        return self.n >= FEWEST_SHOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How often a model was right about one finding, in the studies that somebody labelled.

    What the model left undetermined counts as not flagged.

    Attributes:
        labelled: Studies with a label; `final` of them by final labels.
        undetermined: Of those, left open by the model.
        sensitivity, specificity, negative_predictive_value: Of the labelled studies, unweighted;
            None with fewer than 30 final labels of studies that were not flagged: of these too
            little is known then, and a figure would be biased by which studies were verified.
    """

    labelled: int
    final: int
    undetermined: int
    positive_predictive_value: Proportion
    sensitivity: Proportion | None
    specificity: Proportion | None
    negative_predictive_value: Proportion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgroupRow:
    """One subgroup of one finding's labelled studies; figures of fewer than 30 are not shown."""

    attribute: str
    value: str
    performance: Performance


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingReport:
    """One finding of one model."""

    model: str
    model_digest: str
    label: str
    performance: Performance
    subgroups: tuple[SubgroupRow, ...]
