"""The tables of a model card, computed from what a bundle says about the splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chest_xray.bundles import BundlePlan
from chest_xray.evaluation import (
    Split,
    advantage,
    brier_score,
    discrimination,
    expected_calibration_error,
    share_at_least,
)
from chest_xray.scoring import ScoredImages
from imaging_node.inference.bundle import Finding

if TYPE_CHECKING:
    from chest_xray.images import IndexedImage
    from imaging_node.inference.calibration import BetaCalibration

FloatArray = npt.NDArray[np.float64]
LEAST_PER_CLASS = 5
AGE_BANDS = ((0, 40), (40, 60), (60, 200))
FAILURES_SHOWN = 3
SHADOW_BOUND = 0.70
SHADOW_FINDINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A bundle's answers to all splits that its card speaks of."""

    plan: BundlePlan
    findings: Mapping[str, Finding]
    calibration: ScoredImages
    test: ScoredImages
    other: ScoredImages

    def named_splits(self, label: str) -> list[tuple[str, Split]]:
        """The splits of one finding; those of the other source only if it knows the finding."""
        named = [
            ("calibration split (thresholds were chosen here)", self.calibration.split(label)),
            ("**test split**", self.test.split(label)),
        ]
        outside: list[tuple[str, Callable[[IndexedImage], bool]]] = [
            ("other source: outside the intended use", lambda _image: True),
            ("other source, PA only", lambda image: image.view == "PA"),
            ("other source, AP only", lambda image: image.view == "AP"),
        ]
        views = {image.view for image in self.other.images}
        for name, keep in outside if len(views) > 1 else outside[:1]:
            split = self.other.split(label, keep)
            if _is_enough(split):
                named.append((name, split))
        return named


def calibrated(calibration: BetaCalibration, logits: FloatArray) -> FloatArray:
    """Probabilities of logits, shape (n,)."""
    return np.array([calibration.probability(float(logit)) for logit in logits])


def by_member(calibration: BetaCalibration, logits: FloatArray) -> FloatArray:
    """Each member's probabilities; logits and answer have shape (members, n)."""
    return np.stack([calibrated(calibration, each) for each in logits])


def is_shadow(evaluated: Evaluated) -> bool:
    """Whether too few findings clear the bound that a bundle for adults must clear."""
    clear = sum(
        discrimination(split := evaluated.test.split(label), split.pooled).low > SHADOW_BOUND
        for label in evaluated.findings
    )
    return clear < min(SHADOW_FINDINGS, len(evaluated.plan.labels))


def discrimination_table(evaluated: Evaluated) -> str:
    """AUROC of both members and the pair."""
    rows = []
    for label in evaluated.findings:
        for name, split in evaluated.named_splits(label):
            members = [str(discrimination(split, logits)) for logits in split.logits]
            pair = discrimination(split, split.pooled)
            rows.append(
                f"{_words(label)} | {name} | {_size(split)} | {' | '.join(members)} | {pair}"
            )
    return _table("finding | split | size | CNN | ViT | pair", rows)


def advantage_table(evaluated: Evaluated) -> str:
    """What the second member adds in rank."""
    rows = []
    for label in evaluated.findings:
        split = evaluated.test.split(label)
        rows.append(
            f"{_words(label)} | {advantage(split, split.pooled, split.logits[0])}"
            f" | {advantage(split, split.pooled, split.logits[1])}"
        )
    return _table("finding, test split | pair minus CNN | pair minus ViT", rows)


def calls_table(evaluated: Evaluated) -> str:
    """What is flagged, cleared and left open."""
    rows = []
    for label, finding in evaluated.findings.items():
        for name, split in evaluated.named_splits(label):
            probabilities = calibrated(finding.calibration, split.pooled)
            is_open = _left_open(finding, split, probabilities)
            flagged = np.where(is_open, 0.0, probabilities)
            sensitivity = share_at_least(split, flagged, finding.operating_point, truth=1)
            false = share_at_least(split, flagged, finding.operating_point, truth=0)
            cleared = ~is_open & (probabilities < finding.undetermined_from)
            rows.append(
                f"{_words(label)} | {name} | {sensitivity}"
                f" | {1 - false.value:.3f} ({1 - false.high:.3f} to {1 - false.low:.3f})"
                f" | {is_open.mean():.1%} | {cleared.mean():.1%}"
                f" | {cleared[split.truth == 1].mean():.1%}"
            )
    return _table(
        "finding | split | sensitivity of flagging | specificity of flagging | left open | cleared"
        " | of films with it, cleared",
        rows,
    )


