"""The demo's table says what was answered, and that synthetic scores mean nothing."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from imaging_node.demonstration.table import DemoRow, answer_in_words, print_results
from imaging_node.domain.finding import FindingScore
from imaging_node.domain.priority import ReadingPriority


def row(answer: str, seconds: float | None = 2.34) -> DemoRow:
    return DemoRow(
        study="chest, [bold]JPEG[/bold]",
        answer=answer,
        priority=ReadingPriority.STAT,
        seconds=seconds,
    )


def printed(*rows: DemoRow, is_synthetic: bool = True) -> tuple[str, bool]:
    output = StringIO()
    console = Console(file=output, width=140)
    is_complete = print_results(console, rows, is_synthetic=is_synthetic)
    return " ".join(output.getvalue().split()), is_complete


def score(probability: float | None) -> FindingScore:
    return FindingScore(
        label="Pneumonia", probability=probability, operating_point=0.6, undetermined_from=0.3
    )


def test_a_row_shows_study_answer_priority_and_seconds_as_they_are() -> None:
    text, is_complete = printed(row("Pneumonia present, p=0.91"))
    assert is_complete
    for expected in ("chest, [bold]JPEG[/bold]", "Pneumonia present, p=0.91", "stat", "2.3"):
        assert expected in text


def test_scores_on_synthetic_films_are_said_to_mean_nothing_and_only_there() -> None:
    assert "mean nothing clinically" in printed(row("x"))[0]
    own_files, _ = printed(row("x"), is_synthetic=False)
    assert "mean nothing" not in own_files
    assert "not for diagnosis" in own_files


def test_a_study_without_an_answer_is_seen_and_counted() -> None:
    text, is_complete = printed(row("x"), row("", None))
    assert not is_complete
    assert "NO ANSWER" in text
    assert "1 of 2 studies answered" in text


def test_an_answer_in_words_never_turns_a_missing_score_into_a_call() -> None:
    assert answer_in_words([score(0.91)], "") == "Pneumonia present, p=0.91"
    assert answer_in_words([score(0.1)], "") == "Pneumonia absent, p=0.10"
    refused = answer_in_words([score(None)], "not a frontal view")
    assert refused == "not analysed: not a frontal view"
    assert answer_in_words([], "") == ""
