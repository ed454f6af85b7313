"""Commit faults against a running node, and check that it did what it should."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from abuse.campaign import HEADING, Outcome, run_scene, summary
from abuse.connections import CONNECTION_FAULTS, TLS_CONNECTION_FAULTS
from abuse.instances import INSTANCE_FAULTS
from abuse.scenes import plain, secured

if TYPE_CHECKING:
    from abuse.fault import Fault, Scene

SCENES: tuple[tuple[Scene, tuple[Fault, ...]], ...] = (
    (plain, (*CONNECTION_FAULTS, *INSTANCE_FAULTS)),
    (secured, TLS_CONNECTION_FAULTS),
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def abuse_test(
    only: Annotated[
        str, typer.Option(help="Numbers of faults, e.g. 20,22b; 20 is 20a to 20d.")
    ] = "",
    sample: Annotated[bool, typer.Option(help="The quick ones, for CI.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where state is kept meanwhile; 5 GB must be free there.")
    ] = None,
) -> None:
    """Commit faults of peers, disks and operators against running nodes."""
    begun_s = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="imaging-node-abuse-", dir=folder))
    outcomes: list[Outcome] = []
    typer.echo(HEADING)
    for scene, faults in SCENES:
        chosen = [each for each in faults if _is_chosen(each, only, is_sample=sample)]
        if chosen:
            outcomes += run_scene(scene, chosen, root / scene.__name__, typer.echo)
    typer.echo(f"{summary(outcomes)}; {time.monotonic() - begun_s:.0f} s")
    if not outcomes or any(each.failure for each in outcomes):
        typer.echo(f"what was left is in {root}", err=True)
        raise SystemExit(1)
    shutil.rmtree(root)


def _is_chosen(fault: Fault, only: str, *, is_sample: bool) -> bool:
    numbers = [each.strip() for each in only.split(",") if each.strip()]
    if numbers:
        return fault.number in numbers or fault.number.rstrip("abcdefgh") in numbers
    return fault.is_sampled or not is_sample


if __name__ == "__main__":
    app()
