"""Benchmark of the whole job: C-STORE by dcmsend to SR and captures stored by storescp."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cv2
import numpy as np
import typer
from bare_runtime import Layout, best_batches, prepared_images
from bench_peers import (
    LOOPBACK,
    await_listener,
    load,
    require_tools,
    send_over,
    storescp,
)
from pydicom import dcmread
from role_usage import MIB, RoleMemory, usage_by_role

from imaging_node.demonstration.local_node import LocalNode, free_ports
from imaging_node.dicom.phantom import DEMO_STUDIES, phantom_dataset
from imaging_node.dicom.sender import Caller
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.result_object import ObjectKind
from imaging_node.flow.sending import send_files
from imaging_node.inference.bundle import default_bundle_directory, load_bundle
from imaging_node.node.wiring import now, open_state
from imaging_node.settings import PeerSettings
from imaging_node.store.listings import count_work, list_objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from bare_runtime import Bare

    from imaging_node.store.database import Database

PICTURES = 8
ASSOCIATIONS = 4
WARM_UP_STUDIES = 16
# Looking costs the node processor time: the time of the last object is that of its file.
POLL_S = 0.5
BARE_IMAGES = 192
NODE, NAIVE, LARGE = "imaging-node", "naive", "imaging-node, large films"
LARGE_FILM = (2500, 2048)
TO_REACH_OF_BARE, TO_REACH_OF_NAIVE, TO_REACH_S = 0.38, 2.5, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one system did with its films.

    Attributes:
        processor_ms: Per study, by role; empty where it is not known.
    """

    studies: int
    captures: int
    seconds: float
    sending_s: float
    film_bytes: int
    processor_ms: dict[str, float]

    @property
    def per_minute(self) -> float:
        """Studies a minute, from the first byte sent to the last SR stored."""
        return self.studies / self.seconds * 60


