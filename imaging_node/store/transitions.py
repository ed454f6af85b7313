"""The audit of the work: who moved what, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.store.schema import transitions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection


def record_transition(  # noqa: D103 - see the module
    connection: Connection, subject: str, state: str, *, by: str, now: datetime, reason: str = ""
) -> None:
    connection.execute(
        transitions.insert().values(
            subject=subject, state=state, reason=reason, moved_by=by, moved_at=now
        )
    )


def record_transitions(
    connection: Connection,
    moved: Sequence[tuple[str, str]],
    state: str,
    *,
    by: str,
    now: datetime,
) -> None:
    """Record that each (subject, reason) came to `state`."""
    if not moved:
        return
    connection.execute(
        transitions.insert(),
        [
            {"subject": subject, "state": state, "reason": reason, "moved_by": by, "moved_at": now}
            for subject, reason in moved
        ],
    )
