"""Benchmark of size: what a study costs however many wait, and what many in a row leave behind."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cv2
import numpy as np
import psutil
import typer
from bench_peers import LOOPBACK, load, require_tools, storescp
from role_usage import MIB, usage_by_role

from imaging_node.demonstration.local_node import LocalNode, free_ports
from imaging_node.dicom.phantom import DEMO_STUDIES, phantom_dataset
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.study import ImageInstance
from imaging_node.node.wiring import now, open_state
from imaging_node.settings import free_environment, load_settings
from imaging_node.store.arrivals import ArrivingInstance, make_ready, note_arrivals
from imaging_node.store.listings import count_work, list_studies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imaging_node.settings import Settings

SIDE_PIXELS = 256
WARM_UP_SHARE = 0.2
ROWS_AT_A_TIME = 256
LIMIT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """What was measured with so many studies queued behind those that were scored."""

    ms_per_study: float
    score_mib: float
    all_mib: float
    page_ms: float


def scale(
    studies: Annotated[int, typer.Option(min=50, help="Studies scored at each depth.")] = 400,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds over the depths.")] = 3,
    in_a_row: Annotated[
        int, typer.Option(min=0, help="Studies scored in a row; 0: leave it out.")
    ] = 10_000,
) -> None:
    """Time and memory of a study with 0, 10,000 and 100,000 queued; then many in a row."""
    require_tools("storescp")
    typer.echo(f"load before: {load()}, {os.cpu_count()} cores")
    depths: dict[int, list[Depth]] = {0: [], 10_000: [], 100_000: []}
    for number in range(rounds):
        order = list(depths)
        random.Random(number).shuffle(order)  # noqa: S311 - an order, not a secret
        for depth in order:
            depths[depth].append(at_depth(studies, depth))
    typer.echo(f"\n{studies} studies of {SIDE_PIXELS} x {SIDE_PIXELS} pixels at each depth\n")
    typer.echo(
        "| queued | ms a study | score MiB | all roles MiB | worklist page, least of 5, ms |"
    )
    typer.echo("| --- | --- | --- | --- | --- |")
    for depth, found in depths.items():
        times_ms = [each.ms_per_study for each in found]
        typer.echo(
            f"| {depth:,} | {statistics.median(times_ms):.1f}"
            f" ({min(times_ms):.1f}-{max(times_ms):.1f})"
            f" | {statistics.median([each.score_mib for each in found]):.0f}"
            f" | {statistics.median([each.all_mib for each in found]):.0f}"
            f" | {statistics.median([each.page_ms for each in found]):.0f} |"
        )
    if in_a_row:
        long_run(in_a_row)
    typer.echo(f"load after: {load()}")


def at_depth(studies: int, depth: int) -> Depth:
    """Score studies in front of `depth` others that are due as well."""
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as name:
        folder = Path(name)
        with storescp(folder / "pacs") as pacs_port:
            settings, changes = prepare_state(folder, pacs_port, studies)
            queue_others(settings, depth)
            with LocalNode(folder, changes) as node:
                await_ended(settings, studies)
                usage = usage_by_role(node.process.pid)
                page_ms = min(page_time_ms(node) for _ in range(5))
                kill_family(node.process.pid)  # the others are only there to wait
            database, _, _ = open_state(settings)
            ended = [each.finished_at for each in list_studies(database, now=now())]
            database.close()
    times = sorted(each for each in ended if each is not None)[:studies]
    kept = times[int(WARM_UP_SHARE * len(times)) :]
    return Depth(
        ms_per_study=(kept[-1] - kept[0]).total_seconds() / (len(kept) - 1) * 1000,
        score_mib=usage["score"].memory_bytes / MIB,
        all_mib=sum(each.memory_bytes for each in usage.values()) / MIB,
        page_ms=page_ms,
    )


def prepare_state(folder: Path, pacs_port: int, studies: int) -> tuple[Settings, dict[str, object]]:
    """A state directory at which so many small films of an archive are due."""
    films = folder / "films"
    films.mkdir()
    render_small(films, studies)
    state = folder / "state"
    changes: dict[str, object] = {
        "study": {"quiet_period_s": 0},
        "spool": {"min_free_bytes": 64 * MIB, "min_free_inodes": 0, "max_waiting_studies": 0},
        "peers": {"storescp": {"ae_title": "STORESCP", "host": LOOPBACK, "port": pacs_port}},
        "destinations": ["storescp"],
    }
    config = folder / "queue.yaml"
    [port] = free_ports(1)
    config.write_text(
        f"state_directory: {state}\nstudy: {{quiet_period_s: 0}}\ndicom: {{port: {port}}}\n"
        "spool: {min_free_bytes: 0, min_free_inodes: 0, max_waiting_studies: 0}\n",
        encoding="utf-8",
    )
    subprocess.run(
        [sys.executable, "-m", "imaging_node", "reprocess", films, "--deliver", "--config", config],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=free_environment(),
    )
    return load_settings(config), changes


def render_small(folder: Path, count: int) -> None:
    """Films of few pixels, so that the work around the pixels is what is measured."""
    chests = [each for each in DEMO_STUDIES if each.part == "chest frontal"]
    plain = [each for each in chests if each.encoding == "plain"]
    size = (SIDE_PIXELS, SIDE_PIXELS)
    pictures = [
        np.asarray(cv2.resize(each.picture(), size, interpolation=cv2.INTER_AREA), np.float32)
        for each in plain[:4]
    ]
    for number in range(count):
        index = number % len(pictures)
        dataset = phantom_dataset(
            plain[index], run=f"{time.time_ns()}-{number}", picture=pictures[index]
        )
        dataset.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def queue_others(settings: Settings, count: int) -> None:
    """Rows of studies that are due behind those of the archive; their files do not exist."""
    database, _, _ = open_state(settings)
    moment = now()
    base = ImageInstance(
        path=settings.state_directory / "no-such-file",
        digest="a" * 64,
        study_instance_uid="",
        series_instance_uid="",
        sop_instance_uid="",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="DX",
        body_part="CHEST",
        view_position="AP",
        photometric_interpretation="MONOCHROME2",
        presentation_intent="FOR PRESENTATION",
        patient_age_years=4.0,
        rows=SIDE_PIXELS,
        columns=SIDE_PIXELS,
        number_of_frames=1,
        has_pixel_data=True,
    )
    for begin in range(0, count, ROWS_AT_A_TIME):
        ready = []
        for number in range(begin, min(begin + ROWS_AT_A_TIME, count)):
            uid = f"1.2.826.0.1.{number}"
            image = replace(
                base,
                study_instance_uid=uid,
                series_instance_uid=f"{uid}.1",
                sop_instance_uid=f"{uid}.1.1",
            )
            arriving = ArrivingInstance(
                image=image,
                is_in_spool=False,
                patient_digest=f"patient {number}",
                accession_number=f"B{number}",
                study_at=moment,
                ordered_priority=ReadingPriority.ROUTINE,
                calling_ae_title="BENCH",
                is_archive=True,
            )
            ready.append(make_ready(arriving, now=moment))
        note_arrivals(database, ready, now=moment, quiet_period=timedelta(0))
    database.close()


def await_ended(settings: Settings, studies: int) -> None:
    """Wait until so many studies have ended."""
    database, _, _ = open_state(settings)
    deadline = time.monotonic() + LIMIT_S
    while True:
        counts = count_work(database, now=now()).studies
        if sum(counts.get(each, 0) for each in StudyState if each.is_final) >= studies:
            break
        if time.monotonic() > deadline:
            raise SystemExit("the studies did not end in time")
        time.sleep(0.5)
    database.close()


def kill_family(pid: int) -> None:
    """Kill a node and all of its roles; return once they are gone."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for each in family:
        each.kill()
    psutil.wait_procs(family[1:], timeout=20)


