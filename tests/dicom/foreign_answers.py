"""Answers of foreign models that nobody trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.domain.coded_term import CodedTerm, local_term
from imaging_node.domain.finding import AnalysisStatus, ModelIdentity, NotAnalysedReason
from imaging_node.domain.foreign_result import (
    ForeignFinding,
    ForeignLabel,
    ForeignResult,
    ForeignTask,
)
from tests.dicom.synthetic_answers import STARTED

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = ModelIdentity(
    name="spleen_like", version="0.5.9", manufacturer="Nobody", digest="sha256:" + "ab" * 32
)
CATEGORY = CodedTerm(value="123037004", scheme="SCT", meaning="Anatomical structure")
SPLEEN = ForeignLabel(
    name="spleen",
    concept=CodedTerm(value="78961009", scheme="SCT", meaning="Spleen"),
    category=CATEGORY,
)
UNKNOWN = ForeignLabel(name="thing", concept=local_term("thing"), category=CATEGORY)
LIVER = ForeignLabel(
    name="liver",
    concept=CodedTerm(value="10200004", scheme="SCT", meaning="Liver"),
    category=CATEGORY,
)
LABELS = (SPLEEN, UNKNOWN, LIVER)


def segmented(*voxels: int, voxel_mm3: float = 2.0) -> ForeignResult:
    """So many voxels of each label."""
    return _result(
        ForeignTask.SEGMENTATION,
        [
            ForeignFinding(label=label, voxels=count, volume_mm3=count * voxel_mm3)
            for label, count in zip(LABELS, voxels, strict=True)
        ],
    )


def scored(sop_instance_uid: str, *scores: float) -> ForeignResult:
    """A raw score of each label."""
    return _result(
        ForeignTask.CLASSIFICATION,
        [
            ForeignFinding(label=label, score=score, sop_instance_uid=sop_instance_uid)
            for label, score in zip(LABELS, scores, strict=True)
        ],
    )


def not_analysed(*reasons: NotAnalysedReason) -> ForeignResult:
    """Nothing of any label."""
    return _result(
        ForeignTask.SEGMENTATION,
        [ForeignFinding(label=label) for label in LABELS],
        status=AnalysisStatus.NOT_ANALYSED,
        reasons=reasons,
    )


def _result(
    task: ForeignTask,
    findings: Sequence[ForeignFinding],
    *,
    status: AnalysisStatus = AnalysisStatus.COMPLETE,
    reasons: tuple[NotAnalysedReason, ...] = (),
) -> ForeignResult:
    return ForeignResult(
        model=MODEL,
        task=task,
        status=status,
        findings=tuple(findings),
        reasons=reasons,
        remarks=("A remark.",),
        started_at=STARTED,
    )
