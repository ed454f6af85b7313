"""Arriving instances of synthetic patients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.study import ImageInstance
from imaging_node.store.arrivals import Arrival, ArrivingInstance, note_arrival

if TYPE_CHECKING:
    from imaging_node.store.database import Database

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
QUIET = timedelta(seconds=5)


def arriving(
    study: str = "1.2.3",
    instance: str = "1.2.3.1",
    *,
    digest: str = "a" * 64,
    patient: str = "p1",
    priority: ReadingPriority = ReadingPriority.ROUTINE,
    is_archive: bool = False,
) -> ArrivingInstance:
    return ArrivingInstance(
        image=ImageInstance(
            path=Path("x"),
            digest=digest,
            study_instance_uid=study,
            series_instance_uid=f"{study}.9",
            sop_instance_uid=instance,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="DX",
            body_part="CHEST",
            view_position="AP",
            photometric_interpretation="MONOCHROME2",
            presentation_intent="FOR PRESENTATION",
            patient_age_years=4.0,
            rows=512,
            columns=512,
            number_of_frames=1,
            has_pixel_data=True,
        ),
        is_in_spool=True,
        patient_digest=patient,
        accession_number="ACC1",
        study_at=NOON,
        ordered_priority=priority,
        calling_ae_title="MODALITY",
        is_archive=is_archive,
    )


def note(database: Database, instance: ArrivingInstance, *, at: datetime = NOON) -> Arrival:
    return note_arrival(database, instance, now=at, quiet_period=QUIET)
