"""What a model would have done with the studies that came lately, by their headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaging_node.domain.errors import IntegrityError
from imaging_node.domain.study import select_images
from imaging_node.store.arrivals import read_study
from imaging_node.store.cohort import list_cohort

if TYPE_CHECKING:
    from datetime import datetime

    from imaging_node.domain.study import Eligibility
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """Counts of studies.

    Attributes:
        studies: All that came in the time.
        meant: Those of a modality that the model is meant for.
        taken: Those of them with an image that it would have scored.
    """

    studies: int
    meant: int
    taken: int

    def __str__(self) -> str:
        return f"would have taken {self.taken} of {self.studies} studies"


def would_take(
    database: Database,
    spool: Spool,
    eligibility: Eligibility,
    waived: frozenset[str],
    *,
    since: datetime,
) -> DryRun:
    """Ask a bundle's eligibility about every study received since; damaged ones are left out."""
    studies = meant = taken = 0
    for record in list_cohort(database, since=since):
        try:
            study = read_study(database, spool, record.study_instance_uid)
        except IntegrityError:
            continue
        selection = select_images(study, eligibility, waived)
        studies += 1
        meant += selection.applicable
        taken += bool(selection.images)
    return DryRun(studies=studies, meant=meant, taken=taken)
