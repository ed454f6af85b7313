from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from imaging_node.dicom.report import build_report
from imaging_node.dicom.source import read_source
from imaging_node.dicom.source_attributes import TYPE_2_KEYWORDS
from imaging_node.domain.errors import IdentityHeldError, IntegrityError
from tests.dicom.synthetic_answers import answer, context
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.uid import UID

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def _raw(path: Path, keyword: str) -> bytes | None:
    """Bytes of an element in a file, without padding."""
    dataset = dcmread(path, stop_before_pixels=True)
    if keyword not in dataset:
        return None
    element = dataset.get_item(keyword)
    value = element.value
    if isinstance(value, bytes):
        return value.rstrip(b" \0")
    values = [value] if isinstance(value, str) else value or []  # pydicom decodes character sets
    return "\\".join(values).encode()


def _reported(source_path: Path, tmp_path: Path) -> Path:
    source = read_source(source_path)
    report = build_report(
        sources=[source], result=answer([source]), context=context([source]), captures=[]
    )
    path = tmp_path / "report.dcm"
    path.write_bytes(report.payload)
    return path


def _odd_radiographs() -> dict[str, dict[str, bytes]]:
    japanese = "Yamada^Tarou=山田^太郎=やまだ^たろう".encode("iso2022_jp")
    return {
        "Latin 1": {"PatientName": "Müster^Jürgen".encode("latin-1")},
        "Japanese, first value empty": {
            "SpecificCharacterSet": b"\\ISO 2022 IR 87",
            "PatientName": japanese,
            "StudyDescription": "胸部".encode("iso2022_jp"),
        },
        "UTF-8": {
            "SpecificCharacterSet": b"ISO_IR 192",
            "PatientName": "Ωmega^Ålesund=王^小東".encode(),
        },
        "GBK with a backslash inside a character": {
            "SpecificCharacterSet": b"GBK",
            "PatientName": "Wang^XiaoDong=王^小东".encode("gbk"),
            "PatientID": "\u8a93".encode("gbk"),
        },
        "no character set but non-ASCII bytes": {
            "SpecificCharacterSet": b"",
            "PatientName": b"M\xfcster^J\xfcrgen",
        },
        "unknown character set": {
            "SpecificCharacterSet": b"KLINGON",
            "PatientName": b"\xff\xfe^\x80",
        },
        "values that break their VR": {
            "AccessionNumber": b"A" * 17,
            "PatientSex": b"X",
            "PatientBirthDate": b"29.02.1960",
            "StudyTime": b"quarter past",
            "PatientID": b"  00042",
            "PatientAge": b"old",
            "PatientWeight": b"heavy",
        },
        "a name longer than its length field": {"PatientName": b"N" * 70_000},
    }


ODD = _odd_radiographs()


CASES = [
    (case, syntax)
    for case in sorted(ODD)
    for syntax in SYNTAXES
    if syntax == ImplicitVRLittleEndian  # the only one that can carry so long a name
    or all(len(value) < 2**16 for value in ODD[case].values())
]


@pytest.mark.parametrize(("case", "syntax"), CASES)
def test_identity_reaches_the_result_byte_for_byte(case: str, syntax: UID, tmp_path: Path) -> None:
    data = radiograph(case)
    if not syntax.is_implicit_VR and not syntax.is_little_endian:
        del data.PixelData
    path = write(data, tmp_path / "source.dcm", syntax, ODD[case])
    result = _reported(path, tmp_path)
    for keyword, value in ODD[case].items():
        assert _raw(result, keyword) == value.rstrip(b" "), keyword
    for keyword in ("StudyInstanceUID", "ReferringPhysicianName", "IssuerOfPatientID"):
        assert _raw(result, keyword) == _raw(path, keyword), keyword


def test_a_sequence_of_identity_survives_another_byte_order(tmp_path: Path) -> None:
    data = radiograph()
    del data.PixelData
    issuer, other = Dataset(), Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    other.PatientID, other.TypeOfPatientID = "X-1", "TEXT"
    other.IssuerOfPatientIDQualifiersSequence = [issuer]
    data.OtherPatientIDsSequence = [other]
    data.PregnancyStatus = 4
    path = write(data, tmp_path / "source.dcm", ExplicitVRBigEndian)
    result = dcmread(_reported(path, tmp_path))
    assert result.OtherPatientIDsSequence[0] == other
    assert result.PregnancyStatus == 4


