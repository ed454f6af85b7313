"""Benchmark of scoring, stage by stage: decoding, preprocessing, the batcher, the maps."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from bare_runtime import (
    Layout,
    Speed,
    best_batches,
    member_sessions,
    prepared_images,
    speed_of,
)
from bench_peers import load
from pydicom import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.phantom import DEMO_STUDIES, phantom_dataset
from imaging_node.inference.batching import Batcher
from imaging_node.inference.bundle import default_bundle_directory, load_bundle
from imaging_node.inference.execution import Execution, share_threads
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.lanes import ARCHIVE
from imaging_node.inference.opening import open_model
from imaging_node.inference.preprocessing import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from imaging_node.inference.bundle import Bundle

ROWS, COLUMNS = 2500, 2048
SUBMITTERS = 16
TO_REACH = 0.95
MOST_MAP_COST = 0.05
_MEMORY_BYTES = 1024 * 1024 * 1024
_BY_PYDICOM = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
_BY_DCMTK = {"JPEG lossless": ("dcmcjpeg", "+e1"), "big endian": ("dcmconv", "+tb")}


def score(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of batcher and bare runtime.")] = 9,
    images: Annotated[int, typer.Option(min=32, help="Images of each measurement.")] = 64,
    files: Annotated[int, typer.Option(min=1, help="Files decoded in each syntax.")] = 8,
) -> None:
    """Measure each stage of scoring, and the batcher beside bare ONNX Runtime in turns."""
    bundle = load_bundle(default_bundle_directory() / "chest_xray_pneumonia")
    cores = os.cpu_count() or 1
    typer.echo(f"load before: {load()}, {cores} cores")
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as folder:
        measure_decoding(Path(folder), files)
    measure_preprocessing(bundle)
    prepared = prepared_images(bundle)
    measure_batcher(bundle, prepared, rounds=rounds, images=images, cores=cores)
    measure_maps(bundle, np.stack(prepared[:8]), rounds=rounds)
    typer.echo(f"load after: {load()}")


def measure_decoding(folder: Path, files: int) -> None:
    """Milliseconds of a film in each transfer syntax, through the pool, one and two at a time."""
    typer.echo(f"decode {ROWS} x {COLUMNS}, 12 bits, through the pool: ms a film, alone | in pairs")
    for name, path in written_films(folder).items():
        with_copies = [path] * files
        times_ms = []
        for processes in (1, 2):
            pool = DecodingPool(
                processes=processes, memory_limit_bytes=_MEMORY_BYTES, time_limit_s=60
            )
            with ThreadPoolExecutor(processes) as callers:
                decode = partial(_decode, pool)
                list(callers.map(decode, [path] * processes))  # starts the processes
                began = time.perf_counter()
                list(callers.map(decode, with_copies))
                times_ms.append((time.perf_counter() - began) * 1000 / files)
            pool.close()
        typer.echo(f"  {name:<45} {times_ms[0]:6.0f} | {times_ms[1]:6.0f}")


def written_films(folder: Path) -> dict[str, Path]:
    """A film of the usual size in each syntax that can be written here, by name."""
    picture = synthetic_thorax(ROWS, COLUMNS, opacity=0.5, seed=1)
    plain = folder / "plain.dcm"
    phantom_dataset(DEMO_STUDIES[0], run="bench", picture=picture).save_as(
        plain, enforce_file_format=True
    )
    films = {"explicit VR little endian": plain}
    for syntax in (*_BY_PYDICOM, DeflatedExplicitVRLittleEndian):
        films[UID(syntax).name] = _written_by_pydicom(plain, syntax)
    for name, (tool, option) in _BY_DCMTK.items():
        if shutil.which(tool) is None:
            typer.echo(f"  {name}: {tool} of DCMTK is not installed")
            continue
        films[name] = folder / f"{tool}.dcm"
        subprocess.run([tool, option, str(plain), str(films[name])], check=True)
    return films


def measure_preprocessing(bundle: Bundle) -> None:
    """Milliseconds from P-Values of the usual size to the model's input, one thread."""
    picture = synthetic_thorax(ROWS, COLUMNS, opacity=0.5, seed=2)
    times_ms = [_timed_ms(lambda: prepare(picture, bundle.preprocessing)) for _ in range(20)]
    typer.echo(f"preprocess {ROWS} x {COLUMNS}: {statistics.median(times_ms):.1f} ms an image")


