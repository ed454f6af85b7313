"""Storage and Verification SCU: files to a peer, byte for byte."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pynetdicom import AE, _config, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pynetdicom.association import Association

    from imaging_node.settings import PeerSettings

# A file is sent as it lies on the disk, read in pieces and never decoded.
_config.STORE_SEND_CHUNKED_DATASET = True

MAXIMUM_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers 1 to 255
STATUS_SUCCESS = 0x0000
STATUS_WARNINGS = (0xB000, 0xB006, 0xB007)  # PS3.4 B.2.3: stored all the same
# PS3.7 C.4: processing failure, and resource limitation; PS3.4 B.2.3: A7xx out of resources.
_STATUS_TEMPORARY = (0x0110, 0x0213)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, and how long it waits.

    Attributes:
        ae_title: Calling AE title.
        timeout_s: Longest wait for a connection or an answer.
    """

    ae_title: str
    timeout_s: float


class StorageAssociation:
    """An open association that takes files of the contexts it was opened for."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def store(self, path: Path, *, sop_class_uid: str, transfer_syntax_uid: str) -> str:
        """Send one Part 10 file; repeating it is safe.

        Returns:
            The peer's status, e.g. "0x0000", or a warning such as "0xB000": it is stored.

        Raises:
            PeerUnavailableError: The same bytes may succeed later: no answer, or try later.
            PeerRefusedError: Repeating cannot help; an operator must look.
        """
        if not any(
            str(context.abstract_syntax) == sop_class_uid
            and str(context.transfer_syntax[0]) == transfer_syntax_uid
            for context in self._association.accepted_contexts
        ):
            if not self._association.is_established:
                raise _unanswered()
            raise PeerRefusedError(
                "the peer accepts no presentation context for this kind of object;"
                " allow its SOP class there",
                status="no presentation context",
            )
        try:
            answer = self._association.send_c_store(path)
        except RuntimeError:
            # pynetdicom: the association ended under way.
            raise _unanswered() from None
        except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            raise PeerRefusedError(
                f"the file cannot be sent as it is ({type(error).__name__});"
                " its file meta information is damaged or it cannot be read",
                status="unsendable file",
            ) from None
        status: int | None = answer.get("Status")
        if status is None:
            # Perhaps stored, perhaps not: the same UID again settles it.
            raise _unanswered()
        text = f"0x{status:04X}"
        if status == STATUS_SUCCESS or status in STATUS_WARNINGS:
            return text
        if status in _OUT_OF_RESOURCES or status in _STATUS_TEMPORARY:
            raise PeerUnavailableError(f"the peer answered {text}: try again later", status=text)
        raise PeerRefusedError(f"the peer refused with {text}; see its log", status=text)


@contextmanager
def open_storage(
    peer: PeerSettings, caller: Caller, kinds: Sequence[tuple[str, str]]
) -> Iterator[StorageAssociation]:
    """Associate with `peer` for (SOP class UID, transfer syntax UID) pairs, at most 128.

    Raises:
        PeerUnavailableError: No association.
    """
    entity = _entity(caller)
    entity.requested_contexts = [
        build_context(sop_class_uid, transfer_syntax_uid)
        for sop_class_uid, transfer_syntax_uid in kinds[:MAXIMUM_CONTEXTS]
    ]
    association = _associate(entity, peer)
    try:
        yield StorageAssociation(association)
    finally:
        if association.is_established:
            association.release()


def verify_peer(peer: PeerSettings, caller: Caller) -> None:
    """Send C-ECHO.

    Raises:
        PeerUnavailableError: No association or no answer.
        PeerRefusedError: The peer answered with a failure.
    """
    entity = _entity(caller)
    entity.add_requested_context(Verification)
    association = _associate(entity, peer)
    try:
        answer = association.send_c_echo()
    except (RuntimeError, ValueError):
        raise _unanswered() from None
    finally:
        if association.is_established:
            association.release()
    status: int | None = answer.get("Status")
    if status is None:
        raise _unanswered()
    if status != STATUS_SUCCESS:
        raise PeerRefusedError(
            f"the peer answered C-ECHO with 0x{status:04X}", status=f"0x{status:04X}"
        )


def _entity(caller: Caller) -> AE:
    entity = AE(ae_title=caller.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = caller.timeout_s
    entity.acse_timeout = caller.timeout_s
    entity.dimse_timeout = caller.timeout_s
    entity.network_timeout = caller.timeout_s
    return entity


def _associate(entity: AE, peer: PeerSettings) -> Association:
    association = entity.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        max_pdu=131072,
        evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once)],
    )
    if association.is_established:
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        why = f"rejected by the peer: {getattr(answer, 'reason_str', 'no reason given')}"
    else:
        why = "no connection, or no answer"
    raise PeerUnavailableError(
        f"no association with {peer.ae_title} at {peer.host}:{peer.port}: {why};"
        " check its address, its AE title and that it knows this node",
        status=f"no association: {why}",
    )


def _send_at_once(event: evt.Event) -> None:
    # Nagle's algorithm would hold each message back for about 40 ms.
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _unanswered() -> PeerUnavailableError:
    return PeerUnavailableError("the peer did not answer", status="no answer")
