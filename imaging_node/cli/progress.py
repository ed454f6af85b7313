"""A progress bar with rate and remaining time, on standard error."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RateColumn(ProgressColumn):
    """Steps per minute."""

    def render(self, task: Task) -> Text:
        """Show the rate, or a dash while it is not known."""
        speed = task.finished_speed or task.speed
        return Text("-/min" if speed is None else f"{speed * 60:.0f}/min")


@contextmanager
def progress_bar(title: str, *, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of `total` steps; the yielded function makes one step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        Remaining(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
