"""Tell the auditor who changed what the node works with, or what it is judged by."""

from __future__ import annotations

import os
import pwd
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from imaging_node.domain.audit import AlertKind, AuditEvent, AuditKind
from imaging_node.domain.errors import StorageError
from imaging_node.node.wiring import open_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from imaging_node.settings import Settings
    from imaging_node.store.audit_trail import AuditTrail

    Tell = Callable[[Iterable[tuple[datetime, str, str]]], None]

_FLUSH_LIMIT_S = 5.0


def acting_user() -> str:
    """Who runs this process: from the system, for the environment says what one likes."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@contextmanager
def audited_configuration(settings: Settings, role: str) -> Iterator[Tell]:
    """Open the audit log before anything is changed (PS3.15 A.5.3, Security Alert).

    Args:
        settings: They say where the audit log is.
        role: The part of the node that makes the changes.

    Yields:
        What is called once with the changes made: when, by whom, and in words without patient
        data what.

    Raises:
        StorageError: The log cannot be opened, and nothing may be changed; or the changes are
            made, and the log did not take them.
    """
    trail = open_trail(settings, role)
    try:
        yield partial(_tell, trail, role)
    finally:
        trail.close()


def _tell(trail: AuditTrail, role: str, changes: Iterable[tuple[datetime, str, str]]) -> None:
    for occurred_at, user, reason in changes:
        trail.record(
            AuditEvent(
                kind=AuditKind.SECURITY_ALERT,
                alert=AlertKind.SOFTWARE_CONFIGURATION,
                occurred_at=occurred_at,
                role=role,
                user=user,
                reason=reason,
            )
        )
    if not trail.flush(_FLUSH_LIMIT_S):
        raise StorageError(
            f"{role}: changed, but not audited: the audit log cannot be written; free space on"
            " the disk of the state directory, and keep what this command was for the auditor"
        )
