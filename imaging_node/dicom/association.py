"""One association: from its request to the note of how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from imaging_node.dicom.commitment import COMMITMENT_PUSH_MODEL
from imaging_node.dicom.endings import Ended, Ending
from imaging_node.dicom.intake_port import Intake, Transferred
from imaging_node.dicom.negotiation import (
    DRAINING,
    STORAGE_LOW,
    Agreement,
    Answer,
    Caller,
    Policy,
    checked_user,
    read_request,
    reject_pdu,
)
from imaging_node.dicom.receiver import AssociationServices
from imaging_node.dicom.storage_classes import VERIFICATION
from imaging_node.dicom.upper_layer import MessageConsumer, UpperLayer
from imaging_node.domain.audit import legal_ae_title
from imaging_node.settings import DicomSettings
from imaging_node.telemetry import Counters, Event, Metric, log

if TYPE_CHECKING:
    import socket


class Begun(Protocol):
    """Takes note of an accepted association."""

    def __call__(self, caller: Caller, *, stores: bool) -> None:
        """`stores`: whether a storage class was agreed on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What the listener tells the rest of the node.

    Attributes:
        is_storage_low: Whether new associations must be refused.
        on_refused: A caller was turned away, with the reason in words.
        on_begun: An association was accepted; whether it may store.
        on_ended: An association ended, with what it brought.
    """

    is_storage_low: Callable[[], bool]
    on_refused: Callable[[Caller, str], None]
    on_begun: Begun
    on_ended: Callable[[Caller, Ending, Transferred], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """What all associations of a listener share."""

    settings: DicomSettings
    policy: Policy
    intake: Intake
    watch: Watch
    counters: Counters
    is_draining: Callable[[], bool]

    def note_refusal(self, caller: Caller, code: str, reason: str) -> None:
        """Count, log and report a caller that was turned away."""
        self.counters.add(Metric.REFUSED_ASSOCIATIONS, reason=code)
        log(
            Event.ASSOCIATION_REFUSED,
            status=code,
            reason=reason,
            ae_title=caller.ae_title,
            address=caller.address,
        )
        self.watch.on_refused(caller, f"{code}: {reason}")


class Association:
    """Owns one connection until it is closed.

    Attributes:
        layer: Reads and answers its PDUs.
    """

    def __init__(
        self,
        connection: socket.socket,
        caller: Caller,
        reception: Reception,
        connected_at_s: float,
    ) -> None:
        self._caller = caller
        self._reception = reception
        self._services: AssociationServices | None = None
        self.layer = UpperLayer(
            connection,
            negotiate=self._negotiate,
            idle_timeout_s=reception.settings.idle_timeout_s,
            connected_at_s=connected_at_s,
        )

    def serve(self) -> None:
        """Serve until the connection is closed."""
        try:
            ending = self.layer.serve()
        finally:
            if self._services is not None:
                self._services.close()
        if ending.how in (Ended.ABORTED, Ended.CONNECTION_LOST):
            log(
                Event.ASSOCIATION_BROKEN,
                state=ending.how.value,
                reason=ending.reason,
                ae_title=self._caller.ae_title,
                address=self._caller.address,
            )
        if self._services is not None:
            self._reception.watch.on_ended(self._caller, ending, self._services.transferred)

    def _negotiate(self, pdu: bytes) -> Answer:
        reception = self._reception
        request = read_request(pdu)
        self._caller = replace(self._caller, ae_title=legal_ae_title(request.calling_ae_title))
        rejection = reception.policy.refusal(request, self._caller)
        if rejection is None and reception.is_draining():
            rejection = DRAINING
        if (
            rejection is None
            and not request.asks_verification_alone
            and reception.watch.is_storage_low()
        ):
            rejection = STORAGE_LOW
        if rejection is not None:
            reception.note_refusal(self._caller, rejection.code, rejection.reason)
            return Answer(pdu=reject_pdu(rejection), reason=rejection.reason)
        accepted, contexts = reception.policy.accept(request)
        reception.counters.add(Metric.ASSOCIATIONS)
        self._caller = replace(self._caller, user=checked_user(request, reception.settings))
        services = {each.abstract_syntax for each in contexts.values()}
        reception.watch.on_begun(
            self._caller, stores=bool(services - {VERIFICATION, COMMITMENT_PUSH_MODEL})
        )
        agreement = Agreement(caller=self._caller, contexts=contexts)

        def consume(layer: UpperLayer) -> MessageConsumer:
            self._services = AssociationServices(
                layer,
                agreement,
                reception.intake,
                reception.counters,
                max_instance_bytes=reception.settings.max_instance_bytes,
            )
            return self._services

        return Answer(pdu=accepted, consume=consume)