def _left_open(finding: Finding, split: Split, probabilities: FloatArray) -> npt.NDArray[np.bool_]:
    """Which films are neither flagged nor cleared, as `imaging_node.inference.ensemble` says."""
    clears = finding.undetermined_from
    is_open = (probabilities >= clears) & (probabilities < finding.operating_point)
    if finding.maximum_spread is None:
        return is_open
    members = by_member(finding.calibration, split.logits)
    is_apart = members.std(0) > finding.maximum_spread
    is_alone = (probabilities < clears) & (members.max(0) >= clears)
    return np.asarray(is_open | is_apart | is_alone)


def calibration_table(evaluated: Evaluated) -> str:
    """Whether a probability is a frequency."""
    rows = []
    for label, finding in evaluated.findings.items():
        for name, split in evaluated.named_splits(label):
            probabilities = calibrated(finding.calibration, split.pooled)
            rows.append(
                f"{_words(label)} | {name} | {split.truth.mean():.3f} | {probabilities.mean():.3f}"
                f" | {brier_score(probabilities, split.truth):.3f}"
                f" | {expected_calibration_error(probabilities, split.truth):.3f}"
            )
    return _table(
        "finding | split | share with it | mean probability | Brier score"
        " | expected calibration error (10 bins)",
        rows,
    )


def thresholds_table(evaluated: Evaluated) -> str:
    """Where the calls lie."""
    rows = [
        f"{_words(label)} | {finding.operating_point:.4f} | {finding.undetermined_from:.4f}"
        f" | {'none' if finding.maximum_spread is None else format(finding.maximum_spread, '.3f')}"
        f" | {finding.calibration.images} | {finding.calibration.positives}"
        for label, finding in evaluated.findings.items()
    ]
    return _table(
        "finding | flagged from | cleared below | left open above a spread of | calibration films"
        " | with it",
        rows,
    )


def subgroup_table(evaluated: Evaluated) -> str:
    """AUROC of the pair on the test split by sex, age and view, where the index knows them."""
    rows = []
    for label in evaluated.findings:
        for name, keep in _subgroups():
            split = evaluated.test.split(label, keep)
            if len(split.truth) == 0:
                continue
            figure = (
                str(discrimination(split, split.pooled))
                if _is_enough(split)
                else f"fewer than {LEAST_PER_CLASS} of a class"
            )
            rows.append(f"{_words(label)} | {name} | {_size(split)} | {figure}")
    return _table("finding | subgroup of the test split | size | AUROC of the pair", rows)


def failure_table(evaluated: Evaluated) -> str:
    """The test films that the pair gets most wrong, by their name in the public collection."""
    rows = []
    for label, finding in evaluated.findings.items():
        split = evaluated.test.split(label)
        order = np.argsort(split.pooled, kind="stable")
        wrong = [index for index in order if split.truth[index] == 1][:FAILURES_SHOWN]
        wrong += [index for index in order[::-1] if split.truth[index] == 0][:FAILURES_SHOWN]
        for index in wrong:
            probability = finding.calibration.probability(float(split.pooled[index]))
            members = " | ".join(
                f"{finding.calibration.probability(float(each)):.3f}"
                for each in split.logits[:, index]
            )
            truth = "with it" if split.truth[index] else "without"
            rows.append(
                f"{_words(label)} | {split.names[index]} | {truth} | {probability:.3f} | {members}"
            )
    return _table("finding | film | truth | pair | CNN | ViT", rows)


TABLES: dict[str, Callable[[Evaluated], str]] = {
    "discrimination": discrimination_table,
    "advantage": advantage_table,
    "thresholds": thresholds_table,
    "calls": calls_table,
    "calibration": calibration_table,
    "subgroups": subgroup_table,
    "failures": failure_table,
}


def _subgroups() -> list[tuple[str, Callable[[IndexedImage], bool]]]:
    def of_sex(sex: str) -> Callable[[IndexedImage], bool]:
        return lambda image: image.sex == sex

    def of_view(view: str) -> Callable[[IndexedImage], bool]:
        return lambda image: image.view == view

    def of_age(low: int, high: int) -> Callable[[IndexedImage], bool]:
        return lambda image: image.age_years is not None and low <= image.age_years < high

    return [
        ("women", of_sex("F")),
        ("men", of_sex("M")),
        ("sex not stated", of_sex("")),
        *((f"{low} to {high - 1} years", of_age(low, high)) for low, high in AGE_BANDS),
        ("age not stated", lambda image: image.age_years is None),
        ("PA", of_view("PA")),
        ("AP", of_view("AP")),
    ]


def _is_enough(split: Split) -> bool:
    return LEAST_PER_CLASS <= split.positives <= len(split.truth) - LEAST_PER_CLASS


def _words(label: str) -> str:
    return label.replace("_", " ")


def _size(split: Split) -> str:
    return (
        f"{len(split.truth)} images, {split.positives} with it, {len(set(split.patients))} patients"
    )


def _table(head: str, rows: list[str]) -> str:
    columns = head.count("|") + 1
    return "\n".join([f"| {head} |", "|" + "---|" * columns, *(f"| {row} |" for row in rows)])
