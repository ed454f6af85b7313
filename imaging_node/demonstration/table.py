"""What the demo tells at its end: a row for each study, and what the scores are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from imaging_node.domain.priority import ReadingPriority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from imaging_node.domain.finding import FindingScore

SYNTHETIC_NOTE = (
    "These radiographs were rendered by imaging-node and show no person."
    " The model never learned from such pictures: its scores on them mean nothing clinically."
)
UNVERIFIED_NOTE = "AI output, not verified, not for diagnosis."


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRow:
    """One study of the demo.

    Attributes:
        study: What was sent, e.g. "chest, lateral view".
        answer: What came back, in words; "" if nothing did.
        priority: Reading priority after the answer.
        seconds: From the last image sent to the SR stored at the PACS; None without an SR.
    """

    study: str
    answer: str
    priority: ReadingPriority
    seconds: float | None


def answer_in_words(findings: Sequence[FindingScore], reason: str) -> str:
    """Calls with their probabilities, or why there are none; never "normal"."""
    evaluated = [score for score in findings if score.probability is not None]
    if not evaluated:
        return f"not analysed: {reason}" if reason else ""
    return ", ".join(
        f"{score.label} {score.presence.value}, p={score.probability:.2f}" for score in evaluated
    )


def results_table(rows: Iterable[DemoRow]) -> Table:
    """The rows as a table; a study without an answer stands out in words, too."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Study")
    table.add_column("Answer")
    table.add_column("Priority")
    table.add_column("Seconds to SR", justify="right")
    for row in rows:
        # Text, not markup: nothing that came in a header is ever read as a command.
        table.add_row(
            Text(row.study),
            Text(row.answer) if row.answer else Text("NO ANSWER", style="bold red"),
            Text(row.priority.value),
            Text("" if row.seconds is None else f"{row.seconds:.1f}"),
        )
    return table


def print_results(console: Console, rows: Sequence[DemoRow], *, is_synthetic: bool) -> bool:
    """Print the table with its caution.

    Returns:
        True when every study was answered.
    """
    answered = [row for row in rows if row.answer]
    console.print(results_table(rows))
    console.print(f"{len(answered)} of {len(rows)} studies answered.")
    console.print(UNVERIFIED_NOTE, style="bold")
    if is_synthetic:
        console.print(SYNTHETIC_NOTE)
    return len(answered) == len(rows)