def measure_batcher(
    bundle: Bundle,
    prepared: Sequence[npt.NDArray[np.float32]],
    *,
    rounds: int,
    images: int,
    cores: int,
) -> None:
    """The batcher beside the bare runtime's best batch and layout, in turns."""
    # One look is no measurement: the best batch of each way to spread the cores is run in turns.
    finalists = best_batches(bundle, prepared, cores=cores, images=images)
    in_flight, threads = share_threads(cores)
    execution = Execution(threads=threads, in_flight=in_flight)
    batcher = Batcher(launch_budget_ms=150, in_flight=in_flight)
    batcher.add_model("bench", open_model(bundle, execution, "f32").model)
    submit_all(batcher, prepared, images)  # learns how long launches take
    ours: list[Speed] = []
    theirs: dict[Layout, list[Speed]] = {layout: [] for layout in finalists}
    for _ in range(rounds):
        for layout in finalists:
            theirs[layout].append(finalists[layout].run(images))
        ours.append(submit_all(batcher, prepared, images))
    launches, launched = batcher.launches, batcher.launched_images
    batcher.close()
    for layout in finalists:
        typer.echo(f"bare ONNX Runtime, {layout}: {_described(theirs[layout])}")
    typer.echo(
        f"batcher, {SUBMITTERS} submitting threads: {_described(ours)},"
        f" {launched / launches:.1f} images a launch"
    )
    for layout in finalists:
        pairs = zip(ours, theirs[layout], strict=True)
        ratios = [mine.images_per_s / other.images_per_s for mine, other in pairs]
        typer.echo(
            f"batcher / bare, {layout}, its best batch, round by round: {_spread(ratios, 2)}"
            f" (to reach: {TO_REACH})"
        )
    cheapest = min(statistics.median(_core_ms(each)) for each in theirs.values())
    typer.echo(
        "against the cheapest in processor time, which neighbours on the machine disturb less:"
        f" {cheapest / statistics.median(_core_ms(ours)):.2f}"
    )


def submit_all(batcher: Batcher, prepared: Sequence[npt.NDArray[np.float32]], images: int) -> Speed:
    """Speed when threads submit one image after the other, as studies do."""

    def submit(number: int) -> None:
        batcher.submit("bench", prepared[number % len(prepared)], ARCHIVE).result()

    with ThreadPoolExecutor(SUBMITTERS) as studies:
        return speed_of(lambda: list(studies.map(submit, range(images))), images)


def measure_maps(bundle: Bundle, batch: npt.NDArray[np.float32], *, rounds: int) -> None:
    """What the maps add to a launch of one thread, in processor time, all members together."""
    sessions = member_sessions(bundle, 1)

    def run(outputs: list[str]) -> None:
        for session in sessions:
            session.run(outputs, {"image": batch})

    run(["logits", "maps"])
    pairs = [
        (_core_ms_of(lambda: run(["logits"])), _core_ms_of(lambda: run(["logits", "maps"])))
        for _ in range(4 * rounds)
    ]
    costs = [both / alone - 1 for alone, both in pairs]
    typer.echo(
        f"maps: {statistics.median(costs):+.1%} of the launch without them, quartiles"
        f" {' to '.join(f'{each:+.1%}' for each in statistics.quantiles(costs)[::2])}"
        f" (at most {MOST_MAP_COST:.0%})"
    )


def _decode(pool: DecodingPool, path: Path) -> None:
    pool.decode(path, "2.25.1")


def _written_by_pydicom(plain: Path, syntax: str) -> Path:
    dataset = dcmread(plain)
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    else:
        dataset.compress(UID(syntax), generate_instance_uid=False)
    path = plain.with_name(f"{syntax}.dcm")
    dataset.save_as(path, enforce_file_format=True)
    return path


def _core_ms(speeds: Sequence[Speed]) -> list[float]:
    return [each.core_ms for each in speeds]


def _described(speeds: Sequence[Speed]) -> str:
    return (
        f"{_spread([each.images_per_s for each in speeds])} images/s,"
        f" {_spread(_core_ms(speeds), 1)} core-ms an image"
    )


def _core_ms_of(work: Callable[[], object]) -> float:
    return speed_of(work, 1).core_ms


def _timed_ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _spread(values: Sequence[float], digits: int = 0) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
