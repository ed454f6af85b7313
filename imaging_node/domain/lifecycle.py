"""States of studies and deliveries, and which changes are legal."""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    """Where a study stands; the last four are endings that a new instance or a retry reopens."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    SCORING = "scoring"
    DONE = "done"
    NOT_ANALYSED = "not_analysed"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """True when nothing more happens by itself."""
        return self in FINAL_STUDY_STATES


FINAL_STUDY_STATES = frozenset(
    {StudyState.DONE, StudyState.NOT_ANALYSED, StudyState.NOT_APPLICABLE, StudyState.FAILED}
)


class DeliveryState(StrEnum):
    """Where one object stands with one destination.

    STORED: the peer has it, and its storage commitment is awaited.
    """

    WAITING = "waiting"
    STORED = "stored"
    DELIVERED = "delivered"
    PARKED = "parked"
