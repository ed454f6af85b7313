"""Benchmark of a GPU: how much batches gain, and whether decoding hides behind computing."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from bare_runtime import member_sessions
from bench_peers import load
from bench_score import written_films

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.inference.batching import Batcher
from imaging_node.inference.bundle import Bundle, default_bundle_directory, load_bundle
from imaging_node.inference.engine_cache import describe_gpu
from imaging_node.inference.execution import LAUNCHES_IN_FLIGHT, Execution, choose_provider
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.lanes import ARCHIVE
from imaging_node.inference.opening import NamedModel, open_model
from imaging_node.inference.outputs import split_outputs
from imaging_node.inference.pinned_memory import pinned
from imaging_node.inference.preprocessing import ModelInput, prepare
from imaging_node.inference.runtime import run_bound
from imaging_node.inference.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable

GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CPU_BATCHES = (1, 2)
TO_REACH_GAIN = 10.0
TO_REACH_OVERLAP = 0.9
_STUDIES_AT_A_TIME = 64
_MEMORY_BYTES = 1024 * 1024 * 1024


def gpu(
    films: Annotated[int, typer.Option(min=8, help="Films of the overlapped run.")] = 400,
    device: Annotated[int, typer.Option(min=0, help="Number of the GPU.")] = 0,
) -> None:
    """Measure batches and the overlap with decoding on a GPU; without one, say so."""
    bundle = load_bundle(default_bundle_directory() / "chest_xray_pneumonia")
    typer.echo(f"load before: {load()}, {os.cpu_count()} cores")
    if choose_provider("auto") != "cuda":
        typer.echo(
            "no GPU: ONNX Runtime has no CUDA here. What follows runs the GPU's code on the CPU,"
            " bound buffers and the overlap included; its figures say nothing about a GPU."
        )
        check_binding(bundle)
        execution = Execution(in_flight=LAUNCHES_IN_FLIGHT)
        batches: tuple[int, ...] = CPU_BATCHES
        films = min(films, 16)
    else:
        typer.echo(f"GPU: {describe_gpu(device)}")
        execution = Execution(
            provider="cuda", in_flight=LAUNCHES_IN_FLIGHT, device_id=device, threads=1
        )
        batches = GPU_BATCHES
    opened = open_model(bundle, execution, "f32")
    typer.echo(f"runs on {opened.runs_on}")
    measure_batches(opened.model, bundle, batches)
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as folder:
        measure_overlap(Path(folder), bundle, execution, films)
    typer.echo(f"load after: {load()}")


def check_binding(bundle: Bundle) -> None:
    """Bound buffers give the answers of plain ones.

    Raises:
        SystemExit: They do not.
    """
    batch = pinned((4, *_item_shape(bundle)))
    batch[...] = inputs(bundle, len(batch))
    sessions = member_sessions(bundle, 1)
    bound = split_outputs(run_bound(sessions, batch, "cpu", 0), len(batch))
    plain = split_outputs([each.run(None, {"image": batch}) for each in sessions], len(batch))
    if len({each.logits.tobytes() for each in plain}) < len(batch):
        raise SystemExit("two images got the same answer: the comparison would say nothing")
    for one, other in zip(bound, plain, strict=True):
        same_maps = all(map(np.array_equal, one.maps, other.maps))
        if not (same_maps and np.array_equal(one.logits, other.logits)):
            raise SystemExit("bound buffers gave other answers than plain ones")
    typer.echo("bound buffers: the answers of plain ones")


def measure_batches(model: NamedModel, bundle: Bundle, batches: tuple[int, ...]) -> None:
    """Images a second for each batch, one launch at a time and two."""
    speeds = {}
    for images in batches:
        batch = model.buffer((images, *_item_shape(bundle)))
        batch[...] = inputs(bundle, images)
        for _ in range(3):
            model.predict(batch)
        alone, paired = (
            _images_per_s(lambda batch=batch: model.predict(batch), images, launches)  # type: ignore[misc]  # bound now
            for launches in (1, LAUNCHES_IN_FLIGHT)
        )
        speeds[images] = alone
        typer.echo(f"batch {images:>3}: {alone:7.0f} images/s, two in flight {paired:7.0f}")
    many = min(max(batches), 64)
    typer.echo(
        f"batch {many} / batch 1: {speeds[many] / speeds[1]:.1f}"
        f" (to reach on a GPU, batch 64: {TO_REACH_GAIN:g})"
    )


def measure_overlap(folder: Path, bundle: Bundle, execution: Execution, films: int) -> None:
    """Films a second decoded, scored, and both at once through the pool and the batcher."""
    plain = written_films(folder)["explicit VR little endian"]
    processes = max(1, (os.cpu_count() or 1) - 1)
    pool = DecodingPool(processes=processes, memory_limit_bytes=_MEMORY_BYTES, time_limit_s=60)
    batcher = Batcher(launch_budget_ms=150, in_flight=execution.in_flight)
    scorer = Scorer(bundle, open_model(bundle, execution, "f32"), batcher, site_operating_points={})
    pixels = pool.decode(plain, "2.25.1")

    with ThreadPoolExecutor(_STUDIES_AT_A_TIME) as studies:

        def per_s(work: Callable[[int], object]) -> float:
            list(studies.map(work, range(min(films, _STUDIES_AT_A_TIME))))
            began = time.perf_counter()
            list(studies.map(work, range(films)))
            return films / (time.perf_counter() - began)

        decoding = per_s(lambda _: pool.decode(plain, "2.25.1"))
        scoring = per_s(lambda _: scorer.score(pixels, ARCHIVE))
        both = per_s(lambda _: scorer.score(pool.decode(plain, "2.25.1"), ARCHIVE))
    scorer.close()
    pool.close()
    slower = min(decoding, scoring)
    typer.echo(
        f"films/s: decoded alone {decoding:.0f}, scored alone {scoring:.0f}, both {both:.0f}:"
        f" {both / slower:.2f} of the slower (to reach on a GPU: {TO_REACH_OVERLAP})"
    )


def _images_per_s(predict: Callable[[], object], images: int, launches: int) -> float:
    repeats = max(4, 256 // images)
    with ThreadPoolExecutor(launches) as threads:
        began = time.perf_counter()
        list(threads.map(lambda _: predict(), range(repeats)))
        return repeats * images / (time.perf_counter() - began)


def _item_shape(bundle: Bundle) -> tuple[int, int, int]:
    return (1, bundle.preprocessing.rows, bundle.preprocessing.columns)


def inputs(bundle: Bundle, count: int) -> ModelInput:
    """As many images, no two the same: what swaps rows or drops some is noticed."""
    rules = bundle.preprocessing
    return np.stack(
        [
            prepare(synthetic_thorax(400, 350, opacity=index / count, seed=index), rules)
            for index in range(count)
        ]
    )
