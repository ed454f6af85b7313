"""What decodes a peer's bytes raises nothing but the errors it documents, whatever they are."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pynetdicom.pdu_primitives import (
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from imaging_node.dicom import command_set as words
from imaging_node.dicom.command_set import decode_command
from imaging_node.dicom.commitment import (
    COMMITMENT_SYNTAXES,
    CommitmentReport,
    CommitmentRequest,
    encode_commitment_report,
    encode_commitment_request,
    read_commitment_report,
    read_commitment_request,
)
from imaging_node.dicom.endings import AbortAssociationError
from imaging_node.dicom.headers import read_header
from imaging_node.dicom.negotiation import Caller, Policy, read_request
from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.settings import DicomSettings
from tests.dicom.listening import CT, VERIFICATION, association_request, store_command
from tests.dicom.synthetic_sources import radiograph
from tests.dicom.test_headers import encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

# pydicom warns of each illegal value that it meets; here they all are.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
often = settings(
    max_examples=1500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _requests() -> list[bytes]:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT, b"\x02\x00\x03"
    user = UserIdentityNegotiation()
    user.user_identity_type = 2
    user.primary_field, user.secondary_field = b"user", b"passcode"
    user.positive_response_requested = True
    contexts = [(CT, SYNTAXES[0]), (CT, SYNTAXES[1]), (VERIFICATION, SYNTAXES[1])]
    return [
        association_request(contexts[2:]),
        association_request(contexts, more=[role, extended, user]),
    ]


def _commitments() -> list[tuple[bytes, str]]:
    references = tuple((CT, f"1.2.3.{number}") for number in range(3))
    request = CommitmentRequest(
        transaction_uid="2.25.1", calling_ae_title="A", references=references
    )
    report = CommitmentReport(
        transaction_uid="2.25.1",
        calling_ae_title="A",
        committed=references[:2],
        failed=((*references[2], 0x0112),),
    )
    return [
        made
        for syntax in COMMITMENT_SYNTAXES
        for made in (
            (encode_commitment_request(request, syntax), syntax),
            (encode_commitment_report(report, syntax), syntax),
        )
    ]


def _datasets() -> list[tuple[bytes, str]]:
    dataset = radiograph()
    del dataset.PixelData
    return [(encoded(dataset, syntax), syntax) for syntax in SYNTAXES]


@st.composite
def spoiled(draw: st.DrawFn, sources: Sequence[bytes]) -> bytes:
    """One of `sources` with bytes replaced, inserted, taken out or cut off."""
    content = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(1, 5))):
        begin = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from((0, 1, 2, 4, 8, 64)))
        content[begin : begin + length] = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\0\xe0\xff\xff\xff\xff", b"SQ")
                ),
                st.integers(0, 0xFFFF).map(lambda number: struct.pack(">H", number)),
                st.integers(0, 0xFFFF).map(lambda number: struct.pack("<H", number)),
            )
        )
    cut = draw(st.one_of(st.none(), st.integers(0, len(content))))
    return bytes(content[:cut])


POLICIES = [
    Policy(DicomSettings.model_validate({"port": 1, "user_identity": "accept"})),
    Policy(
        DicomSettings.model_validate(
            {"port": 1, "user_identity": "require", "users": {"user": "0" * 64}}
        )
    ),
    Policy(
        DicomSettings.model_validate(
            {"port": 1, "callers": [{"ae_title": "RAW", "address": "127.0.0.0/8"}]}
        )
    ),
]


@often
@given(st.one_of(spoiled(_requests()), st.binary(max_size=300).map(lambda body: b"\x01\0" + body)))
@example(b"")
@example(b"\x01\0\0\0\0\0")
def test_an_association_request_is_answered_or_aborted(pdu: bytes) -> None:
    try:
        request = read_request(pdu)
    except AbortAssociationError:
        return
    assert isinstance(request.asks_verification_alone, bool)
    for policy in POLICIES:
        refusal = policy.refusal(request, Caller(address="127.0.0.1"))
        if refusal is not None:
            assert refusal.code
            continue
        answer, contexts = policy.accept(request)
        assert answer[:1] == b"\x02"
        assert all(number % 2 for number in contexts)


@often
@given(st.one_of(spoiled([store_command(), store_command("1.2\0")]), st.binary(max_size=200)))
def test_a_command_is_read_or_no_command(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        command = decode_command(content)
        command.uid(words.AFFECTED_SOP_INSTANCE_UID)
        command.uid(words.AFFECTED_SOP_CLASS_UID)
        command.number(words.COMMAND_FIELD)
        assert isinstance(command.has_dataset, bool)


@often
@given(
    st.one_of(
        spoiled([dataset for dataset, _ in _datasets()]),
        st.binary(max_size=400),
    ),
    st.sampled_from(SYNTAXES),
)
def test_a_header_is_read_or_refused_with_its_status(content: bytes, syntax: str) -> None:
    status = 0x0000
    try:
        header = read_header(content, transfer_syntax_uid=syntax)
    except RejectedInstanceError as error:
        status = error.status
    assert status == 0xC000 or header.image.study_instance_uid


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_seeds_are_sound_in_every_encoding(syntax: str) -> None:
    [dataset] = [dataset for dataset, each in _datasets() if each == syntax]

    assert read_header(dataset, transfer_syntax_uid=syntax).image.modality == "DX"


@often
@given(
    st.one_of(spoiled([dataset for dataset, _ in _commitments()]), st.binary(max_size=400)),
    st.sampled_from(COMMITMENT_SYNTAXES),
)
def test_a_commitment_dataset_is_read_or_refused_with_its_status(
    content: bytes, syntax: str
) -> None:
    for read in (read_commitment_request, read_commitment_report):
        status = 0x0000
        try:
            read(content, syntax, calling_ae_title="A")
        except RejectedInstanceError as error:
            status = error.status
        assert status in {0x0000, 0x0115, 0x0213}
