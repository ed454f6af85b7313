"""Who is let in and for what: from an A-ASSOCIATE-RQ to its acceptance or rejection."""

from __future__ import annotations

import hmac
import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from imaging_node.dicom.commitment import COMMITMENT_PUSH_MODEL, COMMITMENT_SYNTAXES
from imaging_node.dicom.endings import AbortAssociationError, AbortReason
from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_node.dicom.storage_classes import VERIFICATION, allowed_storage_classes
from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, UNCOMPRESSED
from imaging_node.dicom.upper_layer import MessageConsumer, UpperLayer
from imaging_node.dicom.wire import OFFERED_PDU_BYTES

if TYPE_CHECKING:
    from imaging_node.settings import CallerSettings, DicomSettings

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_VERSION_1 = 1
_USERNAME_AND_PASSCODE = 2  # PS3.7 D.3.3.7

# What pynetdicom is known to raise on damaged association requests.
_DECODE_ERRORS = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
    NotImplementedError, RecursionError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why an association is refused, PS3.8 table 9-21.

    Attributes:
        result: 1 permanent, 2 transient.
        source: 1 service user, 2 provider (ACSE), 3 provider (presentation).
        diagnostic: Reason by source.
        reason: In words, for log and audit.
    """

    result: int
    source: int
    diagnostic: int
    reason: str

    @property
    def code(self) -> str:
        """As the standard's tables name it, e.g. "1/1/7"."""
        return f"{self.result}/{self.source}/{self.diagnostic}"


