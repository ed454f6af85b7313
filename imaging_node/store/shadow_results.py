"""Scores of models in shadow, beside those of the models that answered: compared, never sent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.finding import AnalysisStatus, FindingScore
from imaging_node.domain.foreign_result import LabelSummary
from imaging_node.domain.priority import ReadingPriority
from imaging_node.store.checksums import is_intact
from imaging_node.store.listings import stored_finding
from imaging_node.store.schema import shadow_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowResult:
    """What one model said of one generation of a study.

    Attributes:
        is_delivered: True for the answer that was sent, kept to compare with.
        reason: Why something was not analysed; "" when everything was.
        findings: As in an answer, none without scores.
        labels: What a foreign bundle said; empty for the node's own models.
        priority: What the study would have had with this answer alone.
        duration_ms: From reading the study to its scores; 0 for a delivered answer.
    """

    study_instance_uid: str
    generation: int
    model: str
    version: str
    model_digest: str
    settings_digest: str
    is_delivered: bool
    status: AnalysisStatus
    reason: str
    findings: tuple[FindingScore, ...]
    priority: ReadingPriority
    duration_ms: int
    recorded_at: datetime
    labels: tuple[LabelSummary, ...] = ()


def record_shadow_results(database: Database, results: Sequence[ShadowResult]) -> None:
    """Keep results, all or none."""
    with database.write() as connection:
        connection.execute(
            shadow_results.insert(),
            [
                {name: getattr(each, name) for name in ShadowResult.__dataclass_fields__}
                | {
                    "findings": [asdict(score) for score in each.findings],
                    "labels": [asdict(label) for label in each.labels],
                }
                for each in results
            ],
        )


def list_shadow_results(
    database: Database, *, since: datetime | None = None, study_instance_uid: str | None = None
) -> list[ShadowResult]:
    """Results in the order in which they were recorded; what is damaged is left out."""
    query = sa.select(shadow_results).where(is_intact(shadow_results))
    if since is not None:
        query = query.where(shadow_results.c.recorded_at >= since)
    if study_instance_uid is not None:
        query = query.where(shadow_results.c.study_instance_uid == study_instance_uid)
    with database.read() as connection:
        return [
            ShadowResult(
                **{
                    **row._mapping,  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping
                    "status": AnalysisStatus(row.status),
                    "priority": ReadingPriority(row.priority),
                    "findings": tuple(stored_finding(each) for each in row.findings),
                    "labels": tuple(LabelSummary(**each) for each in row.labels),
                }
            )
            for row in connection.execute(
                query.order_by(shadow_results.c.id).with_only_columns(
                    *(shadow_results.c[name] for name in ShadowResult.__dataclass_fields__)
                )
            )
        ]
