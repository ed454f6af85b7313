"""Storage commitment datasets: what pydicom reads of ours, and what we read of anybody's."""

from __future__ import annotations

import time
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pynetdicom.dsutils import encode

from imaging_node.dicom.commitment import (
    COMMITMENT_SYNTAXES,
    MAXIMUM_REFERENCES,
    CommitmentReport,
    CommitmentRequest,
    encode_commitment_report,
    encode_commitment_request,
    new_transaction_uid,
    read_commitment_report,
    read_commitment_request,
)
from imaging_node.domain.errors import RejectedInstanceError

if TYPE_CHECKING:
    from collections.abc import Callable

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"

REQUEST = CommitmentRequest(
    transaction_uid="2.25.1", calling_ae_title="MODALITY", references=((DX, "1.2.3"), (CT, "1.2"))
)
REPORT = CommitmentReport(
    transaction_uid="2.25.1",
    calling_ae_title="PACS",
    committed=((DX, "1.2.3"),),
    failed=((CT, "1.2", 0x0112),),
)


def dataset(*uids: tuple[str, str], transaction: str = "2.25.1") -> Dataset:
    found = Dataset()
    found.TransactionUID = transaction
    found.ReferencedSOPSequence = Sequence([item(*each) for each in uids])
    return found


def item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID = sop_class_uid
    found.ReferencedSOPInstanceUID = sop_instance_uid
    return found


def encoded(found: Dataset, syntax: str) -> bytes:
    result = encode(found, syntax == IMPLICIT, is_little_endian=True)
    assert result is not None
    return result


@pytest.mark.parametrize("syntax", COMMITMENT_SYNTAXES)
def test_a_request_and_a_report_are_read_as_they_were_written(syntax: str) -> None:
    sent = encode_commitment_request(REQUEST, syntax)
    assert read_commitment_request(sent, syntax, calling_ae_title="MODALITY") == REQUEST

    answered = encode_commitment_report(REPORT, syntax)
    assert read_commitment_report(answered, syntax, calling_ae_title="PACS") == REPORT
    assert REPORT.event_type == 2


@pytest.mark.parametrize("syntax", COMMITMENT_SYNTAXES)
def test_pydicom_reads_what_we_write(syntax: str) -> None:
    report = read_dataset(
        BytesIO(encode_commitment_report(REPORT, syntax)), syntax == IMPLICIT, is_little_endian=True
    )
    [failed] = report.FailedSOPSequence
    [committed] = report.ReferencedSOPSequence
    assert report.TransactionUID == "2.25.1"
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2", 0x0112)
    assert committed.ReferencedSOPClassUID == DX


@pytest.mark.parametrize("syntax", COMMITMENT_SYNTAXES)
@pytest.mark.parametrize("is_undefined_length", [False, True])
def test_we_read_what_pydicom_writes(syntax: str, *, is_undefined_length: bool) -> None:
    found = dataset((DX, "1.2.3"), (CT, "1.2"), (DX, "1.2.3"))
    found.StorageMediaFileSetID = "DISK"
    for each in found.ReferencedSOPSequence:
        each.is_undefined_length_sequence_item = is_undefined_length
    found["ReferencedSOPSequence"].is_undefined_length = is_undefined_length
    # A sequence nobody asked for is stepped over, nested or not.
    found.ReferencedPerformedProcedureStepSequence = Sequence([item("1.2", "9.9")])
    found["ReferencedPerformedProcedureStepSequence"].is_undefined_length = is_undefined_length

    read = read_commitment_request(encoded(found, syntax), syntax, calling_ae_title="MODALITY")

    assert read == REQUEST


def test_what_is_named_as_committed_and_as_failed_has_failed() -> None:
    contradicting = CommitmentReport(
        transaction_uid="2.25.1",
        calling_ae_title="PACS",
        committed=((DX, "1.2.3"),),
        failed=((DX, "1.2.3", 0x0110),),
    )

    read = read_commitment_report(
        encode_commitment_report(contradicting, EXPLICIT), EXPLICIT, calling_ae_title="PACS"
    )

    assert (read.committed, read.failed) == ((), ((DX, "1.2.3", 0x0110),))


