"""How listings show damaged rows: as failed or parked, with what can still be read of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.records import DeliveryRecord, StudyRecord, WorklistRow
from imaging_node.store.damage import DAMAGE_REASON, ROW_DAMAGED, damaged_values
from imaging_node.store.schema import damaged_rows, deliveries, studies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from imaging_node.telemetry import Pseudonyms


def damaged_studies(
    connection: Connection, row_ids: Sequence[int], *, now: datetime
) -> dict[int, StudyRecord]:
    """Damaged studies by row id; each is failed since it was noticed, and read first.

    Its priority may be what is damaged: the highest is the safe one.
    """
    noticed = {
        row.row_id: row.noticed_at
        for row in connection.execute(
            sa.select(damaged_rows).where(damaged_rows.c.table_name == studies.name)
        )
    }
    columns = ("study_instance_uid", "accession_number", "generation", "received_at")
    return {
        int(row["row_id"] or 0): StudyRecord(
            study_instance_uid=str(row["study_instance_uid"]),
            accession_number=str(row["accession_number"]),
            state=StudyState.FAILED,
            reason=DAMAGE_REASON,
            generation=int(row["generation"] or 0),
            priority=ReadingPriority.STAT,
            received_at=_moment(row["received_at"], now),
            finished_at=noticed.get(int(row["row_id"] or 0), now),
            instances=0,
        )
        for row in damaged_values(connection, studies, row_ids, columns)
    }


def damaged_worklist_rows(
    connection: Connection,
    pseudonyms: Pseudonyms,
    ranks: sa.Subquery,
    damaged: Sequence[int],
    *,
    now: datetime,
) -> list[WorklistRow]:
    """Damaged studies with the ranks that the worklist gave their row ids."""
    if not damaged:
        return []
    rank_of = {
        row.row_id: row.rank
        for row in connection.execute(sa.select(ranks).where(ranks.c.row_id.in_(damaged)))
    }
    return [
        WorklistRow(
            study=record,
            token=pseudonyms.token(record.study_instance_uid),
            rank=rank_of[each],
            priority_reason="not known: row damaged",
            findings=(),
            remarks=(),
            captures=(),
            deliveries={},
        )
        for each, record in damaged_studies(connection, damaged, now=now).items()
    ]


def damaged_deliveries(connection: Connection, row_ids: Sequence[int]) -> list[DeliveryRecord]:
    """Damaged deliveries: parked, since nobody can tell what to send where."""
    columns = ("study_instance_uid", "sop_instance_uid", "destination", "attempts")
    return [
        DeliveryRecord(
            id=int(row["row_id"] or 0),
            study_instance_uid=str(row["study_instance_uid"]),
            sop_instance_uid=str(row["sop_instance_uid"]),
            sop_class_uid="",
            destination=str(row["destination"]),
            state=DeliveryState.PARKED,
            attempts=int(row["attempts"] or 0),
            last_status=ROW_DAMAGED,
            next_attempt_at=None,
        )
        for row in damaged_values(connection, deliveries, row_ids, columns)
    ]


def _moment(value: str | int | None, now: datetime) -> datetime:
    """The time a number of microseconds stands for, `now` when it cannot be a past one."""
    if isinstance(value, int) and 0 <= value <= now.timestamp() * 1_000_000:
        return datetime.fromtimestamp(value / 1_000_000, UTC)
    return now
