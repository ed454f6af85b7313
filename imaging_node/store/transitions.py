"""The audit of the work: who moved what, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.store.prepared import Prepared
from imaging_node.store.schema import transitions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection


_INSERT = Prepared(
    transitions.insert().values(
        {each.name: sa.bindparam(each.name, type_=each.type) for each in transitions.c[1:]}
    )
)


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
    _INSERT.run(
        connection,
        [
            {"subject": subject, "state": state, "reason": reason, "moved_by": by, "moved_at": now}
            for subject, reason in moved
        ],
    )