@pytest.mark.parametrize(
    "found",
    [
        dataset(),
        dataset((DX, "1.2.3"), transaction=""),
        dataset((DX, "")),
        dataset(("", "1.2.3")),
    ],
    ids=["no references", "no transaction", "no instance", "no class"],
)
def test_an_incomplete_request_is_an_invalid_argument(found: Dataset) -> None:
    with pytest.raises(RejectedInstanceError) as refusal:
        read_commitment_request(encoded(found, EXPLICIT), EXPLICIT, calling_ae_title="X")
    assert refusal.value.status == 0x0115


@pytest.mark.parametrize("illegal", [b"2.25.x", b"../../", b"2.25\n1"])
def test_what_is_no_uid_is_an_invalid_argument(illegal: bytes) -> None:
    sent = encode_commitment_request(REQUEST, EXPLICIT).replace(b"2.25.1", illegal)

    with pytest.raises(RejectedInstanceError) as refusal:
        read_commitment_request(sent, EXPLICIT, calling_ae_title="X")
    assert refusal.value.status == 0x0115


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", ""])
def test_another_transfer_syntax_is_refused(syntax: str) -> None:
    with pytest.raises(RejectedInstanceError):
        read_commitment_request(
            encode_commitment_request(REQUEST, EXPLICIT), syntax, calling_ae_title="X"
        )


def test_the_largest_request_is_read_and_a_larger_one_refused() -> None:
    references = tuple((DX, f"2.25.{number}") for number in range(MAXIMUM_REFERENCES + 1))
    largest = CommitmentRequest(
        transaction_uid="2.25.1", calling_ae_title="M", references=references[:-1]
    )
    larger = CommitmentRequest(
        transaction_uid="2.25.1", calling_ae_title="M", references=references
    )

    sent = encode_commitment_request(largest, IMPLICIT)
    assert read_commitment_request(sent, IMPLICIT, calling_ae_title="M") == largest
    with pytest.raises(RejectedInstanceError) as refusal:
        read_commitment_request(
            encode_commitment_request(larger, IMPLICIT), IMPLICIT, calling_ae_title="M"
        )
    assert refusal.value.status == 0x0213


@pytest.mark.parametrize("syntax", COMMITMENT_SYNTAXES)
@pytest.mark.parametrize(
    "filling",
    [
        b"\xfe\xff\x00\xe0\x00\x00\x00\x00",  # empty items
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x99\x11SQ\x00\x00\xff\xff\xff\xff",
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x99\x11\xff\xff\xff\xff",
        b"\x00",
    ],
)
def test_eight_mebibytes_of_anything_are_refused_within_seconds(
    syntax: str, filling: bytes
) -> None:
    head = b"\x08\x00\x99\x11" + (b"" if syntax == IMPLICIT else b"SQ\x00\x00") + b"\xff" * 4
    hostile = head + filling * (8 * 1024 * 1024 // len(filling))
    began = time.monotonic()

    with pytest.raises(RejectedInstanceError):
        read_commitment_request(hostile, syntax, calling_ae_title="X")
    assert time.monotonic() - began < 10


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_datasets_are_refused_or_read_and_never_crash(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(COMMITMENT_SYNTAXES))
    damaged = bytearray(encode_commitment_report(REPORT, syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]

    for read in (read_commitment_request, read_commitment_report):
        assert answer(read, bytes(damaged), syntax) in {0, 0x0115, 0x0213}


def answer(read: Callable[..., object], damaged: bytes, syntax: str) -> int:
    """0 when it could be read, else the status."""
    try:
        read(damaged, syntax, calling_ae_title="X")
    except RejectedInstanceError as refusal:
        return refusal.status
    return 0


def test_transaction_uids_are_legal_and_never_the_same() -> None:
    uids = {new_transaction_uid() for _ in range(1000)}

    assert len(uids) == 1000
    assert all(len(uid) <= 64 and uid.replace(".", "").isdigit() for uid in uids)
