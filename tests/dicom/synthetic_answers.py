"""Answers of no real model, and the node that gives them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from imaging_node.domain.finding import (
    AnalysisStatus,
    FindingScore,
    ModelIdentity,
    NotAnalysedReason,
    StudyResult,
)
from imaging_node.domain.result_object import NodeIdentity, ReportReference, ResultContext

if TYPE_CHECKING:
    from imaging_node.dicom.source import SourceHeader

STARTED = datetime(2026, 11, 2, 9, 20, 5, tzinfo=UTC)
SERIES_STARTED = datetime(2026, 11, 2, 9, 20, 4, tzinfo=UTC)
MODEL = ModelIdentity(
    name="chest_xray", version="1.2.0", manufacturer="Demo", digest="sha256:" + "ab" * 32
)
NODE = NodeIdentity(
    ae_title="IMAGING_NODE",
    manufacturer="imaging-node",
    model_name="imaging-node",
    software_version="0.1.0",
    serial_number="0001",
)


def score(
    label: str, probability: float | None, *, sop_instance_uid: str = "", withheld: bool = False
) -> FindingScore:
    """Finding with a band from 0.4 to 0.5."""
    evaluated = probability is not None
    return FindingScore(
        label=label,
        probability=probability,
        interval=(max(0.0, probability - 0.1), probability) if probability is not None else None,
        spread=0.0212 if evaluated else None,
        operating_point=0.5,
        undetermined_from=0.4,
        sop_instance_uid=sop_instance_uid,
        absence_withheld=withheld,
    )


def answer(
    sources: list[SourceHeader],
    *,
    status: AnalysisStatus = AnalysisStatus.COMPLETE,
    reasons: tuple[NotAnalysedReason, ...] = (),
    remarks: tuple[str, ...] = ("View not stated; assumed to be frontal.",),
) -> StudyResult:
    """One finding present, one undetermined, one absent; or none evaluated."""
    uid = sources[0].sop_instance_uid
    findings: tuple[FindingScore, ...]
    if status is AnalysisStatus.NOT_ANALYSED:
        findings = tuple(score(each, None) for each in ("Pneumothorax", "Mass", "Effusion"))
    else:
        findings = (
            score("Pneumothorax", 0.93127, sop_instance_uid=uid),
            score("Mass", 0.44, sop_instance_uid=uid),
            score(
                "Effusion",
                0.05,
                sop_instance_uid=uid,
                withheld=status is AnalysisStatus.PARTIAL,
            ),
        )
    return StudyResult(
        model=MODEL,
        status=status,
        findings=findings,
        reasons=reasons,
        remarks=remarks,
        started_at=STARTED,
    )


def context(
    sources: list[SourceHeader],
    *,
    revision: int = 0,
    predecessor: ReportReference | None = None,
) -> ResultContext:
    """Context of an answer that rests on `sources`."""
    return ResultContext(
        node=NODE,
        source_sop_instance_uids=tuple(source.sop_instance_uid for source in sources),
        settings_digest="sha256:" + "cd" * 32,
        revision=revision,
        predecessor=predecessor,
        series_started_at=lambda _series_instance_uid: SERIES_STARTED,
    )
