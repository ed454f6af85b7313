"""Verification, Storage and Storage Commitment on one association: one status for each request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imaging_node.dicom import command_set as words
from imaging_node.dicom.command_set import Command, CommandSet, decode_command, encode_command
from imaging_node.dicom.commitment import (
    COMMITMENT_PUSH_MODEL,
    COMMITMENT_PUSH_MODEL_INSTANCE,
    read_commitment_report,
    read_commitment_request,
)
from imaging_node.dicom.endings import AbortAssociationError, AbortReason
from imaging_node.dicom.headers import require_legal_uid
from imaging_node.dicom.intake_port import IncomingInstance, InstanceSink, Intake, Transferred
from imaging_node.dicom.negotiation import AcceptedContext
from imaging_node.dicom.statuses import (
    STATUS_CANNOT_UNDERSTAND,
    STATUS_CLASS_NOT_SUPPORTED,
    STATUS_DATASET_MISMATCH,
    STATUS_NO_SUCH_ACTION,
    STATUS_NO_SUCH_EVENT,
    STATUS_NO_SUCH_INSTANCE,
    STATUS_OUT_OF_RESOURCES,
    STATUS_PROCESSING_FAILURE,
    STATUS_SUCCESS,
    STATUS_TOO_LARGE,
    STATUS_UNEXPECTED,
    STATUS_UNRECOGNISED_OPERATION,
)
from imaging_node.dicom.storage_classes import VERIFICATION
from imaging_node.dicom.upper_layer import COMMAND_CEILING_BYTES, UpperLayer
from imaging_node.domain.errors import DurabilityError, RejectedInstanceError, StorageError
from imaging_node.telemetry import Counters, Event, Metric, log, place_of

if TYPE_CHECKING:
    from imaging_node.dicom.negotiation import Agreement

_PRIORITY_HIGH = 1  # PS3.7 9.1.1.1, C-STORE command Priority
_LONGEST_DATASET_BYTES = 8 * 1024 * 1024  # of N-ACTION and N-EVENT-REPORT: 65,536 references
_REQUEST_COMMITMENT = 1  # Action Type ID, PS3.4 J.3.2
_REPORT_TYPES = (1, 2)  # Event Type ID, PS3.4 J.3.3
# A peer that sends before it was answered, without having asked for that (PS3.7 D.3.3.3), may
# be this many messages ahead.
_MESSAGES_AHEAD = 2


@dataclass(slots=True)
class _Message:
    """A request whose dataset is being received."""

    context_id: int
    context: AcceptedContext
    command: CommandSet
    operation: int
    begun_at_s: float
    sink: InstanceSink | None = None
    refusal: tuple[int, str] | None = None
    size_bytes: int = 0
    collected: bytearray = field(default_factory=bytearray)


class AssociationServices:
    """Owns the message under way on one association, and answers each in turn.

    Attributes:
        transferred: What has been accepted so far.
    """

    def __init__(
        self,
        layer: UpperLayer,
        agreement: Agreement,
        intake: Intake,
        counters: Counters,
        *,
        max_instance_bytes: int,
    ) -> None:
        self.transferred = Transferred()
        self._layer = layer
        self._agreement = agreement
        self._intake = intake
        self._counters = counters
        self._max_instance_bytes = max_instance_bytes
        self._command = bytearray()
        self._command_context_id = 0
        self._message: _Message | None = None
        self._messages_ahead = 0

    @property
    def is_idle(self) -> bool:
        """Whether no message has begun."""
        return self._message is None and not self._command

    def take(
        self, context_id: int, fragment: memoryview, *, is_command: bool, is_last: bool
    ) -> None:
        """Take one presentation data value.

        Raises:
            AbortAssociationError: The peer broke the rules.
        """
        message = self._message
        if message is not None:
            if is_command or context_id != message.context_id:
                raise _out_of_place("a message begins before the last one has ended")
            self._take_dataset(message, fragment, is_last=is_last)
            return
        if not is_command:
            raise _out_of_place("a dataset without a command")
        if self._command and context_id != self._command_context_id:
            raise _out_of_place("a command changes its presentation context")
        self._command_context_id = context_id
        self._command += fragment
        if len(self._command) > COMMAND_CEILING_BYTES:
            raise _damaged("a command set is longer than 64 KiB")
        if is_last:
            encoded, self._command = self._command, bytearray()
            self._begin(context_id, encoded)

    def close(self) -> None:
        """Forget an unfinished message: nothing of it was acknowledged."""
        message, self._message = self._message, None
        if message is not None and message.sink is not None:
            message.sink.discard()

    def _begin(self, context_id: int, encoded: bytearray) -> None:
        context = self._agreement.contexts.get(context_id)
        if context is None:
            raise _damaged("a presentation context that was not agreed on")
        if self._messages_ahead > _MESSAGES_AHEAD:
            raise _out_of_place("more than two messages ahead of their answers")
        try:
            command = decode_command(encoded)
            number = command.number(words.COMMAND_FIELD)
            message = _Message(context_id, context, command, number, time.monotonic())
            has_dataset = command.has_dataset
            if number & words.RESPONSE or number == Command.C_CANCEL:
                if has_dataset:
                    raise _damaged("a response with a dataset that nobody asked for")
                return  # nobody waits for it
            command.number(words.MESSAGE_ID)
        except ValueError as error:
            raise _damaged(str(error)) from None
        if number == Command.C_STORE and has_dataset:
            self._open_sink(message)
        if has_dataset:
            self._message = message
        else:
            self._finish(message)

    def _open_sink(self, message: _Message) -> None:
        try:
            message.sink = self._intake.open_instance(
                _incoming(message, self._agreement.caller.ae_title)
            )
        except RejectedInstanceError as error:
            self._refuse(message, error.status, str(error))
        except StorageError as error:
            self._refuse(message, STATUS_OUT_OF_RESOURCES, str(error))

    def _take_dataset(self, message: _Message, fragment: memoryview, *, is_last: bool) -> None:
        message.size_bytes += len(fragment)
        if message.operation == Command.C_STORE:
            if message.size_bytes > self._max_instance_bytes:
                self._give_up_on_size(message)
            self._keep(message, fragment)
        else:
            if message.size_bytes > _LONGEST_DATASET_BYTES:
                raise _damaged("the dataset of a normalised request is longer than 8 MiB")
            message.collected += fragment
        if is_last:
            self._message = None
            self._finish(message)

    def _keep(self, message: _Message, fragment: memoryview) -> None:
        if message.sink is None:
            return
        try:
            message.sink.write(fragment)
        except StorageError as error:
            self._refuse(message, STATUS_OUT_OF_RESOURCES, str(error))

    def _give_up_on_size(self, message: _Message) -> None:
        """Answer A701 and abort: who sends without end would not read an answer alone."""
        self._refuse(message, STATUS_TOO_LARGE, "larger than dicom.max_instance_bytes")
        self._message = None
        self._finish(message)
        raise AbortAssociationError("an instance over the size limit", is_provider=False)

    def _finish(self, message: _Message) -> None:
        """Answer a message that arrived whole."""
        try:
            status, comment = self._perform(message)
            self._layer.send_command(message.context_id, _response(message, status, comment))
        finally:
            # Behind the answer: nobody need wait for it.
            if message.sink is not None:
                message.sink.discard()
        # What lies in the buffer now was sent before this answer.
        self._messages_ahead = self._messages_ahead + 1 if self._layer.has_unread_data else 0

    def _perform(self, message: _Message) -> tuple[int, str]:
        if message.operation == Command.C_ECHO:
            return self._verify(message)
        if message.operation == Command.C_STORE:
            return self._store(message)
        if message.operation in (Command.N_ACTION, Command.N_EVENT_REPORT):
            return self._commit(message)
        return STATUS_UNRECOGNISED_OPERATION, "no such operation here"

    def _verify(self, message: _Message) -> tuple[int, str]:
        if message.context.abstract_syntax != VERIFICATION:
            return STATUS_CLASS_NOT_SUPPORTED, "C-ECHO on another class's context"
        return STATUS_SUCCESS, ""

    def _store(self, message: _Message) -> tuple[int, str]:
        status, reason = self._accept(message)
        self._counters.add(Metric.INSTANCES, status=f"0x{status:04X}")
        if status != STATUS_SUCCESS:
            self.transferred.refused += 1
            log(
                Event.INSTANCE_REFUSED,
                status=f"0x{status:04X}",
                reason=reason,
                ae_title=self._agreement.caller.ae_title,
                address=self._agreement.caller.address,
                seconds=round(time.monotonic() - message.begun_at_s, 3),
            )
        return status, reason

    def _accept(self, message: _Message) -> tuple[int, str]:
        """The status of an instance that arrived whole."""
        if message.refusal is not None:
            return message.refusal
        try:
            study = self._accept_dataset(message.sink)
        except RejectedInstanceError as error:
            return error.status, str(error)
        except StorageError as error:
            if isinstance(error, DurabilityError):
                self._intake.on_durability_lost()
            return STATUS_OUT_OF_RESOURCES, str(error)
        except Exception as error:  # noqa: BLE001 - top of the C-STORE service
            log(
                Event.THREAD_FAILED,
                role="receive",
                error=type(error).__name__,
                where=place_of(error.__traceback__),
            )
            return STATUS_UNEXPECTED, "unexpected failure; see the log of the node"
        self.transferred.add(study, message.size_bytes)
        return STATUS_SUCCESS, ""

    def _accept_dataset(self, sink: InstanceSink | None) -> str:
        if sink is None:
            raise RejectedInstanceError(
                "a C-STORE without a dataset", status=STATUS_CANNOT_UNDERSTAND
            )
        study = sink.accept()
        self._require_promise()
        return study

    def _require_promise(self) -> None:
        if not self._intake.may_promise():
            raise StorageError("the disk failed meanwhile: the node restarts")

    def _commit(self, message: _Message) -> tuple[int, str]:
        is_action = message.operation == Command.N_ACTION
        refusal = _commitment_refusal(message, is_action=is_action)
        if refusal is not None:
            return refusal
        encoded, syntax = bytes(message.collected), message.context.transfer_syntax_uid
        caller = self._agreement.caller.ae_title
        try:
            if is_action:
                self._intake.note_request(
                    read_commitment_request(encoded, syntax, calling_ae_title=caller)
                )
            else:
                self._intake.note_report(
                    read_commitment_report(encoded, syntax, calling_ae_title=caller)
                )
            self._require_promise()
        except RejectedInstanceError as error:
            return error.status, str(error)
        except StorageError as error:
            if isinstance(error, DurabilityError):
                self._intake.on_durability_lost()
            return STATUS_PROCESSING_FAILURE, str(error)
        return STATUS_SUCCESS, ""

    def _refuse(self, message: _Message, status: int, reason: str) -> None:
        """Let the rest of the dataset pass and answer then: a peer reads no answer before."""
        message.refusal = message.refusal or (status, reason)
        if message.sink is not None:
            message.sink.discard()
            message.sink = None


def _incoming(message: _Message, calling_ae_title: str) -> IncomingInstance:
    """What the command says, held against the context that it came on.

    Raises:
        RejectedInstanceError: 0x0117 no UID; 0xA900 another class; 0x0122 no storage class.
    """
    sop_class_uid = message.command.uid(words.AFFECTED_SOP_CLASS_UID)
    sop_instance_uid = message.command.uid(words.AFFECTED_SOP_INSTANCE_UID)
    if message.context.abstract_syntax in (VERIFICATION, COMMITMENT_PUSH_MODEL):
        raise RejectedInstanceError(
            "C-STORE on a context of another service", status=STATUS_CLASS_NOT_SUPPORTED
        )
    require_legal_uid(sop_instance_uid)
    if sop_class_uid != message.context.abstract_syntax:
        raise RejectedInstanceError(
            "the command's SOP class is not the presentation context's; correct the sender",
            status=STATUS_DATASET_MISMATCH,
        )
    return IncomingInstance(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=message.context.transfer_syntax_uid,
        calling_ae_title=calling_ae_title,
        is_high_priority=message.command.elements.get(words.PRIORITY)
        == _PRIORITY_HIGH.to_bytes(2, "little"),
    )


def _commitment_refusal(message: _Message, *, is_action: bool) -> tuple[int, str] | None:
    if message.context.abstract_syntax != COMMITMENT_PUSH_MODEL or not message.size_bytes:
        return STATUS_UNRECOGNISED_OPERATION, "no such operation here"
    if (
        message.command.uid(words.REQUESTED_SOP_INSTANCE_UID)
        not in (
            "",
            COMMITMENT_PUSH_MODEL_INSTANCE,
        )
        and is_action
    ):
        return STATUS_NO_SUCH_INSTANCE, "not the well-known instance"
    try:
        kind = message.command.number(words.ACTION_TYPE_ID if is_action else words.EVENT_TYPE_ID)
    except ValueError:
        kind = 0
    if is_action and kind != _REQUEST_COMMITMENT:
        return STATUS_NO_SUCH_ACTION, "no such action"
    if not is_action and kind not in _REPORT_TYPES:
        return STATUS_NO_SUCH_EVENT, "no such event"
    return None


def _response(message: _Message, status: int, comment: str) -> bytes:
    """The response to a request; UIDs that are none are not repeated."""
    numbers = {
        words.COMMAND_FIELD: message.operation | words.RESPONSE,
        words.MESSAGE_ID_RESPONDED_TO: message.command.number(words.MESSAGE_ID),
        words.STATUS: status,
    }
    uids = {words.AFFECTED_SOP_CLASS_UID: message.context.abstract_syntax}
    if message.operation == Command.C_STORE:
        uids[words.AFFECTED_SOP_INSTANCE_UID] = _legal(
            message.command.uid(words.AFFECTED_SOP_INSTANCE_UID)
        )
    elif message.operation in (Command.N_ACTION, Command.N_EVENT_REPORT):
        uids[words.AFFECTED_SOP_INSTANCE_UID] = COMMITMENT_PUSH_MODEL_INSTANCE
        kind = (
            words.ACTION_TYPE_ID if message.operation == Command.N_ACTION else words.EVENT_TYPE_ID
        )
        numbers[kind] = int.from_bytes(message.command.elements.get(kind, b"")[:2], "little")
    return encode_command(numbers, uids, comment)


def _legal(uid: str) -> str:
    try:
        require_legal_uid(uid)
    except RejectedInstanceError:
        return ""
    return uid


def _out_of_place(reason: str) -> AbortAssociationError:
    return AbortAssociationError(reason, abort=AbortReason.UNEXPECTED_PDU)


def _damaged(reason: str) -> AbortAssociationError:
    return AbortAssociationError(reason, abort=AbortReason.INVALID_PARAMETER)
