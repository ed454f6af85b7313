"""What a model from elsewhere says: labelled voxels or raw scores, and never a call.

Nobody calibrated such a model on this site's images, so nothing it says is "present" or "absent".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from imaging_node.domain.coded_term import CodedTerm
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import AnalysisStatus, ModelIdentity, NotAnalysedReason


class ForeignTask(StrEnum):
    """What a foreign bundle answers with."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLabel:
    """One structure or class that a foreign bundle tells of.

    Attributes:
        name: The bundle's own word, unique in it.
        concept: Code given by the site, else one of our own scheme.
        category: Segmented property category (CID 7150) of a structure.
    """

    name: str
    concept: CodedTerm
    category: CodedTerm


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFinding:
    """The answer for one label: a volume, a raw score, or neither when nothing was evaluated.

    Attributes:
        voxels: How many voxels of the source carry the label; None for a score.
        volume_mm3: Their volume; None when `voxels` is.
        score: What the network said, on a scale of its own; None for a segmentation.
        sop_instance_uid: Image that the score comes from; empty for a volume.
    """

    label: ForeignLabel
    voxels: int | None = None
    volume_mm3: float | None = None
    score: float | None = None
    sop_instance_uid: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        if self.score is not None and not math.isfinite(self.score):
            raise NotAnalysedError(
                f"{self.label.name}: the bundle answered {self.score}, which is no number;"
                " report it to its author",
                reason=NotAnalysedReason.MODEL_OUTPUT,
            )
        if (self.voxels is None) != (self.volume_mm3 is None):
            raise ValueError(f"{self.label.name}: voxels and their volume belong together")

    @property
    def is_evaluated(self) -> bool:
        """True when the bundle said anything of this label."""
        return self.voxels is not None or self.score is not None

    @property
    def is_labelled(self) -> bool:
        """True when at least one voxel carries the label."""
        return bool(self.voxels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignResult:
    """The answer for one study by one foreign bundle.

    Attributes:
        status: COMPLETE, PARTIAL (an image failed) or NOT_ANALYSED (nothing was evaluated).
        findings: One per label, in the bundle's order, also when not evaluated; for several
            images one per image and label.
        reasons: Why something was not evaluated, most important first.
        remarks: English sentences for the reader. No patient data.
        started_at: Start of the analysis, timezone-aware.
    """

    model: ModelIdentity
    task: ForeignTask
    status: AnalysisStatus
    findings: tuple[ForeignFinding, ...]
    reasons: tuple[NotAnalysedReason, ...] = ()
    remarks: tuple[str, ...] = ()
    started_at: datetime

    def __post_init__(self) -> None:
        """Refuse an answer that could be read as normal for a study nobody analysed."""
        if self.status is AnalysisStatus.NOT_ANALYSED:
            if any(each.is_evaluated for each in self.findings) or not self.reasons:
                raise ValueError("a study that was not analysed has no answers, and has a reason")
        elif not self.findings or not all(each.is_evaluated for each in self.findings):
            raise ValueError("an analysed study has an answer for every label")
        if self.started_at.tzinfo is None:
            raise ValueError("started_at must be timezone-aware")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """What was said of one label of one study; numbers as `ForeignFinding` has them."""

    label: str
    voxels: int | None
    volume_mm3: float | None
    score: float | None


def summarise(result: ForeignResult) -> tuple[LabelSummary, ...]:
    """The answer without its voxels: one entry for each evaluated label, or image and label."""
    return tuple(
        LabelSummary(
            label=each.label.name,
            voxels=each.voxels,
            volume_mm3=each.volume_mm3,
            score=each.score,
        )
        for each in result.findings
        if each.is_evaluated
    )
