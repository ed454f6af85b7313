"""Commit faults against running nodes, and check that they did what they should."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from abuse import own_mounts
from abuse.bombs import BOMB_FAULTS
from abuse.campaign import HEADING, Outcome, run_scene, summary
from abuse.connections import CONNECTION_FAULTS, TLS_CONNECTION_FAULTS
from abuse.crashes import CRASH_FAULTS
from abuse.datasets import DATASET_FAULTS, ENDLESS_FAULTS, HUGE_FAULTS, read_fault
from abuse.delivering import (
    CHOOSY_FAULTS,
    EXPIRED_FAULTS,
    SPOILED_FAULTS,
    choosy_peers,
    expired_peer,
    spoiled_peers,
)
from abuse.disks import FULL_DISK_FAULTS, LOW_DISK_FAULTS, full_disk, low_disk
from abuse.identity import IDENTITY_FAULTS
from abuse.instances import INSTANCE_FAULTS
from abuse.operation import KEY_FAULTS, OPERATION_FAULTS, STOP_FAULTS
from abuse.pdus import pdu_fault
from abuse.scenes import capped, fresh, plain, secured
from abuse.studies import STUDY_FAULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abuse.fault import Fault, Scene

PDUS, SAMPLE_SECONDS = 100_000, 20.0
DATASETS, SAMPLE_DATASETS = 1_000_000, 20_000

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def scenes(fuzzing: Sequence[Fault]) -> tuple[tuple[Scene, tuple[Fault, ...]], ...]:
    """Which faults are committed against which node, in order."""
    return (
        (
            plain,
            (
                *CONNECTION_FAULTS,
                *INSTANCE_FAULTS,
                *STUDY_FAULTS,
                *DATASET_FAULTS,
                *BOMB_FAULTS,
                *OPERATION_FAULTS,
                *fuzzing,
                *CRASH_FAULTS,
                *STOP_FAULTS,
            ),
        ),
        (fresh, HUGE_FAULTS),
        (capped, ENDLESS_FAULTS),
        (full_disk, FULL_DISK_FAULTS),
        (low_disk, LOW_DISK_FAULTS),
        (choosy_peers, CHOOSY_FAULTS),
        (spoiled_peers, SPOILED_FAULTS),
        (expired_peer, EXPIRED_FAULTS),
        (secured, (*TLS_CONNECTION_FAULTS, *IDENTITY_FAULTS, *KEY_FAULTS)),
    )


@app.command()
def abuse_test(
    only: Annotated[
        str, typer.Option(help="Numbers of faults, e.g. 20,22b; 20 stands for 20a to 20d.")
    ] = "",
    sample: Annotated[bool, typer.Option(help="The quick ones, for CI.")] = False,
    pdus: Annotated[int, typer.Option(min=1, help="Mutated PDUs of fault 28.")] = PDUS,
    pdu_seconds: Annotated[
        float, typer.Option(min=0, help="Instead: so many seconds of them; 0: see --pdus.")
    ] = 0,
    datasets: Annotated[int, typer.Option(min=1, help="Mutated datasets of fault 29.")] = DATASETS,
    seed: Annotated[int, typer.Option(help="Of all that is mutated; 0: any.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Where state is kept meanwhile; 5 GB must be free there.")
    ] = None,
) -> None:
    """Commit faults of peers, disks and operators against running nodes."""
    seed = seed or secrets.randbelow(2**31) + 1
    if sample:
        pdu_seconds, datasets = pdu_seconds or SAMPLE_SECONDS, min(datasets, SAMPLE_DATASETS)
    fuzzing = (read_fault(datasets, seed), pdu_fault(pdus, pdu_seconds, seed))
    chosen = [
        (scene, [each for each in faults if _is_chosen(each, only, is_sample=sample)])
        for scene, faults in scenes(fuzzing)
    ]
    if any(faults and scene in (full_disk, low_disk) for scene, faults in chosen):
        own_mounts.enter()
    begun_s = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="imaging-node-abuse-", dir=folder))
    outcomes: list[Outcome] = []
    typer.echo(HEADING)
    for scene, faults in chosen:
        if faults:
            outcomes += run_scene(scene, faults, root / scene.__name__, typer.echo)
    typer.echo(f"{summary(outcomes)}; {time.monotonic() - begun_s:.0f} s")
    if not outcomes or any(each.failure for each in outcomes):
        typer.echo(f"what was left is in {root}", err=True)
        raise SystemExit(1)
    shutil.rmtree(root)


def _is_chosen(fault: Fault, only: str, *, is_sample: bool) -> bool:
    numbers = [each.strip() for each in only.split(",") if each.strip()]
    if numbers:
        first, _, last = fault.number.rstrip("abcdefgh").partition("-")
        names = {str(each) for each in range(int(first), int(last or first) + 1)}
        return fault.number in numbers or bool(names & set(numbers))
    return fault.is_sampled or not is_sample


if __name__ == "__main__":
    app()
