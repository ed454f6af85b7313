from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from imaging_node.dicom import terminology
from imaging_node.dicom.terminology import FINDING_TERMS, TermStatus, term
from imaging_node.domain.coded_term import LOCAL_SCHEME
from imaging_node.domain.errors import BundleError, OperatorError
from imaging_node.domain.finding import NotAnalysedReason, Presence

_MULTIPLICATION = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_FIRST_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _has_verhoeff_check_digit(number: str) -> bool:
    check = 0
    for position, digit in enumerate(reversed(number)):
        permuted = int(digit)
        for _ in range(position % 8):
            permuted = _FIRST_PERMUTATION[permuted]
        check = int(_MULTIPLICATION[check][permuted])
    return check == 0


def _standard_codes() -> dict[tuple[str, str], str]:
    found = {}
    for scheme in ("DCM", "SCT", "RADLEX"):
        collection = getattr(codes, scheme)
        for name in collection.dir():
            for code in (getattr(collection, name),):
                found[code.scheme_designator, code.value] = code.meaning
    return found


def test_the_check_digit_finds_a_code_that_circulates_wrongly() -> None:
    assert _has_verhoeff_check_digit("95436008")
    assert not _has_verhoeff_check_digit("95436003")


@pytest.mark.parametrize("label", sorted(FINDING_TERMS))
def test_every_snomed_code_has_a_valid_check_digit(label: str) -> None:
    coded = term(label)
    for code in (coded.concept, coded.site):
        if code.scheme_designator == "SCT":
            assert _has_verhoeff_check_digit(code.value)
            assert code.value[-3:-1] == "00", "a concept, not a description"


def test_terms_said_to_be_dicoms_are_in_the_standard_and_local_ones_are_not() -> None:
    standard = _standard_codes()
    for coded in FINDING_TERMS.values():
        known = (coded.concept.scheme_designator, coded.concept.value) in standard
        if coded.status is TermStatus.DICOM:
            assert known, coded.label
        is_local = coded.concept.scheme_designator == LOCAL_SCHEME
        assert is_local == (coded.status is TermStatus.LOCAL)
        assert len(coded.concept.meaning) <= 64


def test_pneumonia_is_the_disorder_that_the_bundle_promises() -> None:
    concept = term("Pneumonia").concept
    assert (concept.value, concept.scheme_designator) == ("233604007", "SCT")


def test_answers_and_summaries_use_the_standards_own_words() -> None:
    standard = _standard_codes()
    stated = [
        *terminology.PRESENCE.values(),
        *terminology.QUALITY_FINDING.values(),
        terminology.ALL_SUCCEEDED_WITH,
        terminology.ALL_SUCCEEDED_WITHOUT,
        terminology.SOME_SUCCEEDED_WITH,
        terminology.SOME_SUCCEEDED_WITHOUT,
        terminology.NONE_SUCCEEDED,
        terminology.DIAGNOSTIC_QUALITY,
        terminology.LIMITED_QUALITY,
        terminology.NON_DIAGNOSTIC_QUALITY,
    ]
    for code in stated:
        meaning = standard[code.scheme_designator, code.value]
        assert meaning.lower().replace("patient ", "").replace(" problem", "").startswith(
            code.meaning.lower()
        ) or code.meaning.lower().startswith(meaning.lower()), code


def test_every_reason_and_every_call_has_a_code() -> None:
    assert set(terminology.QUALITY_FINDING) == set(NotAnalysedReason)
    assert set(terminology.PRESENCE) == set(Presence)


def test_an_uncoded_finding_is_an_error_that_the_operator_can_act_on() -> None:
    with pytest.raises(BundleError, match="Lung Frog") as caught:
        term("Lung Frog")
    assert isinstance(caught.value, OperatorError)


def test_the_document_lists_every_term() -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "result-objects.md").read_text()
    for coded in FINDING_TERMS.values():
        concept = coded.concept
        row = f"| {coded.label} | {concept.value} {concept.scheme_designator} | {concept.meaning} |"
        assert row in document


def test_no_label_means_normal() -> None:
    with pytest.raises(BundleError):
        term("No Finding")
