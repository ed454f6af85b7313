"""Benchmark of urgency: what a STAT image waits behind an archive, and what that costs."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from bench_end_to_end import idle_waits_s, node_and_pacs, render
from bench_peers import load, require_tools

from imaging_node.dicom.phantom import DEMO_STUDIES
from imaging_node.domain.image import DecodedImage
from imaging_node.inference.lanes import ARCHIVE, ROUTINE, STAT
from imaging_node.inference.preprocessing import prepare
from imaging_node.node.models import load_models
from imaging_node.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from imaging_node.demonstration.local_node import LocalNode
    from imaging_node.inference.outputs import MemberOutputs
    from imaging_node.inference.preprocessing import ModelInput
    from imaging_node.inference.scorer import Scorer

STAT_AE_TITLE = "EMERGENCY"
TO_REACH_BUDGETS, TO_REACH_LOST = 1.5, 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """One pass over archive images with STAT images among them."""

    images_per_s: float
    stat_ms: list[float]


def priority(
    archive: Annotated[int, typer.Option(min=1, help="Archive images that are queued.")] = 2000,
    stat_per_s: Annotated[float, typer.Option(help="STAT images a second, at random.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    node_archive: Annotated[
        int, typer.Option(min=0, help="Archive studies queued at a whole node; 0: leave it out.")
    ] = 2000,
) -> None:
    """STAT behind an archive: in the batcher with the shipped pair, and in a whole node."""
    typer.echo(f"load before: {load()}, {os.cpu_count()} cores")
    settings = Settings()
    [model] = load_models(settings)
    scorer = model.scorer
    image = prepare(film().p_values, scorer.bundle.preprocessing)
    alone_ms = [each * 1000 for each in (timed(scorer, image, STAT) for _ in range(40))][8:]
    with_lanes: list[Mixed] = []
    without: list[Mixed] = []
    for number in range(rounds):
        ways = [(with_lanes, True), (without, False)]
        for passes, has_lanes in ways if number % 2 else reversed(ways):
            passes.append(
                mixed(scorer, image, archive, stat_per_s, seed=number, has_lanes=has_lanes)
            )
    scorer.close()
    report(settings.scoring.launch_budget_ms, alone_ms, with_lanes, without)
    if node_archive:
        whole_node(node_archive)
    typer.echo(f"load after: {load()}")


def film() -> DecodedImage:
    """A synthetic chest film."""
    study = next(each for each in DEMO_STUDIES if each.part == "chest frontal")
    return DecodedImage(sop_instance_uid="1", p_values=study.picture(), row_to_column_spacing=1)


def timed(scorer: Scorer, image: ModelInput, lane: int) -> float:
    """Seconds from submission to answer."""
    began = time.perf_counter()
    scorer.batcher.submit(scorer.bundle.identity.name, image, lane).result()
    return time.perf_counter() - began


def mixed(
    scorer: Scorer,
    image: ModelInput,
    archive: int,
    stat_per_s: float,
    *,
    seed: int,
    has_lanes: bool,
) -> Mixed:
    """Work off an archive while STAT images come in; without lanes all are routine.

    A lane holds 1,024 images; the rest of the archive waits to enter it, as studies do.
    """
    chance = random.Random(seed)  # noqa: S311 - arrivals, not secrets
    name = scorer.bundle.identity.name
    answers: list[Future[MemberOutputs]] = []
    stat_ms: list[float] = []
    began = time.perf_counter()

    def submit_archive() -> None:
        lane = ARCHIVE if has_lanes else ROUTINE
        answers.extend(scorer.batcher.submit(name, image, lane) for _ in range(archive))

    feeder = threading.Thread(target=submit_archive)
    feeder.start()
    waiting: list[threading.Thread] = []
    while feeder.is_alive() or not answers[-1].done():
        time.sleep(chance.expovariate(stat_per_s))
        thread = threading.Thread(
            target=lambda: stat_ms.append(
                timed(scorer, image, STAT if has_lanes else ROUTINE) * 1000
            )
        )
        thread.start()
        waiting.append(thread)
    for thread in waiting:
        thread.join()
    elapsed = time.perf_counter() - began
    return Mixed(images_per_s=(archive + len(stat_ms)) / elapsed, stat_ms=stat_ms)


def report(
    budget_ms: float, alone_ms: Sequence[float], with_lanes: list[Mixed], without: list[Mixed]
) -> None:
    """Print the table of the batcher."""
    own_ms = statistics.median(alone_ms)
    typer.echo(f"\nlaunch budget {budget_ms:g} ms, a STAT image on an idle node {own_ms:.0f} ms\n")
    typer.echo("| batcher | STAT images | median ms | 99 % ms | longest ms | images/s |")
    typer.echo("| --- | --- | --- | --- | --- | --- |")
    rates = {}
    tails = {}
    for name, passes in (("lanes", with_lanes), ("no priority", without)):
        waits_ms = sorted(each for one in passes for each in one.stat_ms)
        rates[name] = statistics.median([each.images_per_s for each in passes])
        tails[name] = waits_ms[min(len(waits_ms) - 1, int(0.99 * len(waits_ms)))]
        all_rates = [each.images_per_s for each in passes]
        typer.echo(
            f"| {name} | {len(waits_ms)} | {statistics.median(waits_ms):.0f} | {tails[name]:.0f}"
            f" | {waits_ms[-1]:.0f}"
            f" | {rates[name]:.1f} ({min(all_rates):.1f}-{max(all_rates):.1f}) |"
        )
    limit_ms = TO_REACH_BUDGETS * budget_ms + own_ms
    typer.echo(f"\nSTAT 99 %: {tails['lanes']:.0f} ms (to reach {limit_ms:.0f} ms)")
    lost = 1 - rates["lanes"] / rates["no priority"]
    typer.echo(f"throughput lost to priority: {lost:.1%} (to reach {TO_REACH_LOST:.0%})")


def whole_node(archive: int, stat: int = 40) -> None:
    """STAT films sent to a node that is busy with an archive, and to an idle one."""
    require_tools("storescp")
    quiet_period_s = 0.5
    with (
        tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as name,
        busy_node(Path(name), quiet_period_s) as (node, pacs),
    ):
        folder = Path(name)
        idle = idle_waits_s(node, pacs, folder / "idle", quiet_period_s, 20)
        paths = render(folder / "archive", archive)
        subprocess.run(
            [sys.executable, "-m", "imaging_node", "reprocess", paths[0].parent, "--deliver",
             "--config", node.config],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        typer.echo(f"\n{archive} archive studies queued at a whole node")
        busy = idle_waits_s(
            node, pacs, folder / "stat", quiet_period_s, stat, ae_title=STAT_AE_TITLE
        )
        reports = len(list(pacs.glob("SR*")))
        is_over = reports >= archive + stat + len(idle)
    for which, waits_s in (("idle", idle), ("busy", busy)):
        typer.echo(
            f"{which} node, last image to SR stored, after the quiet period:"
            f" median {statistics.median(waits_s):.2f} s,"
            f" {min(waits_s):.2f} to {max(waits_s):.2f} s, {len(waits_s)} STAT films"
        )
    if is_over:
        typer.echo("the archive was done before the last STAT film: queue more")


@contextmanager
def busy_node(folder: Path, quiet_period_s: float) -> Iterator[tuple[LocalNode, Path]]:
    """A node at which one AE title is STAT."""
    with node_and_pacs(
        folder, quiet_period_s, {"priority": {"calling_ae_titles": {STAT_AE_TITLE: "stat"}}}
    ) as opened:
        yield opened
