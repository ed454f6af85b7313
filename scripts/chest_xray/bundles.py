"""The two bundles: what they are for, in data."""

from __future__ import annotations

from dataclasses import dataclass

from chest_xray.recipe import FINDINGS_LABELS, PNEUMONIA_LABELS, Task

KERMANY = (
    "Kermany, Zhang, Goldbaum: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images"
    " for Classification, Mendeley Data, doi:10.17632/rscbjbr9sj.2, CC BY 4.0"
)
NIH = (
    "a subset of NIH ChestX-ray14, provided by the NIH Clinical Center (Wang et al., ChestX-ray8,"
    " CVPR 2017), text-mined labels"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePlan:
    """One bundle before it is built.

    Attributes:
        task: What the networks were trained for.
        labels: All findings that the networks answer; rare ones are dropped when it is built.
        source, other_source: Of the images it is for, and of those that test it from outside.
        least_positives: Calibration films with a finding below which it is not reported.
        false_present, missed: Shares that the conformal thresholds promise; see `conformal`.
        spread_quantile: Calibration films whose members differ more than this share of them
            do are left open.
        minimum_age_years, maximum_age_years: Inclusive and exclusive.
        urgent: Findings that, called present, suggest reading the study as urgent.
        people: Whom it is for, in words.
    """

    id: str
    version: str
    task: Task
    labels: tuple[str, ...]
    source: str
    other_source: str
    least_positives: int
    false_present: float
    missed: float
    spread_quantile: float
    minimum_age_years: int
    maximum_age_years: int
    urgent: tuple[str, ...]
    title: str
    people: str
    data: str
    other_data: str
    changes: str


PLANS = (
    BundlePlan(
        id="chest_xray_pneumonia",
        version="0.2.1",
        task=Task.PNEUMONIA,
        labels=PNEUMONIA_LABELS,
        source="kermany",
        other_source="nih",
        least_positives=20,
        false_present=0.025,
        missed=0.01,
        spread_quantile=0.99,
        minimum_age_years=1,
        maximum_age_years=6,
        urgent=PNEUMONIA_LABELS,
        title="Chest X-ray pneumonia, children",
        people="children of 1 to 5 years",
        data=KERMANY,
        other_data=NIH,
        changes="The weights, curves and thresholds of 0.2.0 (DenseNet-121 and a larger"
        " transformer, pretrained on all films; image gates, conformal thresholds). Absent is said"
        " by both members; the maps count as unverified, judged by the size of their correlation"
        " with maps of random heads.",
    ),
    BundlePlan(
        id="chest_xray_findings",
        version="0.1.0",
        task=Task.FINDINGS,
        labels=FINDINGS_LABELS,
        source="nih",
        other_source="kermany",
        least_positives=20,
        false_present=0.1,
        missed=0.1,
        spread_quantile=0.99,
        minimum_age_years=18,
        maximum_age_years=130,
        urgent=(),
        title="Chest X-ray findings, adults",
        people="adults",
        data=NIH,
        other_data=KERMANY,
        changes="First pair for adults.",
    ),
)
