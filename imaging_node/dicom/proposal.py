"""What is proposed to a peer and what it agrees to: A-ASSOCIATE on the requestor's side."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import build_context

from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_node.dicom.requestor import Association
from imaging_node.dicom.tls import requestor_context, require_name
from imaging_node.dicom.wire import OFFERED_PDU_BYTES, Pdu, Wire
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.settings import PeerSettings

MAXIMUM_CONTEXTS: Final = 128  # PS3.8 9.3.2.2: odd identifiers 1 to 255
_APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
_RESULT_PERMANENT: Final = 1  # PS3.8 table 9-21
_ACCEPTANCE: Final = 0  # PS3.8 table 9-18
# PS3.8 table 9-21: source and reason.
_REJECTIONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "our AE title is not known there",
    (1, 7): "its AE title is another one",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, and how long it waits.

    Attributes:
        ae_title: Calling AE title.
        timeout_s: Longest wait for a connection or an answer.
    """

    ae_title: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedContext:
    """One presentation context to ask for.

    Attributes:
        is_provided: We are the SCP of the class, though we call (PS3.7 D.3.3.4).
    """

    abstract_syntax: str
    transfer_syntax_uids: tuple[str, ...]
    is_provided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedContext:
    """One presentation context that the peer took."""

    context_id: int
    abstract_syntax: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the peer agreed to.

    Attributes:
        peer_pdu_bytes: Longest P-DATA-TF it takes; 0: any.
    """

    contexts: tuple[AcceptedContext, ...]
    peer_pdu_bytes: int


def associate(
    peer: PeerSettings, caller: Caller, proposed: Sequence[ProposedContext]
) -> Association:
    """Open an association, at most 128 contexts proposed.

    Raises:
        PeerUnavailableError: No association now; later there may be one.
        PeerRefusedError: The peer refuses for good: it rejects us permanently, or TLS fails.
    """
    connection = _connect(peer, caller)
    wire = Wire(connection, timeout_s=caller.timeout_s)
    with ExitStack() as unless_agreed:
        unless_agreed.callback(wire.close)
        agreement = _negotiate(peer, caller, proposed, wire, is_secured=peer.tls is not None)
        unless_agreed.pop_all()
    return Association(wire, agreement, timeout_s=caller.timeout_s)


def read_rejection(peer: PeerSettings, body: bytes) -> PeerRefusedError | PeerUnavailableError:
    """What an A-ASSOCIATE-RJ asks of us: to wait, or to let an operator look.

    Args:
        body: The PDU behind its header, PS3.8 9.3.4.
    """
    _, result, source, diagnostic = body.ljust(4, b"\0")
    code = f"{result}/{source}/{diagnostic}"
    why = _REJECTIONS.get((source, diagnostic), "unknown reason")
    if result == _RESULT_PERMANENT:
        return PeerRefusedError(
            f"{_named(peer)} rejects the association for good ({code}: {why});"
            " check its AE title and that it knows this node",
            status=f"rejected {code}: {why}",
        )
    return _unreachable(peer, f"rejected for now {code}: {why}")


def _negotiate(
    peer: PeerSettings,
    caller: Caller,
    proposed: Sequence[ProposedContext],
    wire: Wire,
    *,
    is_secured: bool,
) -> Agreement:
    request = _request(peer, caller, proposed)
    try:
        kind, body = _ask(wire, request, wait_s=caller.timeout_s, is_secured=is_secured)
    except TimeoutError:
        raise _unreachable(peer, "no answer in time") from None
    except PeerUnavailableError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise _tls_failure(peer, error.__cause__) from None
        raise _unreachable(peer, str(error)) from None
    if kind is Pdu.ASSOCIATE_RJ:
        raise read_rejection(peer, body)
    if kind is not Pdu.ASSOCIATE_AC:
        raise _unreachable(peer, "aborted by the peer")
    return _agreement(peer, kind, body, proposed)


def _connect(peer: PeerSettings, caller: Caller) -> socket.socket:
    try:
        context = None if peer.tls is None else requestor_context(peer.tls)
    except SettingsError as error:
        # They were sound when the role started: perhaps they are being renewed right now.
        raise PeerUnavailableError(
            str(error), status="no association: own TLS files cannot be used"
        ) from None
    try:
        connection = socket.create_connection((peer.host, peer.port), timeout=caller.timeout_s)
    except OSError as error:
        raise _unreachable(peer, _words(error)) from None
    # Nagle's algorithm would hold each message back for about 40 ms.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return connection
    try:
        secured = context.wrap_socket(connection, server_hostname=peer.host)
        require_name(secured.getpeercert() or {}, peer.host)
    except OSError as error:
        connection.close()
        raise _tls_failure(peer, error) from None
    return secured


def _ask(wire: Wire, request: bytes, *, wait_s: float, is_secured: bool) -> tuple[Pdu, bytes]:
    """The peer's answer to the association request.

    With TLS 1.3 a peer refuses our certificate only now, after our side of the handshake.
    """
    try:
        wire.send(request)
    except PeerUnavailableError:
        if not is_secured:
            raise
        # The alert that says why may lie there unread.
    return wire.read(wait_s=wait_s)


def _request(peer: PeerSettings, caller: Caller, proposed: Sequence[ProposedContext]) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = _APPLICATION_CONTEXT
    primitive.calling_ae_title = caller.ae_title
    primitive.called_ae_title = peer.ae_title
    contexts = []
    for position, each in enumerate(proposed[:MAXIMUM_CONTEXTS]):
        context = build_context(each.abstract_syntax, list(each.transfer_syntax_uids))
        context.context_id = 2 * position + 1
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = OFFERED_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    information: list[Any] = [length, implementation, version]
    for abstract_syntax in sorted({each.abstract_syntax for each in proposed if each.is_provided}):
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = abstract_syntax
        role.scu_role, role.scp_role = False, True
        information.append(role)
    primitive.user_information = information
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    encoded: bytes = pdu.encode()
    return encoded


def _agreement(
    peer: PeerSettings, kind: Pdu, body: bytes, proposed: Sequence[ProposedContext]
) -> Agreement:
    pdu = A_ASSOCIATE_AC()
    try:
        pdu.decode(bytes([kind, 0]) + len(body).to_bytes(4, "big") + body)
        answers = [
            (item.context_id, item.result, str(item.transfer_syntax or ""))
            for item in pdu.presentation_context
        ]
        information = pdu.user_information
        assert information is not None
        peer_pdu_bytes = int(information.maximum_length or 0)
    except (*PARSE_ERRORS, AssertionError):
        raise _unreachable(peer, "its acceptance is damaged") from None
    by_id = {2 * position + 1: each for position, each in enumerate(proposed)}
    return Agreement(
        contexts=tuple(
            AcceptedContext(
                context_id=context_id,
                abstract_syntax=by_id[context_id].abstract_syntax,
                transfer_syntax_uid=transfer_syntax_uid,
            )
            for context_id, result, transfer_syntax_uid in answers
            if result == _ACCEPTANCE
            and context_id in by_id
            and transfer_syntax_uid in by_id[context_id].transfer_syntax_uids
        ),
        peer_pdu_bytes=peer_pdu_bytes,
    )


def _tls_failure(peer: PeerSettings, error: OSError) -> PeerRefusedError | PeerUnavailableError:
    """A certificate that does not fit will not fit the next time; a lost connection may pass."""
    if not isinstance(error, ssl.SSLError) or isinstance(
        error, ssl.SSLEOFError | ssl.SSLZeroReturnError
    ):
        return _unreachable(peer, f"TLS: {_words(error)}")
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is refused: {getattr(error, 'verify_message', error.args[-1])}"
    else:
        why = (error.reason or "handshake failed").lower().replace("_", " ")
        if " alert " in why:
            why = f"the peer refuses: {why.partition(' alert ')[2]}"
    return PeerRefusedError(
        f"no association with {_named(peer)}: TLS: {why};"
        " check the certificates on both sides and that both speak TLS",
        status=f"TLS: {why}",
    )


def _unreachable(peer: PeerSettings, why: str) -> PeerUnavailableError:
    return PeerUnavailableError(
        f"no association with {_named(peer)}: {why};"
        " check its address, its AE title and that it knows this node",
        status=f"no association: {why}",
    )


def _named(peer: PeerSettings) -> str:
    return f"{peer.ae_title} at {peer.host}:{peer.port}"


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror or type(error).__name__).lower()
