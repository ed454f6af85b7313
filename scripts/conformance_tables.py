#!/usr/bin/env python3
"""Write the tables of docs/conformance.md from the code that they describe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.uid import UID

from imaging_node.dicom import negotiation, upper_layer, wire
from imaging_node.dicom.answering import require_success
from imaging_node.dicom.command_set import STATUS, CommandSet
from imaging_node.dicom.commitment import COMMITMENT_SYNTAXES
from imaging_node.dicom.endings import AbortReason
from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_node.dicom.negotiation import Rejection
from imaging_node.dicom.proposal import read_rejection
from imaging_node.dicom.requestor import Message
from imaging_node.dicom.sender import STATUS_WARNINGS
from imaging_node.dicom.statuses import (
    COMMITMENT_STATUSES,
    STORAGE_STATUSES,
    VERIFICATION_STATUSES,
)
from imaging_node.dicom.storage_classes import allowed_storage_classes
from imaging_node.dicom.tls import TLS_1_2_SUITES
from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, UNCOMPRESSED
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError
from imaging_node.settings import DicomSettings, PeerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imaging_node.dicom.statuses import Status

ROOT = Path(__file__).resolve().parents[1]
STATEMENT = ROOT / "docs" / "conformance.md"

_DELIVERED = "delivered"
_AGAIN = "tried again later, with the same SOP Instance UID"
_PARKED = "parked until an operator acts"
# Of PS3.6, newer than pydicom's dictionary.
_NEWER_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
}
# PS3.8 table 9-21: result, source, reason.
_RECEIVED_REJECTIONS = (
    (1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 7), (1, 2, 1), (1, 2, 2), (2, 3, 1), (2, 3, 2),
)  # fmt: skip
_ABORTED_BY_USER = (
    "before an association, all but a request that can be decoded; then an instance over the"
    " size limit, or the end of the node"
)
_ABORT_CAUSES = {
    AbortReason.NOT_SPECIFIED: "a PDU or the association took too long",
    AbortReason.UNRECOGNISED_PDU: "no PDU type of PS3.8",
    AbortReason.UNEXPECTED_PDU: "a PDU or a message out of place; a peer more than two messages"
    " ahead of its answers",
    AbortReason.INVALID_PARAMETER: "a PDU over its ceiling or not decodable, a command set over"
    " its ceiling, an unknown presentation context",
}
_MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Every table by the name that stands in the document."""
    return {
        "identification": _identification(),
        "image-classes": _classes(allowed_storage_classes("images")),
        "all-classes": _classes(allowed_storage_classes("all")),
        "transfer-syntaxes": _transfer_syntaxes(),
        "limits": _limits(),
        "rejections": _rejections(),
        "aborts": _aborts(),
        "verification-statuses": _statuses(VERIFICATION_STATUSES),
        "storage-statuses": _statuses(STORAGE_STATUSES),
        "commitment-statuses": _statuses(COMMITMENT_STATUSES),
        "answers-of-peers": _answers_of_peers(),
        "rejections-by-peers": _rejections_by_peers(),
        "cipher-suites": _table(("TLS 1.2 cipher suite",), ((each,) for each in TLS_1_2_SUITES)),
    }


