"""What an auditor is told of associations: who came, what they brought, who was turned away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.dicom.association import Watch
from imaging_node.dicom.endings import Ended
from imaging_node.dicom.negotiation import USER_REFUSED
from imaging_node.domain.audit import MINOR_FAILURE, SERIOUS_FAILURE, SUCCESS, AuditEvent, AuditKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from imaging_node.dicom.endings import Ending
    from imaging_node.dicom.intake_port import Transferred
    from imaging_node.dicom.negotiation import Caller
    from imaging_node.store.audit_trail import AuditTrail

# Of one message: an association may bring any number of studies.
_STUDIES_AT_A_TIME = 100


class AssociationAudit:
    """Writes the audit trail of a listener; messages are PS3.15 A.5.3's."""

    def __init__(self, trail: AuditTrail, *, clock: Callable[[], datetime]) -> None:
        self._trail = trail
        self._clock = clock

    def watch(self, *, is_storage_low: Callable[[], bool]) -> Watch:
        """What the listener calls."""
        return Watch(
            is_storage_low=is_storage_low,
            on_refused=self._refused,
            on_begun=self._begun,
            on_ended=self._ended,
        )

    def _refused(self, caller: Caller, reason: str) -> None:
        is_login = reason.endswith(USER_REFUSED.reason)
        self._record(
            AuditKind.USER_AUTHENTICATION if is_login else AuditKind.SECURITY_ALERT,
            caller,
            outcome=SERIOUS_FAILURE if is_login else MINOR_FAILURE,
            reason=reason,
        )

    def _begun(self, caller: Caller, *, stores: bool) -> None:
        if caller.certificate_sha256 or caller.user:
            self._record(AuditKind.USER_AUTHENTICATION, caller, reason="association")
        if stores:
            self._record(AuditKind.BEGIN_TRANSFERRING, caller)

    def _ended(self, caller: Caller, ending: Ending, transferred: Transferred) -> None:
        if not transferred.instances and not transferred.refused:
            return
        is_whole = ending.how is Ended.RELEASED and not transferred.refused
        studies = sorted(each for each in transferred.instances if each)
        for begin in range(0, max(1, len(studies)), _STUDIES_AT_A_TIME):
            some = studies[begin : begin + _STUDIES_AT_A_TIME]
            self._record(
                AuditKind.INSTANCES_TRANSFERRED,
                caller,
                outcome=SUCCESS if is_whole else MINOR_FAILURE,
                reason=f"{ending.how.value}, {transferred.refused} refused",
                studies=tuple(some),
                instances=sum(transferred.instances[each] for each in some),
                size_bytes=transferred.dataset_bytes if not begin else 0,
            )

    def _record(
        self,
        kind: AuditKind,
        caller: Caller,
        *,
        outcome: int = SUCCESS,
        reason: str = "",
        studies: tuple[str, ...] = (),
        instances: int = 0,
        size_bytes: int = 0,
    ) -> None:
        self._trail.record(
            AuditEvent(
                kind=kind,
                occurred_at=self._clock(),
                outcome=outcome,
                role="receive",
                peer_ae_title=caller.ae_title,
                peer_address=caller.address,
                reason=reason,
                studies=studies,
                instances=instances,
                bytes=size_bytes,
            )
        )