@given(missing=st.sets(st.sampled_from(sorted(TYPE_2_KEYWORDS))))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_missing_type_2_attribute_is_present_and_empty(missing: set[str], tmp_path: Path) -> None:
    data = radiograph()
    for keyword in missing:
        delattr(data, keyword)
    result = dcmread(_reported(write(data, tmp_path / "source.dcm"), tmp_path))
    for keyword in TYPE_2_KEYWORDS:
        assert keyword in result
        assert bool(result[keyword].is_empty) == (keyword in missing), keyword


@given(
    charset=st.sampled_from(
        ["", "ISO_IR 100", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 87", "ISO_IR 13", "?"]
    ),
    name=st.binary(max_size=80),
    description=st.binary(max_size=80),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_bytes_in_a_name_stop_or_change_a_result(
    charset: str, name: bytes, description: bytes, tmp_path: Path
) -> None:
    overrides = {
        "SpecificCharacterSet": charset.encode(),
        "PatientName": name,
        "StudyDescription": description,
    }
    path = write(radiograph(), tmp_path / "source.dcm", overrides=overrides)
    result = _reported(path, tmp_path)
    assert _raw(result, "PatientName") == name.rstrip(b" \0")
    assert _raw(result, "StudyDescription") == description.rstrip(b" \0")


def test_several_patients_in_one_patient_id_are_held(tmp_path: Path) -> None:
    two = {"PatientID": b"SECRET-1\\SECRET-2"}
    path = write(radiograph(), tmp_path / "source.dcm", overrides=two)
    with pytest.raises(IdentityHeldError, match="several patients") as caught:
        read_source(path)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
)
def test_an_image_that_belongs_nowhere_is_held(keyword: str, tmp_path: Path) -> None:
    path = write(radiograph(), tmp_path / "source.dcm")
    data = radiograph()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    delattr(data, keyword)
    write(data, path)
    with pytest.raises(IdentityHeldError, match=keyword):
        read_source(path)


def test_a_file_that_is_gone_is_the_operators_business(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        read_source(tmp_path / "nothing.dcm")


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path) -> None:
    data = radiograph()
    path = write(data, tmp_path / "bomb.dcm", DeflatedExplicitVRLittleEndian)
    meta_end = 144 + int(dcmread(path).file_meta.FileMetaInformationGroupLength)
    inflated = zlib.decompress(path.read_bytes()[meta_end:], -zlib.MAX_WBITS)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(inflated + b"\0" * 400_000_000) + deflater.flush()
    path.write_bytes(path.read_bytes()[:meta_end] + bomb)
    assert read_source(path).study_instance_uid == data.StudyInstanceUID


def test_private_elements_and_pixels_stay_behind(tmp_path: Path) -> None:
    data = radiograph()
    block = data.private_block(0x0011, "ACME", create=True)
    block.add_new(1, "LO", "private value")
    request = data.RequestAttributesSequence[0]
    request.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "private value")
    result = _reported(write(data, tmp_path / "source.dcm"), tmp_path)
    assert b"private value" not in result.read_bytes()
    assert not any(element.tag.is_private for element in dcmread(result).iterall())


@pytest.mark.parametrize(
    ("stated", "expected"),
    [("+0100", "102005"), ("-0430", "045005"), ("+0000", "092005")],
)
def test_our_times_are_in_the_offset_that_the_source_states(
    stated: str, expected: str, tmp_path: Path
) -> None:
    data = radiograph()
    data.TimezoneOffsetFromUTC = stated
    result = dcmread(_reported(write(data, tmp_path / "source.dcm"), tmp_path))
    assert result.TimezoneOffsetFromUTC == stated
    assert result.ContentTime == expected


@pytest.mark.parametrize("stated", [None, "CEST", "+9999"])
def test_no_offset_is_written_where_the_source_states_none(
    stated: str | None, tmp_path: Path
) -> None:
    data = radiograph()
    data.TimezoneOffsetFromUTC = stated
    result = dcmread(_reported(write(data, tmp_path / "source.dcm"), tmp_path))
    assert "TimezoneOffsetFromUTC" not in result
