"""Tell the auditor who changed what the node works with, or what it is judged by."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from imaging_node.domain.audit import AlertKind, AuditEvent, AuditKind
from imaging_node.node.wiring import open_trail

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from imaging_node.settings import Settings


def acting_user() -> str:
    """Who runs this process: from the system, for the environment says what one likes."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def audit_configuration(
    settings: Settings, role: str, changes: Iterable[tuple[datetime, str, str]]
) -> None:
    """Record changes (PS3.15 A.5.3, Security Alert, Software Configuration), durably.

    Args:
        settings: They say where the audit log is.
        role: The part of the node that made them.
        changes: When, by whom, and in words without patient data what.

    Raises:
        StorageError: The state directory cannot be used.
    """
    trail = open_trail(settings, role)
    try:
        for occurred_at, user, reason in changes:
            trail.record(
                AuditEvent(
                    kind=AuditKind.SECURITY_ALERT,
                    alert=AlertKind.SOFTWARE_CONFIGURATION,
                    occurred_at=occurred_at,
                    role=role,
                    user=user,
                    reason=reason,
                ),
                is_durable=True,
            )
    finally:
        trail.close()