def page_time_ms(node: LocalNode) -> float:
    """How long the worklist takes."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://{LOOPBACK}:{node.settings.web.port}/") as answer:
        answer.read()
    return (time.perf_counter() - began) * 1000


@contextmanager
def node_over(folder: Path, studies: int) -> Iterator[tuple[LocalNode, Settings]]:
    """A node at which so many small films are due."""
    with storescp(folder / "pacs") as pacs_port:
        settings, changes = prepare_state(folder, pacs_port, studies)
        with LocalNode(folder, changes) as node:
            yield node, settings


def long_run(studies: int) -> None:
    """Score many in a row; what the roles hold at each tenth of them."""
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as name:
        typer.echo(f"\n{studies:,} studies in a row\n")
        typer.echo("| studies | ms a study | MiB, descriptors, threads by role |")
        typer.echo("| --- | --- | --- |")
        with node_over(Path(name), studies) as (node, settings):
            marks = [studies * tenth // 10 for tenth in range(11)]
            for before, mark in pairwise(marks):
                began = time.monotonic()
                await_ended(settings, mark)
                ms = (time.monotonic() - began) / (mark - before) * 1000
                usage = usage_by_role(node.process.pid)
                cells = ", ".join(
                    f"{role} {each.memory_bytes / MIB:.0f} {each.descriptors} {each.threads}"
                    for role, each in sorted(usage.items())
                )
                typer.echo(f"| {mark:,} | {ms:.1f} | {cells} |")
