"""Storage Commitment Push Model (PS3.4 Annex J): what is asked and reported, and its datasets."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imaging_node.dicom.header_scan import EXPLICIT_LITTLE, IMPLICIT_LITTLE, Header, scan_header
from imaging_node.dicom.headers import require_legal_uid
from imaging_node.dicom.statuses import STATUS_INVALID_ARGUMENT, STATUS_RESOURCE_LIMITATION
from imaging_node.domain.errors import RejectedInstanceError

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMITMENT_PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
COMMITMENT_PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
COMMITMENT_SYNTAXES: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
ACTION_REQUEST_COMMITMENT: Final = 1  # PS3.4 J.3.2.1
EVENT_ALL_COMMITTED: Final = 1  # PS3.4 J.3.3.1
EVENT_SOME_FAILED: Final = 2

# Failure Reason (0008,1197), PS3.3 C.14.1.1.
FAILURE_PROCESSING: Final = 0x0110
FAILURE_UNKNOWN_INSTANCE: Final = 0x0112
FAILURE_OTHER_CLASS: Final = 0x0119

MAXIMUM_REFERENCES: Final = 65536

_REFERENCED_SOP_CLASS_UID: Final = 0x00081150
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155
_TRANSACTION_UID: Final = 0x00081195
_FAILURE_REASON: Final = 0x00081197
_FAILED_SOP_SEQUENCE: Final = 0x00081198
_REFERENCED_SOP_SEQUENCE: Final = 0x00081199
_WANTED: Final = frozenset(
    {
        _REFERENCED_SOP_CLASS_UID,
        _REFERENCED_SOP_INSTANCE_UID,
        _TRANSACTION_UID,
        _FAILURE_REASON,
        _FAILED_SOP_SEQUENCE,
        _REFERENCED_SOP_SEQUENCE,
    }
)
# Two UIDs, a reason, a file set and its UID, an AE title and delimiters: an item has no more.
_ELEMENTS_PER_REFERENCE: Final = 10
_UNSIGNED_SHORT = struct.Struct("<H")

Reference = tuple[str, str]
"""SOP class UID and SOP instance UID."""
FailedReference = tuple[str, str, int]
"""SOP class UID, SOP instance UID and Failure Reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentRequest:
    """A peer asks that we vouch for what it sent (N-ACTION).

    Attributes:
        calling_ae_title: Who asks, and who gets the report.
        references: At least one, each once, in the order given.
    """

    transaction_uid: str
    calling_ae_title: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentReport:
    """What became of a request (N-EVENT-REPORT).

    Attributes:
        calling_ae_title: Who reports.
        committed: What the reporter vouches for.
        failed: What it does not, and why.
    """

    transaction_uid: str
    calling_ae_title: str
    committed: tuple[Reference, ...]
    failed: tuple[FailedReference, ...]

    @property
    def event_type(self) -> int:
        """Event Type ID: 1 when all is committed, 2 when something failed."""
        return EVENT_SOME_FAILED if self.failed else EVENT_ALL_COMMITTED


