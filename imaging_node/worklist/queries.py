"""What the page may ask of the rest of the node; all of it only reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from imaging_node.domain.records import (
    DeliveryRecord,
    QuarantinedInstance,
    RoleStatus,
    WorkCounts,
    WorklistRow,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistQueries:
    """Callables that the page calls once or a few times a request, from several threads.

    Attributes:
        worklist: Every study to show, each with its rank.
        study: The row that a token names, None if there is none.
        capture_png: The picture that a token names, None if there is none.
        deliveries: Every delivery to show.
        quarantined: Every instance that was refused and kept.
        roles: The last word of each role process.
        counts: For the metrics and the summary.
        is_database_writable: True when a write transaction succeeds now.
        required_roles: Roles without which the node is not ready, e.g. ("receive", "score").
        now: The current time, timezone-aware.
    """

    worklist: Callable[[], Sequence[WorklistRow]]
    study: Callable[[str], WorklistRow | None]
    capture_png: Callable[[str], bytes | None]
    deliveries: Callable[[], Sequence[DeliveryRecord]]
    quarantined: Callable[[], Sequence[QuarantinedInstance]]
    roles: Callable[[], Sequence[RoleStatus]]
    counts: Callable[[], WorkCounts]
    is_database_writable: Callable[[], bool]
    required_roles: tuple[str, ...]
    now: Callable[[], datetime]
