"""Storage commitment on an association that we opened: asking for it, and reporting it."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

from imaging_node.dicom import command_set as words
from imaging_node.dicom.answering import require_success
from imaging_node.dicom.command_set import RESPONSE, Command, encode_command
from imaging_node.dicom.commitment import (
    ACTION_REQUEST_COMMITMENT,
    COMMITMENT_PUSH_MODEL,
    COMMITMENT_PUSH_MODEL_INSTANCE,
    COMMITMENT_SYNTAXES,
    CommitmentReport,
    CommitmentRequest,
    encode_commitment_report,
    encode_commitment_request,
    read_commitment_report,
)
from imaging_node.dicom.proposal import Caller, ProposedContext, associate
from imaging_node.dicom.requestor import Payload, released
from imaging_node.domain.errors import PeerRefusedError, RejectedInstanceError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.dicom.proposal import AcceptedContext
    from imaging_node.dicom.requestor import Association, Message
    from imaging_node.settings import PeerSettings

NO_CONTEXT: Final = "no presentation context for storage commitment"
_STATUS_SUCCESS: Final = 0x0000
_STATUS_PROCESSING_FAILURE: Final = 0x0110
_STATUS_UNRECOGNISED_OPERATION: Final = 0x0211

# Peers differ in what they read: each gets its choice.
CONTEXT: Final = ProposedContext(
    abstract_syntax=COMMITMENT_PUSH_MODEL, transfer_syntax_uids=COMMITMENT_SYNTAXES
)


def ask_commitment(association: Association, request: CommitmentRequest) -> None:
    """Send the N-ACTION request; the report comes by itself, here or to the listener.

    Raises:
        PeerUnavailableError: No answer, or try later.
        PeerRefusedError: The peer does not commit; an operator must look.
    """
    context = _context(association)
    command = encode_command(
        {
            words.COMMAND_FIELD: Command.N_ACTION,
            words.MESSAGE_ID: association.next_message_id(),
            words.ACTION_TYPE_ID: ACTION_REQUEST_COMMITMENT,
        },
        {
            words.REQUESTED_SOP_CLASS_UID: COMMITMENT_PUSH_MODEL,
            words.REQUESTED_SOP_INSTANCE_UID: COMMITMENT_PUSH_MODEL_INSTANCE,
        },
        has_dataset=True,
    )
    encoded = encode_commitment_request(request, context.transfer_syntax_uid)
    require_success(association.request(context.context_id, command, _payload(encoded)))


def serve_reports(
    association: Association, note: Callable[[CommitmentReport], None], *, ae_title: str
) -> None:
    """Let `note` take the reports that the peer makes on this association.

    Args:
        note: Returns once the report is noted; RejectedInstanceError carries the status.
        ae_title: Of the peer.
    """
    association.serve(lambda message: _answer(association, message, note, ae_title))


def send_report(peer: PeerSettings, caller: Caller, report: CommitmentReport) -> str:
    """Report to the peer that asked, on an association of its own, as the SCP that we are.

    Returns:
        The peer's status, "0000".

    Raises:
        PeerUnavailableError: No association, no answer, or try later.
        PeerRefusedError: The peer does not take it; an operator must look.
    """
    proposed = ProposedContext(
        abstract_syntax=COMMITMENT_PUSH_MODEL,
        transfer_syntax_uids=COMMITMENT_SYNTAXES,
        is_provided=True,
    )
    association = associate(peer, caller, [proposed])
    with released(association):
        context = _context(association)
        command = encode_command(
            {
                words.COMMAND_FIELD: Command.N_EVENT_REPORT,
                words.MESSAGE_ID: association.next_message_id(),
                words.EVENT_TYPE_ID: report.event_type,
            },
            {
                words.AFFECTED_SOP_CLASS_UID: COMMITMENT_PUSH_MODEL,
                words.AFFECTED_SOP_INSTANCE_UID: COMMITMENT_PUSH_MODEL_INSTANCE,
            },
            has_dataset=True,
        )
        encoded = encode_commitment_report(report, context.transfer_syntax_uid)
        return require_success(association.request(context.context_id, command, _payload(encoded)))


def _context(association: Association) -> AcceptedContext:
    context = association.context(COMMITMENT_PUSH_MODEL)
    if context is None:
        raise PeerRefusedError(
            "the peer accepts no presentation context for storage commitment; allow it there,"
            " or set the peer's storage_commitment to false",
            status=NO_CONTEXT,
        )
    return context


def _payload(encoded: bytes) -> Payload:
    return Payload(stream=BytesIO(encoded), size_bytes=len(encoded))


def _answer(
    association: Association,
    message: Message,
    note: Callable[[CommitmentReport], None],
    ae_title: str,
) -> bytes:
    """The response to a request that the peer made.

    Raises:
        ValueError: The command has no Message ID.
    """
    field = message.command.number(words.COMMAND_FIELD)
    context = association.context(COMMITMENT_PUSH_MODEL)
    status = _STATUS_UNRECOGNISED_OPERATION
    if (
        field == Command.N_EVENT_REPORT
        and context is not None
        and message.context_id == context.context_id
    ):
        status = _note(message.dataset, context.transfer_syntax_uid, note, ae_title)
    return encode_command(
        {
            words.COMMAND_FIELD: field | RESPONSE,
            words.MESSAGE_ID_RESPONDED_TO: message.command.number(words.MESSAGE_ID),
            words.STATUS: status,
        },
        {
            words.AFFECTED_SOP_CLASS_UID: COMMITMENT_PUSH_MODEL,
            words.AFFECTED_SOP_INSTANCE_UID: COMMITMENT_PUSH_MODEL_INSTANCE,
        },
    )


def _note(
    dataset: bytes,
    transfer_syntax_uid: str,
    note: Callable[[CommitmentReport], None],
    ae_title: str,
) -> int:
    try:
        note(read_commitment_report(dataset, transfer_syntax_uid, calling_ae_title=ae_title))
    except RejectedInstanceError as error:
        return error.status
    except StorageError:
        return _STATUS_PROCESSING_FAILURE
    return _STATUS_SUCCESS
