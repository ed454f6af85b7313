"""Tell the auditor of changed models (PS3.15 A.5.3, Security Alert, Software Configuration)."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from imaging_node.domain.audit import AlertKind, AuditEvent, AuditKind
from imaging_node.domain.errors import StorageError
from imaging_node.domain.model_state import ModelState
from imaging_node.node.wiring import open_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imaging_node.domain.model_state import ModelChange
    from imaging_node.settings import Settings
    from imaging_node.store.audit_trail import AuditTrail

_FLUSH_LIMIT_S = 5.0


@contextmanager
def audited_changes(settings: Settings) -> Iterator[Callable[[Sequence[ModelChange]], None]]:
    """Open the audit log before anything is changed; yields what is called with the changes made.

    Raises:
        StorageError: The log cannot be opened, and nothing may be changed; or the changes are
            made, and the log did not take them.
    """
    trail = open_trail(settings, "models")
    try:
        yield partial(_tell, trail)
    finally:
        trail.close()


def _tell(trail: AuditTrail, changes: Sequence[ModelChange]) -> None:
    for change in changes:
        share = f" for {change.share:g}" if change.state is ModelState.CANARY else ""
        trail.record(
            AuditEvent(
                kind=AuditKind.SECURITY_ALERT,
                alert=AlertKind.SOFTWARE_CONFIGURATION,
                occurred_at=change.changed_at,
                role="models",
                user=change.changed_by,
                reason=(
                    f"model {change.bundle} {change.action}: {change.former or 'none'} ->"
                    f" {change.state or 'none'}{share}, {change.digest[:23]}; {change.reason}"
                ),
            )
        )
    if not trail.flush(_FLUSH_LIMIT_S):
        bundles = ", ".join(each.bundle for each in changes)
        raise StorageError(
            f"changed, but not audited: {bundles}; the audit log cannot be written: free space on"
            " the disk of the state directory, and keep `imaging-node models history` for the"
            " auditor"
        )
