"""Instances that contradict what is known: kept and shown, never scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from imaging_node.domain.records import QuarantinedInstance
from imaging_node.store.checksums import damaged_row_ids, row_id
from imaging_node.store.schema import quarantine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from imaging_node.store.arrivals import ArrivingInstance
    from imaging_node.store.database import Database


def add_to_quarantine(
    connection: Connection, arriving: ArrivingInstance, *, reason: str, now: datetime
) -> None:
    """Note an instance that was refused though its bytes are in the spool; safe to repeat."""
    image = arriving.image
    connection.execute(
        insert(quarantine)
        .values(
            study_instance_uid=image.study_instance_uid,
            series_instance_uid=image.series_instance_uid,
            sop_instance_uid=image.sop_instance_uid,
            sop_class_uid=image.sop_class_uid,
            transfer_syntax_uid=image.transfer_syntax_uid,
            accession_number=arriving.accession_number,
            patient_digest=arriving.patient_digest,
            digest=image.digest,
            reason=reason,
            calling_ae_title=arriving.calling_ae_title,
            received_at=now,
        )
        .on_conflict_do_nothing()
    )


def list_quarantined(
    database: Database, *, study_instance_uid: str | None = None
) -> Sequence[QuarantinedInstance]:
    """Quarantined instances in order of arrival, of one study when a UID is given.

    A damaged row stands in the list with what is certain of it: that an instance was refused.
    """
    wanted = (
        []
        if study_instance_uid is None
        else [quarantine.c.study_instance_uid == study_instance_uid]
    )
    with database.read() as connection:
        damaged = damaged_row_ids(connection, quarantine, *wanted)
        rows = connection.execute(
            sa.select(quarantine)
            .where(*wanted, row_id(quarantine).not_in(damaged))
            .order_by(quarantine.c.id)
        ).all()
    known = [
        QuarantinedInstance(
            study_instance_uid=row.study_instance_uid,
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            accession_number=row.accession_number,
            reason=row.reason,
            digest=row.digest,
            calling_ae_title=row.calling_ae_title,
            received_at=row.received_at,
        )
        for row in rows
    ]
    unknown = [
        QuarantinedInstance(
            study_instance_uid=study_instance_uid or "",
            sop_instance_uid="",
            sop_class_uid="",
            accession_number="",
            reason=f"row damaged: row {each} of the table quarantine is not what was written;"
            " restore the database from a backup",
            digest="",
            calling_ae_title="",
            received_at=None,
        )
        for each in damaged
    ]
    return [*known, *unknown]
