"""A report is the built one; where the two are compared and differ, the built one is sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from imaging_node.dicom.encoded_content import encoded_content
from imaging_node.dicom.report import build_report
from imaging_node.dicom.report_writer import ReportWriter
from imaging_node.dicom.source import SourceHeader, read_source
from imaging_node.domain.errors import BundleError
from imaging_node.domain.finding import AnalysisStatus, NotAnalysedReason
from imaging_node.telemetry import Event
from tests.dicom.synthetic_answers import answer, context, score
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from imaging_node.domain.finding import StudyResult

CONTENT_SEQUENCE = 0x0040A730


@pytest.fixture
def source(tmp_path: Path) -> SourceHeader:
    return read_source(write(radiograph(), tmp_path / "source.dcm"))


class WrongFrom:
    """Encodes rightly at first, and wrongly from the given tree on."""

    def __init__(self, first_wrong: int) -> None:
        self.count = 0
        self._first_wrong = first_wrong

    def __call__(self, *arguments: Any) -> dict[int, bytes]:  # noqa: ANN401 - handed on as they are
        self.count += 1
        tree = encoded_content(*arguments)
        if self.count >= self._first_wrong:
            tree[CONTENT_SEQUENCE] = tree[CONTENT_SEQUENCE].replace(b"Present", b"Absent ")
        return tree


def _given_up(events: Sequence[Mapping[str, Any]]) -> int:
    return sum(each["event"] == Event.REPORT_SHAPE_GIVEN_UP for each in events)


def _arguments(source: SourceHeader, result: StudyResult) -> dict[str, Any]:
    return {"sources": [source], "result": result, "context": context([source]), "captures": []}


def test_a_written_report_is_the_built_one(source: SourceHeader) -> None:
    writer = ReportWriter()
    reasons = (NotAnalysedReason.UNDECODABLE,)
    for result in (
        answer([source]),
        answer([source], status=AnalysisStatus.PARTIAL, reasons=reasons),
        answer([source], status=AnalysisStatus.NOT_ANALYSED, reasons=reasons),
    ):
        arguments = _arguments(source, result)
        built = build_report(**arguments)
        assert [writer.write(**arguments) for _ in range(3)] == [built] * 3


def test_what_is_encoded_otherwise_than_built_is_not_sent_and_not_tried_again(
    source: SourceHeader,
) -> None:
    encode = WrongFrom(1)
    writer = ReportWriter(encode=encode)
    arguments = _arguments(source, answer([source]))
    built = build_report(**arguments)
    with capture_logs() as events:
        assert [writer.write(**arguments) for _ in range(3)] == [built] * 3
    assert encode.count == 1
    assert _given_up(events) == 1


def test_a_shape_that_is_given_up_leaves_others_alone(source: SourceHeader) -> None:
    encode = WrongFrom(1)
    writer = ReportWriter(encode=encode)
    absent = replace(answer([source]), findings=(score("Mass", 0.1),))
    for result in (answer([source]), absent, absent):
        writer.write(**_arguments(source, result))
    assert encode.count == 3, "the second shape has no word that is encoded wrongly"


def test_every_so_many_reports_one_is_held_against_the_built_one(
    source: SourceHeader,
) -> None:
    encode = WrongFrom(2)
    writer = ReportWriter(encode=encode, check_every=3)
    arguments = _arguments(source, answer([source]))
    built = build_report(**arguments)
    with capture_logs() as events:
        written = [writer.write(**arguments) == built for _ in range(4)]
    assert written == [True, False, True, True]
    assert encode.count == 3
    assert _given_up(events) == 1


def test_a_kind_that_was_given_up_is_not_believed_again() -> None:
    writer = ReportWriter()
    for shape in (("one",), ("other",)):
        writer._note(shape, is_same=False)
        writer._note(shape, is_same=True)  # by another thread that compared at the same moment

    assert not any(writer._is_same.values())


def test_what_cannot_be_encoded_is_built(source: SourceHeader) -> None:
    def refuse(*_arguments: object) -> dict[int, bytes]:
        raise ValueError("not encodable")

    arguments = _arguments(source, answer([source]))
    assert ReportWriter(encode=refuse).write(**arguments) == build_report(**arguments)


def test_an_uncoded_finding_is_refused(source: SourceHeader) -> None:
    result = replace(answer([source]), findings=(score("Frog", 0.5),))
    with pytest.raises(BundleError, match="Frog"):
        ReportWriter().write(**_arguments(source, result))


def test_threads_that_share_a_writer_get_their_own_reports(source: SourceHeader) -> None:
    writer = ReportWriter(check_every=5)
    results = [
        replace(answer([source]), findings=(score("Mass", number / 40),)) for number in range(40)
    ]
    built = [build_report(**_arguments(source, result)) for result in results]
    with ThreadPoolExecutor(8) as threads:
        written = list(threads.map(lambda each: writer.write(**_arguments(source, each)), results))
    assert written == built
