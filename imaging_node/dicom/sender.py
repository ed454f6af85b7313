"""Storage and Verification SCU: files to a peer, byte for byte."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from imaging_node.dicom import command_set as words
from imaging_node.dicom import commitment_exchange
from imaging_node.dicom.answering import require_success
from imaging_node.dicom.command_set import Command, encode_command
from imaging_node.dicom.proposal import MAXIMUM_CONTEXTS, Caller, ProposedContext, associate
from imaging_node.dicom.requestor import released
from imaging_node.dicom.sendable import open_sendable
from imaging_node.dicom.storage_classes import VERIFICATION
from imaging_node.domain.errors import PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from imaging_node.dicom.commitment import CommitmentReport, CommitmentRequest
    from imaging_node.dicom.requestor import Association
    from imaging_node.settings import PeerSettings

__all__ = ["MAXIMUM_CONTEXTS", "Caller", "StorageAssociation", "open_storage", "verify_peer"]

_IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
_PRIORITY_MEDIUM: Final = 0  # PS3.7 9.1.1.1

STATUS_WARNINGS: Final = (0xB000, 0xB006, 0xB007)  # PS3.4 B.2.3: stored all the same


class StorageAssociation:
    """An open association that takes files of the contexts it was opened for."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def store(self, source: Path | bytes, *, sop_class_uid: str, transfer_syntax_uid: str) -> str:
        """Send one Part 10 file, by path or by content; repeating it is safe.

        Returns:
            The peer's status, "0000", or a warning such as "B000": it is stored.

        Raises:
            PeerUnavailableError: The same bytes may succeed later: no answer, or try later.
            PeerRefusedError: Repeating cannot help; an operator must look.
        """
        context = self._association.context(sop_class_uid, transfer_syntax_uid)
        if context is None:
            raise PeerRefusedError(
                "the peer accepts no presentation context for this kind of object;"
                " allow its SOP class there",
                status="no presentation context",
            )
        with open_sendable(source) as sendable:
            command = encode_command(
                {
                    words.COMMAND_FIELD: Command.C_STORE,
                    words.MESSAGE_ID: self._association.next_message_id(),
                    words.PRIORITY: _PRIORITY_MEDIUM,
                },
                {
                    words.AFFECTED_SOP_CLASS_UID: sop_class_uid,
                    words.AFFECTED_SOP_INSTANCE_UID: sendable.sop_instance_uid,
                },
                has_dataset=True,
            )
            try:
                answer = self._association.request(context.context_id, command, sendable.payload)
            except OSError as error:
                raise PeerRefusedError(
                    f"a file cannot be read to its end ({type(error).__name__});"
                    " check the disk it lies on",
                    status="unsendable file",
                ) from None
        return require_success(answer, warnings=STATUS_WARNINGS)

    def ask_commitment(self, request: CommitmentRequest) -> None:
        """Ask the peer to vouch for what it stored.

        Raises:
            PeerUnavailableError: No answer, or try later.
            PeerRefusedError: The peer does not commit; an operator must look.
        """
        commitment_exchange.ask_commitment(self._association, request)

    def await_report(self, wait_s: float) -> bool:
        """Give the peer so long to report on this association; whether it said something.

        Raises:
            PeerUnavailableError: The association has ended.
        """
        return self._association.await_request(wait_s=wait_s)


@contextmanager
def open_storage(
    peer: PeerSettings,
    caller: Caller,
    kinds: Sequence[tuple[str, str]],
    *,
    note_report: Callable[[CommitmentReport], None] | None = None,
) -> Iterator[StorageAssociation]:
    """Associate with `peer` for (SOP class UID, transfer syntax UID) pairs, at most 128.

    Args:
        note_report: Storage commitment is proposed too, and this takes the peer's reports.

    Raises:
        PeerUnavailableError: No association now.
        PeerRefusedError: No association until an operator acts.
    """
    proposed = [
        ProposedContext(abstract_syntax=sop_class_uid, transfer_syntax_uids=(syntax,))
        for sop_class_uid, syntax in kinds
    ]
    if note_report is not None:
        proposed.insert(0, commitment_exchange.CONTEXT)
    association = associate(peer, caller, proposed)
    if note_report is not None:
        commitment_exchange.serve_reports(association, note_report, ae_title=peer.ae_title)
    with released(association):
        yield StorageAssociation(association)


def verify_peer(peer: PeerSettings, caller: Caller) -> None:
    """Send C-ECHO.

    Raises:
        PeerUnavailableError: No association or no answer.
        PeerRefusedError: The peer rejects us, or answered with a failure.
    """
    verification = ProposedContext(
        abstract_syntax=VERIFICATION, transfer_syntax_uids=(_IMPLICIT_VR_LITTLE_ENDIAN,)
    )
    association = associate(peer, caller, [verification])
    with released(association):
        context = association.context(VERIFICATION)
        if context is None:
            raise PeerRefusedError(
                "the peer does not take C-ECHO; see its log", status="no presentation context"
            )
        command = encode_command(
            {
                words.COMMAND_FIELD: Command.C_ECHO,
                words.MESSAGE_ID: association.next_message_id(),
            },
            {words.AFFECTED_SOP_CLASS_UID: VERIFICATION},
        )
        require_success(association.request(context.context_id, command))