def end_to_end(
    studies: Annotated[int, typer.Option(min=1, help="Films for the node, a round.")] = 1000,
    naive_studies: Annotated[int, typer.Option(min=0, help="Films for the naive design.")] = 80,
    large_studies: Annotated[
        int, typer.Option(min=0, help="Films of 10 MB for the node, a round.")
    ] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    quiet_period_s: Annotated[float, typer.Option(help="Of the node.")] = 1.0,
    limit_s: Annotated[float, typer.Option(help="Give up a pass after so many seconds.")] = 900,
) -> None:
    """The node beside bare ONNX Runtime and beside the naive design, in turns, in one run."""
    require_tools("dcmsend", "storescp")
    typer.echo(f"load before: {load()}, {os.cpu_count()} cores")
    bundle = load_bundle(default_bundle_directory() / "chest_xray_pneumonia")
    prepared = prepared_images(bundle)
    bares = best_batches(bundle, prepared, cores=os.cpu_count() or 1, images=BARE_IMAGES // 2)
    bare: dict[Layout, list[float]] = {layout: [] for layout in bares}
    passes: dict[str, list[Pass]] = {NODE: [], NAIVE: [], LARGE: []}
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as name:
        folder = Path(name)
        peak = {}
        for number in range(rounds):
            note_bare(bares, bare)
            place = folder / f"node-{number}"
            place.mkdir()
            with node_and_pacs(place, quiet_period_s) as (node, pacs):
                run_node(node, pacs, place / "warm-up", WARM_UP_STUDIES, limit_s=limit_s)
                with RoleMemory(node.process.pid) as memory:
                    passes[NODE].append(
                        run_node(node, pacs, place / "films", studies, limit_s=limit_s)
                    )
                peak = {**memory.peak_bytes, "all roles": memory.peak_sum_bytes}
                if large_studies:
                    passes[LARGE].append(
                        run_node(
                            node,
                            pacs,
                            place / "large",
                            large_studies,
                            limit_s=limit_s,
                            size=LARGE_FILM,
                        )
                    )
                if number == 0:
                    waits_s = idle_waits_s(node, pacs, place / "single", quiet_period_s)
            if naive_studies:
                place = folder / f"naive-{number}"
                place.mkdir()
                passes[NAIVE].append(run_naive(place, naive_studies, limit_s=limit_s))
            note_bare(bares, bare)
    report(bare, passes, waits_s, peak)
    typer.echo(f"load after: {load()}")


def note_bare(bares: Mapping[Layout, Bare], rates: Mapping[Layout, list[float]]) -> None:
    """Add what ONNX Runtime alone does now, in images a minute, in each of some layouts."""
    for layout, bare in bares.items():
        rates[layout].append(bare.run(BARE_IMAGES).images_per_s * 60)


@contextmanager
def node_and_pacs(
    folder: Path, quiet_period_s: float, more: Mapping[str, Any] | None = None
) -> Iterator[tuple[LocalNode, Path]]:
    """A node that sends its results to DCMTK's storescp; and the folder of that.

    Args:
        more: Settings beside those.
    """
    pacs = folder / "pacs"
    with storescp(pacs) as port:
        changes = {
            "study": {"quiet_period_s": quiet_period_s},
            "peers": {"storescp": {"ae_title": "STORESCP", "host": LOOPBACK, "port": port}},
            "destinations": ["storescp"],
            **(more or {}),
        }
        with LocalNode(folder, changes) as node:
            yield node, pacs


def render(folder: Path, count: int, size: tuple[int, int] | None = None) -> list[Path]:
    """Films, few pictures and every one a study of its own; `size` is (rows, columns)."""
    folder.mkdir()
    chests = [each for each in DEMO_STUDIES if each.part == "chest frontal"]
    plain = [each for each in chests if each.encoding == "plain"][:PICTURES]
    pictures = [each.picture() for each in plain]
    if size is not None:
        pictures = [
            np.asarray(cv2.resize(each, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
            for each in pictures
        ]
    paths = []
    for number in range(count):
        index = number % len(plain)
        dataset = phantom_dataset(
            plain[index], run=f"{time.time_ns()}-{number}", picture=pictures[index]
        )
        path = folder / f"film-{number:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def run_node(
    node: LocalNode,
    pacs: Path,
    films: Path,
    count: int,
    *,
    limit_s: float,
    size: tuple[int, int] | None = None,
) -> Pass:
    """Send films and wait until all are answered and all answers are stored."""
    paths = render(films, count, size)
    objects_before = len(list(pacs.iterdir()))
    database, _, _ = open_state(node.settings)
    wanted = ended_studies(database) + count
    before = usage_by_role(node.process.pid)
    began, began_at = time.monotonic(), time.time()
    dicom = node.settings.dicom
    sending_s = send_over(paths, dicom.port, dicom.ae_title, ASSOCIATIONS)
    while ended_studies(database) != wanted:
        if time.monotonic() > began + limit_s:
            raise SystemExit("not all studies were answered in time")
        time.sleep(POLL_S)
    database.close()
    after = usage_by_role(node.process.pid)
    objects = len(list(pacs.iterdir())) - objects_before
    if objects < count:
        raise SystemExit(f"{count} studies were sent and {objects} objects came back")
    seconds = last_stored_at(pacs) - began_at
    return Pass(
        studies=count,
        captures=objects - count,
        seconds=seconds,
        sending_s=sending_s,
        film_bytes=paths[0].stat().st_size,
        processor_ms={
            role: (after[role].processor_s - before[role].processor_s) / count * 1000
            for role in after
            if role in before
        },
    )


def last_stored_at(pacs: Path) -> float:
    """When the PACS wrote the last of its objects, in seconds of the wall clock."""
    return max(each.stat().st_mtime for each in pacs.iterdir())


def ended_studies(database: Database) -> int:
    """Studies that have ended, with nothing of theirs waiting for delivery; -1 otherwise."""
    counts = count_work(database, now=now())
    if counts.deliveries.get(DeliveryState.WAITING):
        return -1
    return sum(counts.studies.get(each, 0) for each in StudyState if each.is_final)


def idle_waits_s(
    node: LocalNode,
    pacs: Path,
    films: Path,
    quiet_period_s: float,
    count: int = 10,
    *,
    ae_title: str = "BENCH",
) -> list[float]:
    """From the answer to a study's last image to its SR stored, less the quiet period."""
    dicom = node.settings.dicom
    listener = PeerSettings(ae_title=dicom.ae_title, host=LOOPBACK, port=dicom.port)
    waits_s = []
    for path in render(films, count):
        answered_at: list[float] = []
        outcome = send_files(
            [path],
            listener,
            Caller(ae_title=ae_title, timeout_s=60),
            advance=partial(_note_time, answered_at),
        )
        if outcome.stored != 1:
            raise SystemExit(f"the node refused a film: {outcome.refused}")
        study_instance_uid = str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)
        report = await_report(node, pacs, study_instance_uid)
        waits_s.append(report.stat().st_mtime - answered_at[-1] - quiet_period_s)
    return waits_s


def _note_time(times: list[float]) -> None:
    times.append(time.time())


def await_report(node: LocalNode, pacs: Path, study_instance_uid: str) -> Path:
    """The file of a study's SR, once the PACS has it."""
    database, _, _ = open_state(node.settings)
    while not (made := list_objects(database, study_instance_uid)):
        time.sleep(0.02)
    database.close()
    uid = next(each.sop_instance_uid for each in made if each.kind is ObjectKind.REPORT)
    while not (found := list(pacs.glob(f"SR*{uid}"))):
        time.sleep(0.02)
    time.sleep(0.1)  # until it is written to its end
    return found[0]


def run_naive(folder: Path, count: int, *, limit_s: float) -> Pass:
    """The same kind of films through the naive design, which is warm as well."""
    [port] = free_ports(1)
    pacs = folder / "pacs"
    with storescp(pacs) as pacs_port:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("naive_node.py"), str(port),
             folder / "received", str(pacs_port)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None  # PIPE
            if process.stdout.readline() != b"ready\n":
                raise SystemExit("the naive design did not start")
            await_listener(port)
            run_naive_films(folder / "warm-up", pacs, port, 8, limit_s=limit_s)
            return run_naive_films(folder / "films", pacs, port, count, limit_s=limit_s)
        finally:
            process.kill()
            process.wait()


def run_naive_films(films: Path, pacs: Path, port: int, count: int, *, limit_s: float) -> Pass:
    """Send films to the naive design and wait until an SR for each is stored."""
    paths = render(films, count)
    before, objects_before = len(list(pacs.glob("SR*"))), len(list(pacs.iterdir()))
    began, began_at = time.monotonic(), time.time()
    sending_s = send_over(paths, port, "NAIVE", ASSOCIATIONS)
    while len(list(pacs.glob("SR*"))) < before + count:
        if time.monotonic() > began + limit_s:
            raise SystemExit("the naive design did not answer all of its studies in time")
        time.sleep(POLL_S)
    time.sleep(POLL_S)  # until the last is written to its end
    seconds = last_stored_at(pacs) - began_at
    captures = len(list(pacs.iterdir())) - objects_before - count
    return Pass(
        studies=count,
        captures=captures,
        seconds=seconds,
        sending_s=sending_s,
        film_bytes=paths[0].stat().st_size,
        processor_ms={},
    )


def report(
    bare: Mapping[Layout, Sequence[float]],
    passes: dict[str, list[Pass]],
    waits_s: Sequence[float],
    peak_bytes: dict[str, int],
) -> None:
    """Print the tables."""
    typer.echo("\n| system | film, MB | studies/min (minimum-maximum) | captures | sending |")
    typer.echo("| --- | --- | --- | --- | --- |")
    for layout, rates in bare.items():
        typer.echo(f"| bare ONNX Runtime, {layout} | | {spread(rates)} | | |")
    medians = {}
    for name, done in passes.items():
        if done:
            rates = [each.per_minute for each in done]
            medians[name] = statistics.median(rates)
            share = done[0].captures / done[0].studies
            sending_s = statistics.median([each.sending_s for each in done])
            typer.echo(
                f"| {name} | {done[0].film_bytes / 1e6:.1f} | {spread(rates)} | {share:.0%}"
                f" | {sending_s:.1f} s |"
            )
    typer.echo()
    for layout, rates in bare.items():
        of_bare = medians[NODE] / statistics.median(rates)
        target = f" (to reach {TO_REACH_OF_BARE})" if layout.launches == 1 else ""
        typer.echo(f"of bare ONNX Runtime, {layout}: {of_bare:.2f}{target}")
    if NAIVE in medians:
        times = medians[NODE] / medians[NAIVE]
        typer.echo(f"of the naive design: {times:.1f} times (to reach {TO_REACH_OF_NAIVE})")
    typer.echo(
        f"last image to SR stored, idle node, after the quiet period:"
        f" median {statistics.median(waits_s):.2f} s, {min(waits_s):.2f} to {max(waits_s):.2f} s"
        f" (to reach {TO_REACH_S:g} s)"
    )
    roles = passes[NODE][-1].processor_ms
    typer.echo(
        "processor ms a study: " + ", ".join(f"{role} {ms:.1f}" for role, ms in roles.items())
    )
    typer.echo(
        "peak memory, MiB: "
        + ", ".join(f"{role} {size / MIB:.0f}" for role, size in sorted(peak_bytes.items()))
    )


def spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"