CALLED_AE_UNKNOWN = Rejection(
    result=1, source=1, diagnostic=7, reason="called AE title is not ours"
)
CALLER_UNKNOWN = Rejection(
    result=1, source=1, diagnostic=3, reason="no such caller at that address with that certificate"
)
NOT_ON_LOOPBACK = Rejection(
    result=1, source=1, diagnostic=3, reason="no callers are configured: loopback only"
)
APPLICATION_CONTEXT_UNKNOWN = Rejection(
    result=1, source=1, diagnostic=2, reason="unknown application context"
)
VERSION_UNKNOWN = Rejection(result=1, source=2, diagnostic=2, reason="unknown protocol version")
USER_REFUSED = Rejection(
    result=1, source=1, diagnostic=1, reason="user identity refused by dicom.user_identity"
)
DRAINING = Rejection(result=2, source=3, diagnostic=1, reason="the node is stopping")
OVER_LIMIT = Rejection(result=2, source=3, diagnostic=2, reason="too many associations")
STORAGE_LOW = Rejection(
    result=2, source=3, diagnostic=2, reason="free space, inodes or queue beyond their limit"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is on the other side, as far as it was shown.

    Attributes:
        address: Its IP address.
        certificate_sha256: Of the certificate it authenticated with; "" without TLS.
        ae_title: What it calls itself; "" before its request was read.
        user: User name it gave and that was checked, or "".
    """

    address: str
    certificate_sha256: str = ""
    ae_title: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """One presentation context that was agreed on."""

    abstract_syntax: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What both sides agreed on.

    Attributes:
        contexts: By presentation context identifier.
    """

    caller: Caller
    contexts: dict[int, AcceptedContext]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The PDU that answers a request.

    Attributes:
        consume: Makes what takes the messages; None when the association is rejected.
        reason: Why it was rejected.
    """

    pdu: bytes
    consume: Callable[[UpperLayer], MessageConsumer] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A decoded A-ASSOCIATE-RQ.

    Attributes:
        asks_verification_alone: No presentation context but Verification is proposed.
    """

    primitive: A_ASSOCIATE
    protocol_version: int
    called_ae_title: str
    calling_ae_title: str

    @property
    def asks_verification_alone(self) -> bool:
        """No presentation context but Verification is proposed."""
        return all(
            str(each.abstract_syntax) == VERIFICATION
            for each in self.primitive.presentation_context_definition_list
        )


class Policy:
    """The settings as a decision on each request; owns nothing that changes."""

    def __init__(self, settings: DicomSettings) -> None:
        self._settings = settings
        self._networks = [(each, ipaddress.ip_network(each.address)) for each in settings.callers]
        self._supported = _supported_contexts(settings)

    def refusal(self, request: Request, caller: Caller) -> Rejection | None:
        """Why this caller is not let in, or None."""
        if not request.protocol_version & _VERSION_1:
            return VERSION_UNKNOWN
        if str(request.primitive.application_context_name) != _APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT_UNKNOWN
        if request.called_ae_title != self._settings.ae_title.strip():
            return CALLED_AE_UNKNOWN
        address = ipaddress.ip_address(caller.address)
        if not self._settings.callers:
            if not self.is_expected(caller.address):
                return NOT_ON_LOOPBACK
        elif not any(
            _is(entry, request.calling_ae_title, caller) and address in network
            for entry, network in self._networks
        ):
            return CALLER_UNKNOWN
        return self._user_refusal(request)

    def is_expected(self, address: str) -> bool:
        """Whether somebody who may call has this IP address."""
        expected = ipaddress.ip_address(address)
        if not self._settings.callers:
            return expected.is_loopback
        return any(expected in network for _, network in self._networks)

    def accept(self, request: Request) -> tuple[bytes, dict[int, AcceptedContext]]:
        """The A-ASSOCIATE-AC PDU, and what was agreed on."""
        primitive = request.primitive
        roles = {
            item.sop_class_uid: (item.scu_role, item.scp_role)
            for item in primitive.user_information
            # Only the commitment report comes from an SCP that calls; for all else the default
            # roles hold, and an item without an answer says so (PS3.7 D.3.3.4.2).
            if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
            and item.sop_class_uid == COMMITMENT_PUSH_MODEL
        }
        results, answered_roles = negotiate_as_acceptor(
            primitive.presentation_context_definition_list, self._supported, roles
        )
        maximum_length = MaximumLengthNotification()
        maximum_length.maximum_length_received = OFFERED_PDU_BYTES
        class_uid = ImplementationClassUIDNotification()
        class_uid.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        information: list[Any] = [maximum_length, class_uid, version, *answered_roles]
        identity = _identity(request)
        if (
            self._settings.user_identity == "require"
            and identity is not None
            and identity.positive_response_requested
        ):
            response = UserIdentityNegotiation()
            response.server_response = b""  # PS3.7 D.3.3.7.2: empty for user names
            information.append(response)
        accepted = A_ASSOCIATE()
        accepted.application_context_name = _APPLICATION_CONTEXT
        accepted.calling_ae_title = primitive.calling_ae_title
        accepted.called_ae_title = primitive.called_ae_title
        accepted.result = 0
        accepted.result_source = 1
        accepted.presentation_context_definition_results_list = results
        accepted.user_information = information
        contexts = {
            each.context_id: AcceptedContext(
                str(each.abstract_syntax), str(each.transfer_syntax[0])
            )
            for each in results
            if each.result == 0 and each.context_id is not None
        }
        return A_ASSOCIATE_AC(accepted).encode(), contexts

    def _user_refusal(self, request: Request) -> Rejection | None:
        identity = _identity(request)
        policy = self._settings.user_identity
        if policy == "accept" or (policy == "refuse" and identity is None):
            return None
        if policy == "refuse" or identity is None:
            return USER_REFUSED
        if identity.user_identity_type != _USERNAME_AND_PASSCODE:
            return USER_REFUSED
        expected = self._settings.users.get(_user_name(identity), "")
        given = sha256(identity.secondary_field or b"").hexdigest()
        return None if hmac.compare_digest(expected, given) else USER_REFUSED


def read_request(pdu: bytes) -> Request:
    """Decode an A-ASSOCIATE-RQ.

    Raises:
        AbortAssociationError: It cannot be decoded.
    """
    request = A_ASSOCIATE_RQ()
    try:
        request.decode(pdu)
        primitive = request.to_primitive()
        called, calling = str(primitive.called_ae_title), str(primitive.calling_ae_title)
        if not primitive.presentation_context_definition_list or any(
            not each.transfer_syntax or each.abstract_syntax is None
            for each in primitive.presentation_context_definition_list
        ):
            raise ValueError("no presentation context")
    except _DECODE_ERRORS:
        raise AbortAssociationError(
            "the association request cannot be decoded",
            abort=AbortReason.INVALID_PARAMETER,
            is_provider=False,
        ) from None
    return Request(
        primitive=primitive,
        protocol_version=request.protocol_version,
        called_ae_title=called.strip(),
        calling_ae_title=calling.strip(),
    )


def checked_user(request: Request, settings: DicomSettings) -> str:
    """The user name that was held against `dicom.users`, or ""."""
    identity = _identity(request)
    if settings.user_identity != "require" or identity is None:
        return ""
    return _user_name(identity)


def reject_pdu(rejection: Rejection) -> bytes:
    """The A-ASSOCIATE-RJ PDU of a rejection."""
    pdu = A_ASSOCIATE_RJ()
    pdu.result = rejection.result
    pdu.source = rejection.source
    pdu.reason_diagnostic = rejection.diagnostic
    encoded: bytes = pdu.encode()
    return encoded


def _is(entry: CallerSettings, ae_title: str, caller: Caller) -> bool:
    return entry.ae_title.strip() == ae_title and entry.certificate_sha256 in (
        None,
        caller.certificate_sha256,
    )


def _identity(request: Request) -> UserIdentityNegotiation | None:
    for item in request.primitive.user_information:
        if isinstance(item, UserIdentityNegotiation):
            return item
    return None


def _user_name(identity: UserIdentityNegotiation) -> str:
    name: bytes = identity.primary_field or b""
    return name.decode("utf-8", "replace")  # PS3.7 D.3.3.7.1


def _supported_contexts(settings: DicomSettings) -> list[PresentationContext]:
    commitment = build_context(COMMITMENT_PUSH_MODEL, list(COMMITMENT_SYNTAXES))
    # PS3.4 J.3.3: a peer that proposes the SCP role brings the report of its own.
    commitment.scu_role = True
    commitment.scp_role = True
    return [
        build_context(VERIFICATION, list(UNCOMPRESSED)),
        commitment,
        *(
            build_context(each, list(TRANSFER_SYNTAXES))
            for each in allowed_storage_classes(settings.storage_classes)
        ),
    ]
