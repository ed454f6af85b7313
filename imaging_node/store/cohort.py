"""Studies of a time, for looks back at them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.priority import ReadingPriority
from imaging_node.store.checksums import is_intact
from imaging_node.store.schema import results, studies

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


def answering_digests(database: Database, study_instance_uid: str) -> set[str]:
    """Digests of the models whose reports are the study's last ones."""
    own = sa.and_(results.c.study_instance_uid == study_instance_uid, is_intact(results))
    last = sa.select(sa.func.max(results.c.generation)).where(own).scalar_subquery()
    query = sa.select(results.c.model_digest).where(own, results.c.generation == last)
    with database.read() as connection:
        return set(connection.scalars(query))
