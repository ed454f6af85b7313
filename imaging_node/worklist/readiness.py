"""Whether the node can do its whole job at this moment, and what is missing if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from imaging_node.domain.records import RoleStatus

MAXIMUM_HEARTBEAT_AGE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What is missing; nothing when ready."""

    missing: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        """True when nothing is missing."""
        return not self.missing


def readiness(
    roles: Sequence[RoleStatus],
    *,
    required_roles: Sequence[str],
    is_database_writable: bool,
    now: datetime,
) -> Readiness:
    """Judge the heartbeats; one live process of a role is enough."""
    missing = [] if is_database_writable else ["database: not writable"]
    for role in required_roles:
        ages = [(now - each.heartbeat_at).total_seconds() for each in roles if each.role == role]
        if not ages:
            missing.append(f"{role}: never reported")
        elif min(ages) >= MAXIMUM_HEARTBEAT_AGE_S:
            missing.append(f"{role}: last reported {min(ages):.0f} s ago")
    return Readiness(missing=tuple(missing))