def new_transaction_uid() -> str:
    """A UID that was never used before (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def read_commitment_request(
    dataset: bytes, transfer_syntax_uid: str, *, calling_ae_title: str
) -> CommitmentRequest:
    """Read the Action Information of an N-ACTION request.

    Raises:
        RejectedInstanceError: 0x0115 damaged or incomplete; 0x0213 over 65,536 references.
    """
    found = _parse(dataset, transfer_syntax_uid)
    references = tuple(dict.fromkeys(_references(found, _REFERENCED_SOP_SEQUENCE)))
    if not references:
        raise _invalid("it refers to nothing")
    return CommitmentRequest(
        transaction_uid=_uid(found.values, _TRANSACTION_UID),
        calling_ae_title=calling_ae_title,
        references=references,
    )


def read_commitment_report(
    dataset: bytes, transfer_syntax_uid: str, *, calling_ae_title: str
) -> CommitmentReport:
    """Read the Event Information of an N-EVENT-REPORT request.

    What is named as committed and as failed has failed.

    Raises:
        RejectedInstanceError: 0x0115 damaged or incomplete; 0x0213 over 65,536 references.
    """
    found = _parse(dataset, transfer_syntax_uid)
    failed = {
        reference: _reason(item.values)
        for reference, item in zip(
            _references(found, _FAILED_SOP_SEQUENCE),
            found.items.get(_FAILED_SOP_SEQUENCE, ()),
            strict=True,
        )
    }
    committed = tuple(
        each
        for each in dict.fromkeys(_references(found, _REFERENCED_SOP_SEQUENCE))
        if each not in failed
    )
    if not committed and not failed:
        raise _invalid("it refers to nothing")
    return CommitmentReport(
        transaction_uid=_uid(found.values, _TRANSACTION_UID),
        calling_ae_title=calling_ae_title,
        committed=committed,
        failed=tuple((*reference, reason) for reference, reason in failed.items()),
    )


def encode_commitment_request(request: CommitmentRequest, transfer_syntax_uid: str) -> bytes:
    """Action Information (PS3.4 table J.3-1) in one of `COMMITMENT_SYNTAXES`."""
    writer = _Writer(transfer_syntax_uid)
    return writer.uid(_TRANSACTION_UID, request.transaction_uid) + writer.sequence(
        _REFERENCED_SOP_SEQUENCE, (writer.reference(*each) for each in request.references)
    )


def encode_commitment_report(report: CommitmentReport, transfer_syntax_uid: str) -> bytes:
    """Event Information (PS3.4 table J.3-2) in one of `COMMITMENT_SYNTAXES`."""
    writer = _Writer(transfer_syntax_uid)
    encoded = writer.uid(_TRANSACTION_UID, report.transaction_uid)
    if report.failed:
        encoded += writer.sequence(
            _FAILED_SOP_SEQUENCE,
            (
                writer.reference(sop_class_uid, sop_instance_uid)
                + writer.element(_FAILURE_REASON, b"US", _UNSIGNED_SHORT.pack(reason))
                for sop_class_uid, sop_instance_uid, reason in report.failed
            ),
        )
    if report.committed:
        encoded += writer.sequence(
            _REFERENCED_SOP_SEQUENCE, (writer.reference(*each) for each in report.committed)
        )
    return encoded


class _Writer:
    """Elements in one transfer syntax; guards that it is one that commitment is offered in."""

    def __init__(self, transfer_syntax_uid: str) -> None:
        assert transfer_syntax_uid in COMMITMENT_SYNTAXES
        self._is_implicit = transfer_syntax_uid == IMPLICIT_LITTLE

    def element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        group, number = tag >> 16, tag & 0xFFFF
        if self._is_implicit:
            return struct.pack("<HHI", group, number, len(value)) + value
        if vr == b"SQ":
            return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value

    def uid(self, tag: int, uid: str) -> bytes:
        value = uid.encode("ascii")
        return self.element(tag, b"UI", value + b"\0" * (len(value) % 2))

    def reference(self, sop_class_uid: str, sop_instance_uid: str) -> bytes:
        return self.uid(_REFERENCED_SOP_CLASS_UID, sop_class_uid) + self.uid(
            _REFERENCED_SOP_INSTANCE_UID, sop_instance_uid
        )

    def sequence(self, tag: int, items: Iterable[bytes]) -> bytes:
        body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
        return self.element(tag, b"SQ", body)


def _parse(dataset: bytes, transfer_syntax_uid: str) -> Header:
    if transfer_syntax_uid not in COMMITMENT_SYNTAXES:
        raise _invalid("it is neither implicit nor explicit VR little endian")
    try:
        found = scan_header(
            dataset,
            transfer_syntax_uid,
            _WANTED,
            most_elements=_ELEMENTS_PER_REFERENCE * MAXIMUM_REFERENCES,
            most_items=MAXIMUM_REFERENCES + 1,
        )
    except RejectedInstanceError as error:
        raise _invalid(str(error)) from None
    if sum(map(len, found.items.values())) > MAXIMUM_REFERENCES:
        raise RejectedInstanceError(
            f"a storage commitment dataset refers to more than {MAXIMUM_REFERENCES} instances;"
            " the sender must ask for fewer at a time",
            status=STATUS_RESOURCE_LIMITATION,
        )
    return found


def _references(found: Header, sequence: int) -> list[Reference]:
    return [
        (
            _uid(item.values, _REFERENCED_SOP_CLASS_UID),
            _uid(item.values, _REFERENCED_SOP_INSTANCE_UID),
        )
        for item in found.items.get(sequence, ())
    ]


def _uid(elements: dict[int, bytes], tag: int) -> str:
    text = elements.get(tag, b"").rstrip(b"\0 ").decode("latin-1")
    try:
        require_legal_uid(text)
    except RejectedInstanceError:
        raise _invalid(f"UID ({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing or illegal") from None
    return text


def _reason(item: dict[int, bytes]) -> int:
    value = item.get(_FAILURE_REASON, b"")
    if len(value) != _UNSIGNED_SHORT.size:
        return FAILURE_PROCESSING
    return int(_UNSIGNED_SHORT.unpack(value)[0])


def _invalid(what: str) -> RejectedInstanceError:
    return RejectedInstanceError(
        f"a storage commitment dataset cannot be used: {what}; correct the sender",
        status=STATUS_INVALID_ARGUMENT,
    )
