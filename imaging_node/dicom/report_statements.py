"""What a report states, in words and codes, before anything is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.sr.coding import Code

from imaging_node.dicom.encoding import raw_element, raw_items
from imaging_node.dicom.provenance import DISCLAIMER, ascii_text
from imaging_node.dicom.terminology import (
    ALL_SUCCEEDED_WITH,
    ALL_SUCCEEDED_WITHOUT,
    DIAGNOSTIC_QUALITY,
    LIMITED_QUALITY,
    NON_DIAGNOSTIC_QUALITY,
    NONE_SUCCEEDED,
    QUALITY_FINDING,
    QUALITY_REASONS,
    SOME_SUCCEEDED_WITH,
    SOME_SUCCEEDED_WITHOUT,
    UNSPECIFIED_CT,
    UNSPECIFIED_RADIOGRAPHY,
)
from imaging_node.domain.finding import AnalysisStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydicom.dataset import Dataset

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import FindingScore, StudyResult
    from imaging_node.domain.result_object import Answer, ResultContext

STATUS_TOPIC: Final = "Analysis status"
"""Tracking Identifier of the first group, which says whether there is an answer at all."""

NO_UNITS: Final = Code("1", "UCUM", "no units")
LANGUAGE: Final = Code("en", "RFC5646", "English")

_CALIBRATION: Final = "Probabilities are calibrated means over the members of the ensemble."
_UNLIMITED_TEXT: Final = 100_000
_LONGEST_MEANING: Final = 64  # LO, PS3.5 6.2


def summary(result: StudyResult) -> Code:
    """CID 6047: how much was evaluated, and whether something was called present."""
    if result.status is AnalysisStatus.NOT_ANALYSED:
        return NONE_SUCCEEDED
    found = any(score.is_present for score in result.findings)
    if result.status is AnalysisStatus.PARTIAL:
        return SOME_SUCCEEDED_WITH if found else SOME_SUCCEEDED_WITHOUT
    return ALL_SUCCEEDED_WITH if found else ALL_SUCCEEDED_WITHOUT


def image_quality(result: StudyResult) -> Code | None:
    """CID 7036; None when nothing was analysed for another reason than quality."""
    if result.status is AnalysisStatus.COMPLETE:
        return DIAGNOSTIC_QUALITY
    if result.status is AnalysisStatus.PARTIAL:
        return LIMITED_QUALITY
    return NON_DIAGNOSTIC_QUALITY if QUALITY_REASONS.intersection(result.reasons) else None


def quality_findings(result: StudyResult) -> list[Code]:
    """CID 6135, each code of a reason once."""
    return list(dict.fromkeys(QUALITY_FINDING[reason] for reason in result.reasons))


def status_comment(result: StudyResult) -> str:
    """Disclaimer, reason and every remark word for word, in ASCII."""
    parts = [DISCLAIMER]
    if result.status is AnalysisStatus.NOT_ANALYSED:
        parts.append("NOT ANALYSED: no finding was evaluated; this is not a normal result.")
    else:
        parts.append(_CALIBRATION)
    if result.reasons:
        parts.append(f"Reason: {'; '.join(reason.value for reason in result.reasons)}.")
    parts.extend(result.remarks)
    return " ".join(parts).encode("ascii", "replace").decode("ascii")


def finding_comment(score: FindingScore) -> str:
    """What no standard code says: no context group has confidence limits of a value."""
    parts = []
    if score.interval is not None and score.probability is not None:
        low, high = score.interval
        parts.append(f"95 % interval of the probability: {low:.4f} to {high:.4f}.")
    if score.absence_withheld and score.probability is not None and not score.is_present:
        parts.append("Not called absent: an image of the study could not be analysed.")
    if score.is_contested:
        parts.append("Left open: the members of the ensemble disagree.")
    return " ".join(parts)


def rounded(value: float) -> float:
    """A probability or spread as it is written, with 4 decimals."""
    return round(float(value), 4)


def thresholds(score: FindingScore) -> tuple[str, str]:
    """Algorithm parameters of one finding."""
    return (
        f"operating_point={score.operating_point:g}",
        f"undetermined_from={score.undetermined_from:g}",
    )


def provenance_parameters(result: Answer, context: ResultContext) -> tuple[str, str]:
    """Algorithm parameters of every group: which weights and which settings answered."""
    return (
        ascii_text(f"weights={result.model.digest}", _UNLIMITED_TEXT),
        ascii_text(f"settings={context.settings_digest}", _UNLIMITED_TEXT),
    )


def seen_by(score: FindingScore, sources: Sequence[SourceHeader]) -> list[SourceHeader]:
    """The image that a score comes from, or every image when it comes from none of them."""
    seen = [each for each in sources if each.sop_instance_uid == score.sop_instance_uid]
    return seen[-1:] or list(sources)


def procedure_reported(source: SourceHeader) -> Code:
    """Procedure of the images: the study's code, else the request's, else unspecified."""
    for item in _procedure_items(source):
        code = _received_code(item)
        if code is not None:
            return code
    return UNSPECIFIED_CT if source.text("Modality") == "CT" else UNSPECIFIED_RADIOGRAPHY


def _procedure_items(source: SourceHeader) -> Iterator[Dataset]:
    yield from raw_items(source.identity.get("ProcedureCodeSequence"))
    for request in raw_items(source.carried.get("RequestAttributesSequence")):
        yield from raw_items(raw_element(request, "RequestedProcedureCodeSequence"))


def _received_code(item: Dataset) -> Code | None:
    """Code of the source as it came; Latin-1 text stands for its bytes (see `encoding`)."""

    def text(keyword: str) -> str:
        element = raw_element(item, keyword)
        return element.value.decode("latin-1").strip("\0 ") if element else ""

    value = text("CodeValue") or text("LongCodeValue") or text("URNCodeValue")
    scheme, meaning = text("CodingSchemeDesignator"), text("CodeMeaning")
    if not (value and scheme and meaning) or "\\" in value + scheme:
        return None
    if len(meaning) > _LONGEST_MEANING:
        return None
    return Code(value, scheme, meaning, text("CodingSchemeVersion") or None)
