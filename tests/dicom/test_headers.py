"""What intake reads of a header, from legal and illegal datasets alike."""

from __future__ import annotations

import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode

from imaging_node.dicom.headers import ReceivedHeader, read_header, require_legal_uid
from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.domain.priority import ReadingPriority
from tests.dicom.synthetic_sources import radiograph

if TYPE_CHECKING:
    from collections.abc import Callable


def encoded(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    body = encode(
        dataset,
        is_implicit_vr=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        deflated=syntax == DeflatedExplicitVRLittleEndian,
    )
    assert body is not None
    return body


def header(change: Callable[[Dataset], None] | None = None) -> ReceivedHeader:
    dataset = radiograph()
    if change is not None:
        change(dataset)
    return read_header(encoded(dataset), transfer_syntax_uid=ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_a_header_reads_the_same_in_every_encoding(syntax: str) -> None:
    dataset = radiograph()
    image = read_header(encoded(dataset, syntax), transfer_syntax_uid=syntax).image

    assert (image.rows, image.columns) == (dataset.Rows, dataset.Columns)
    assert image.study_instance_uid == dataset.StudyInstanceUID
    assert image.modality == "DX"
    assert image.has_pixel_data


@pytest.mark.parametrize(
    ("age", "years"),
    [("004Y", 4), ("018M", 1.5), ("026W", 0.5), ("58", 58), ("4Y", 4), ("", None), ("old", None)],
)
def test_an_age_is_read_in_years(age: str, years: float | None) -> None:
    def change(dataset: Dataset) -> None:
        dataset.add_new(0x00101010, "AS", age)
        dataset.PatientBirthDate = ""

    read = header(change).image.patient_age_years

    assert read == (years if years is None else pytest.approx(years, abs=0.01))


def test_an_age_not_stated_follows_from_birth_and_study_date() -> None:
    def change(dataset: Dataset) -> None:
        if "PatientAge" in dataset:
            del dataset.PatientAge
        dataset.PatientBirthDate, dataset.StudyDate = "20200101", "20250102"

    assert header(change).image.patient_age_years == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "../../x", "1.2 3"])
def test_a_missing_or_illegal_uid_cannot_be_understood(keyword: str, value: str | None) -> None:
    def change(dataset: Dataset) -> None:
        del dataset[keyword]
        if value is not None:
            dataset.add_new(keyword, "LO", value)

    with pytest.raises(RejectedInstanceError) as refused:
        header(change)
    assert refused.value.status == 0xC000


def test_a_command_that_names_another_instance_is_a_mismatch() -> None:
    dataset = radiograph()

    with pytest.raises(RejectedInstanceError) as refused:
        read_header(
            encoded(dataset),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            sop_class_uid=str(dataset.SOPClassUID),
            sop_instance_uid="1.2.3",
        )
    assert refused.value.status == 0xA900


@pytest.mark.parametrize("uid", ["", "1.2/3", "../x", "1" * 65, "1.2\n", "1.2\0", "abc"])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    with pytest.raises(RejectedInstanceError) as refused:
        require_legal_uid(uid)
    assert refused.value.status == 0x0117


def test_deep_nesting_and_bombs_are_refused_or_read_within_bounds() -> None:
    deep = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    with pytest.raises(RejectedInstanceError) as refused:
        read_header(deep, transfer_syntax_uid=ExplicitVRLittleEndian)
    assert refused.value.status == 0xC000

    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(compressor.compress(b"\0" * (1 << 20)) for _ in range(160))
    with pytest.raises(RejectedInstanceError):
        read_header(bomb + compressor.flush(), transfer_syntax_uid=DeflatedExplicitVRLittleEndian)


def long_name() -> tuple[bytes, str]:
    return b"\x10\x00\x10\x00UN\0\0\x00\x00\x00\x04" + bytes(1 << 26), ExplicitVRLittleEndian


def many_items() -> tuple[bytes, str]:
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    return b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + item * 199_000, ExplicitVRLittleEndian


def deflated_bomb() -> tuple[bytes, str]:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(b"\x41\x00\x10\x10OB\0\0\x00\x00\x00\x10")]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(256)]
    return b"".join([*parts, packer.flush()]), DeflatedExplicitVRLittleEndian


def stored_in_a_deflated_stream() -> tuple[bytes, str]:
    packer = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = b"\x41\x00\x10\x10OB\0\0\x00\x00\x00\x10" + bytes(1 << 26)
    return packer.compress(plain) + packer.flush(), DeflatedExplicitVRLittleEndian


@pytest.mark.parametrize(
    "bomb", [long_name, many_items, deflated_bomb, stored_in_a_deflated_stream]
)
def test_what_a_header_claims_costs_no_memory_however_many_are_read_at_a_time(
    bomb: Callable[[], tuple[bytes, str]],
) -> None:
    dataset, syntax = bomb()

    def read(_: int) -> int:
        try:
            read_header(dataset, transfer_syntax_uid=syntax)
        except RejectedInstanceError as refused:
            return refused.status
        return 0

    with ThreadPoolExecutor(8) as readers:
        tracemalloc.start()
        try:
            assert set(readers.map(read, range(8))) == {0xC000}
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 64 * 1024 * 1024


def test_a_patient_is_told_by_id_and_issuer_or_else_by_name_and_birth_date() -> None:
    def with_values(**values: str) -> str:
        def change(dataset: Dataset) -> None:
            for keyword in ("IssuerOfPatientID", "PatientName", "PatientBirthDate"):
                if keyword in dataset:
                    del dataset[keyword]
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

        return header(change).patient_digest

    known = with_values(PatientID="A")
    assert known == with_values(PatientID="A ", PatientName="Other^Spelling")
    assert known != with_values(PatientID="B")
    assert known != with_values(PatientID="A", IssuerOfPatientID="elsewhere")
    named = with_values(PatientID="", PatientName="A^B", PatientBirthDate="20200101")
    assert named != with_values(PatientID="", PatientName="A^B", PatientBirthDate="20210101")
    assert with_values(PatientID="", PatientName="") == ""


def test_an_order_is_read_at_the_root_and_in_request_attributes() -> None:
    def nested(dataset: Dataset) -> None:
        item = Dataset()
        item.RequestedProcedurePriority = "STAT"
        dataset.RequestAttributesSequence = [item]

    def at_the_root(dataset: Dataset) -> None:
        dataset.RequestedProcedurePriority = "HIGH"

    assert header(nested).ordered_priority is ReadingPriority.STAT
    assert header(at_the_root).ordered_priority is ReadingPriority.URGENT
    assert header().ordered_priority is ReadingPriority.ROUTINE


@pytest.mark.parametrize(
    ("meaning", "view"),
    [
        ("postero-anterior", "PA"),
        ("antero-posterior", "AP"),
        ("Left lateral", "LATERAL"),
        ("antero-posterior oblique", "OBLIQUE"),
    ],
)
def test_a_coded_view_counts_where_view_position_is_absent(meaning: str, view: str) -> None:
    def change(dataset: Dataset) -> None:
        dataset.ViewPosition = ""
        item = Dataset()
        item.CodeMeaning = meaning
        dataset.ViewCodeSequence = [item]

    assert header(change).image.view_position == view
