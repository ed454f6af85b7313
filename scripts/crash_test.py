"""Crash a node at numbered points, start it again, and check that it kept its promises."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from crash.campaign import (
    Campaign,
    dry_runs,
    explain,
    faults,
    table,
    variant_table,
    wrong_nodes,
)
from crash.random_kills import kill_at_random
from crash.shim import compile_shim

from imaging_node.domain.errors import ImagingNodeError

if TYPE_CHECKING:
    from crash.trial import TrialOutcome

POINTS, SAMPLE_POINTS = 20, 3
WRONG_POINTS, SAMPLE_WRONG_POINTS = 12, 3
# In memory an fsync costs nothing, and what it would have kept is in the shadow all the same.
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
MEMORY_NEEDED_BYTES = 2 * 1024**3

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def crash_test(
    sample: Annotated[bool, typer.Option(help="A few points of each kind, for CI.")] = False,
    points: Annotated[
        int, typer.Option(min=0, help="Points of each mode and phase; 0: every point.")
    ] = POINTS,
    random_for: Annotated[
        float, typer.Option(min=0, help="Instead: kill at random for so many seconds.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the random moments; 0: any.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=0, help="Nodes at a time; 0: one more than there are cores.")
    ] = 0,
) -> None:
    """Crash a node at numbered points, or at random, and check its promises I1 to I5."""
    # They wait for each other's answers about as long as they work.
    jobs = jobs or (os.cpu_count() or 1) + 1
    folder = Path(tempfile.mkdtemp(prefix="imaging-node-crash-", dir=_fast_folder()))
    try:
        if random_for:
            is_sound = _at_random(folder, random_for, seed or secrets.randbelow(2**31) + 1)
        else:
            is_sound = _at_points(folder, points, is_sample=sample, jobs=jobs)
    except ImagingNodeError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(1) from None
    if not is_sound:
        typer.echo(f"what was left is in {folder}", err=True)
        raise SystemExit(1)
    shutil.rmtree(folder)


def _at_points(folder: Path, points: int, *, is_sample: bool, jobs: int) -> bool:
    began = time.monotonic()
    library = compile_shim(folder)
    with Campaign(folder, library, stages=jobs) as campaign:
        dry = campaign.run(dry_runs(), on_outcome=_say_broken)
        if any(outcome.violations for outcome in dry):
            typer.echo("already without a fault promises are broken", err=True)
            return False
        orders = faults(dry, points=SAMPLE_POINTS if is_sample else points)
        typer.echo(f"{len(orders)} of {len(faults(dry, points=0))} points, {jobs} nodes at a time")
        outcomes = campaign.run(orders, on_outcome=_say_broken)
        wrong = wrong_nodes(dry, points=SAMPLE_WRONG_POINTS if is_sample else WRONG_POINTS)
        wrong_outcomes = campaign.run(wrong, on_outcome=_silently)
    lines, are_all_caught = variant_table(wrong_outcomes)
    typer.echo("\n".join([*table(outcomes), "", *lines, "", *explain(outcomes)]).rstrip())
    typer.echo(f"{time.monotonic() - began:.0f} s")
    return are_all_caught and not any(outcome.violations for outcome in outcomes)


def _at_random(folder: Path, seconds: float, seed: int) -> bool:
    typer.echo(f"seed {seed}")
    broken = kill_at_random(folder, seconds, seed=seed, tell=typer.echo)
    typer.echo("\n".join(broken) or "no promise was broken")
    return not broken


def _silently(_: TrialOutcome) -> None:
    return


def _say_broken(outcome: TrialOutcome) -> None:
    for violation in outcome.violations:
        typer.echo(f"broken: {violation}", err=True)


def _fast_folder() -> Path | None:
    """A folder in memory when there is one with room; None: the usual place."""
    if not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free > MEMORY_NEEDED_BYTES else None


if __name__ == "__main__":
    app()