def filled(document: str) -> str:
    """The document with every marked table as the code has it now.

    Raises:
        KeyError: It marks a table that is not made here.
        ValueError: It leaves out a table, or marks one twice.
    """
    made = tables()
    marked = [match[2] for match in _MARKED.finditer(document)]
    if sorted(marked) != sorted(made):
        unknown = set(marked) - set(made)
        if unknown:
            raise KeyError(f"no table is called {sorted(unknown)}")
        raise ValueError(f"each of {sorted(made)} must be marked once, not {sorted(marked)}")
    return _MARKED.sub(lambda match: f"{match[1]}\n{made[match[2]]}\n{match[4]}", document)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _identification() -> str:
    return _table(
        ("parameter", "value"),
        (
            ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
            ("Implementation Version Name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
        ),
    )


def _classes(uids: Iterable[str]) -> str:
    return _table(
        ("SOP class", "UID"), ((_NEWER_CLASSES.get(uid, UID(uid).name), uid) for uid in uids)
    )


def _transfer_syntaxes() -> str:
    return _table(
        ("transfer syntax", "UID", "Storage", "Verification", "Storage Commitment"),
        (
            (
                UID(uid).name,
                uid,
                "yes",
                "yes" if uid in UNCOMPRESSED else "",
                "yes" if uid in COMMITMENT_SYNTAXES else "",
            )
            for uid in TRANSFER_SYNTAXES
        ),
    )


def _limits() -> str:
    settings = DicomSettings()
    return _table(
        ("limit", "value", "beyond it"),
        (
            (
                "P-DATA-TF PDU (Maximum Length offered)",
                f"{wire.OFFERED_PDU_BYTES} bytes",
                "A-ABORT 2/6 before the body is read",
            ),
            (
                "A-ASSOCIATE-RQ PDU",
                f"{upper_layer.REQUEST_CEILING_BYTES} bytes",
                "A-ABORT 0/0 before the body is read",
            ),
            ("command set", f"{upper_layer.COMMAND_CEILING_BYTES} bytes", "A-ABORT 2/6"),
            (
                "dataset, `dicom.max_instance_bytes`",
                f"{settings.max_instance_bytes} bytes",
                "A701, then A-ABORT 0/0",
            ),
            (
                "a PDU, from its first byte to its last",
                f"{upper_layer.PDU_DEADLINE_S:.0f} s",
                "A-ABORT 2/0",
            ),
            (
                "the first PDU, from the connection on",
                f"{upper_layer.PDU_DEADLINE_S:.0f} s",
                "connection closed",
            ),
            (
                "silence on an association, `dicom.idle_timeout_s`",
                f"{settings.idle_timeout_s:.0f} s",
                "A-ABORT 2/0",
            ),
            (
                "wait for the peer to close (ARTIM)",
                f"{upper_layer.CLOSING_DEADLINE_S:.0f} s",
                "connection closed",
            ),
            (
                "associations, `dicom.max_associations`",
                str(settings.max_associations),
                "rejected 2/3/2",
            ),
            (
                "of one address, `dicom.max_associations_per_address`",
                str(settings.max_associations_per_address),
                "rejected 2/3/2",
            ),
        ),
    )


def _rejections() -> str:
    found = {each for each in vars(negotiation).values() if isinstance(each, Rejection)}
    words = {1: "permanent", 2: "transient"}
    return _table(
        ("result/source/reason", "result", "when"),
        (
            (each.code, words[each.result], each.reason)
            for each in sorted(found, key=lambda each: (each.code, each.reason))
        ),
    )


def _aborts() -> str:
    rows = [("2", str(reason.value), _ABORT_CAUSES[reason]) for reason in AbortReason]
    return _table(
        ("source", "reason", "when"),
        (
            ("0", "0", _ABORTED_BY_USER),
            *rows,
        ),
    )


def _statuses(statuses: Iterable[Status]) -> str:
    return _table(
        ("status", "meaning", "the same again"),
        (
            (f"{each.code:04X}", each.meaning, _worth_repeating(each))
            for each in sorted(statuses, key=lambda each: each.code)
        ),
    )


def _worth_repeating(status: Status) -> str:
    if not status.code:
        return ""
    return "may succeed later" if status.may_retry else "will not succeed"


def _answers_of_peers() -> str:
    """What the sender does with each of the 65,536 statuses, asked of its own code."""
    ranges: dict[str, list[str]] = {}
    for first, last, what in _runs():
        ranges.setdefault(what, []).append(
            f"{first:04X}" if first == last else f"{first:04X} to {last:04X}"
        )
    ranges[_AGAIN].append("no answer (time-out, connection lost, association aborted)")
    ranges[_PARKED] = ["any other"]
    return _table(
        ("status of the peer's response", "the object is"),
        ((", ".join(statuses), what) for what, statuses in ranges.items()),
    )


def _runs() -> Iterator[tuple[int, int, str]]:
    first, what = 0, _consequence(0)
    for status in range(1, 0x10000):
        other = _consequence(status)
        if other != what:
            yield first, status - 1, what
            first, what = status, other
    yield first, 0xFFFF, what


def _consequence(status: int) -> str:
    answer = CommandSet({STATUS: status.to_bytes(2, "little")})
    message = Message(context_id=1, command=answer, dataset=b"")
    try:
        require_success(message, warnings=STATUS_WARNINGS)
    except PeerUnavailableError:
        return _AGAIN
    except PeerRefusedError:
        return _PARKED
    return f"{_DELIVERED}, the warning kept" if status else _DELIVERED


def _rejections_by_peers() -> str:
    peer = PeerSettings(ae_title="PEER", host="peer", port=104)
    rows = []
    for code in _RECEIVED_REJECTIONS:
        error = read_rejection(peer, bytes((0, *code)))
        what = _PARKED if isinstance(error, PeerRefusedError) else _AGAIN
        rows.append(("/".join(map(str, code)), error.status.rpartition(": ")[2], what))
    return _table(("rejection by the peer", "meaning", "the objects are"), rows)


def main() -> None:
    """Fill the document."""
    STATEMENT.write_text(filled(STATEMENT.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {STATEMENT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
