"""Send damaged images of every transfer syntax through the decoders, and count what happens."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from decoder_fuzz.campaign import run_campaign
from decoder_fuzz.seeds import collected_seeds, synthetic_seeds

from imaging_node.settings import Settings

if TYPE_CHECKING:
    from decoder_fuzz.campaign import Campaign

COUNT = 1_000_000
COLLECTION = Path(__file__).resolve().parents[2] / "shared" / "data"

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def fuzz_decoders(
    count: Annotated[int, typer.Option(min=1, help="Damaged images.")] = COUNT,
    first: Annotated[
        int, typer.Option(min=0, help="Number of the first; with --seed, one again.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of all damage; 0: any.")] = 0,
    collection: Annotated[
        Path, typer.Option(help="Folder of more DICOM files, used if it is there.")
    ] = COLLECTION,
) -> None:
    """Fail when the node's side dies, grows or waits over 10 s for any of them."""
    seed = seed or secrets.randbelow(2**31) + 1
    own = synthetic_seeds()
    collected = collected_seeds(collection) if collection.is_dir() else []
    # Half of each, however many the collection holds.
    seeds = [*own * max(1, len(collected) // len(own)), *collected]
    typer.echo(f"{len(own)} images of our own, {len(collected)} collected; seed {seed}")
    scoring = Settings().scoring
    campaign = run_campaign(
        seeds,
        range(first, first + count),
        seed=seed,
        processes=os.cpu_count() or 1,
        memory_limit_bytes=scoring.decoder_memory_mib * 2**20,
        time_limit_s=scoring.decode_limit_s,
        tell=_tell,
    )
    _report(campaign)
    if campaign.failures:
        for each in campaign.failures:
            typer.echo(each, err=True)
        raise SystemExit(1)


def _tell(done: int, campaign: Campaign) -> None:
    typer.echo(f"{done:,} done, slowest {campaign.slowest_s:.1f} s", err=True)


def _report(campaign: Campaign) -> None:
    total = campaign.outcomes.total()
    for outcome, number in campaign.outcomes.most_common():
        typer.echo(f"{number:>10,}  {outcome}")
    typer.echo(
        f"{total:,} in {campaign.seconds:.0f} s, {total / campaign.seconds:,.0f}/s;"
        f" {campaign.starts:,} decoders started; slowest {campaign.slowest_s:.2f} s"
        f" (number {campaign.slowest_number}); memory grew by"
        f" {campaign.grown_bytes / 2**20:.1f} MiB; this process lives"
    )


if __name__ == "__main__":
    app()
