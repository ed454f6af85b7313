"""The audit of the work: who moved what, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.store.schema import transitions

if TYPE_CHECKING:
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
