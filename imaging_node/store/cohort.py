"""Studies of a time, for looks back at them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.priority import ReadingPriority
from imaging_node.store.checksums import is_intact
from imaging_node.store.schema import studies

if TYPE_CHECKING:
    from imaging_node.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortStudy:
    """One study of the time.

    Attributes:
        patient_digest: The same for studies of one patient; "" when the header names none.
    """

    study_instance_uid: str
    patient_digest: str
    ordered_priority: ReadingPriority
    received_at: datetime
    generation: int


def list_cohort(database: Database, *, since: datetime | None = None) -> list[CohortStudy]:
    """Studies received since then, or all, in order of arrival; damaged rows are left out."""
    names = tuple(CohortStudy.__dataclass_fields__)
    query = (
        sa.select(*(studies.c[name] for name in names))
        .where(is_intact(studies))
        .order_by(studies.c.received_at, studies.c.study_instance_uid)
    )
    if since is not None:
        query = query.where(studies.c.received_at >= since)
    with database.read() as connection:
        return [
            CohortStudy(
                study_instance_uid=row.study_instance_uid,
                patient_digest=row.patient_digest,
                ordered_priority=ReadingPriority(row.ordered_priority),
                received_at=row.received_at,
                generation=row.generation,
            )
            for row in connection.execute(query)
        ]
