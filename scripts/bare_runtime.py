"""Bare ONNX Runtime: a bundle's networks in a loop with nothing around them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from imaging_node.inference.execution import share_threads
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.preprocessing import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imaging_node.inference.bundle import Bundle
    from imaging_node.inference.preprocessing import ModelInput

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to use the bare runtime."""

    launches: int
    threads: int
    batch: int

    def __str__(self) -> str:
        launches = "1 launch" if self.launches == 1 else f"{self.launches} launches"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{launches} of {threads}, batch {self.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One measurement; `core_ms` is processor time an image, of all threads together."""

    images_per_s: float
    core_ms: float


class Bare:
    """Owns sessions of ONNX Runtime that run one batch again and again, as fast as they can."""

    def __init__(self, bundle: Bundle, layout: Layout, prepared: Sequence[ModelInput]) -> None:
        self._batch = np.stack(prepared[: layout.batch])
        self._sessions = [member_sessions(bundle, layout.threads) for _ in range(layout.launches)]

    def run(self, images: int) -> Speed:
        """Speed over about so many images."""
        launches = max(1, round(images / len(self._batch) / len(self._sessions)))

        def run(sessions: list[onnxruntime.InferenceSession]) -> None:
            for _ in range(launches):
                for session in sessions:
                    session.run(None, {"image": self._batch})

        with ThreadPoolExecutor(len(self._sessions)) as threads:
            return speed_of(
                lambda: list(threads.map(run, self._sessions)),
                launches * len(self._batch) * len(self._sessions),
            )


def prepared_images(bundle: Bundle) -> list[ModelInput]:
    """As many different images as the largest batch takes."""
    return [
        prepare(synthetic_thorax(400, 350, opacity=index / 64, seed=index), bundle.preprocessing)
        for index in range(max(BATCHES))
    ]


def best_batches(
    bundle: Bundle, prepared: Sequence[ModelInput], *, cores: int, images: int
) -> dict[Layout, Bare]:
    """The fastest batch of each way to spread the cores, at a first look; one launch first."""
    best: dict[tuple[int, int], tuple[float, Layout, Bare]] = {}
    for layout in layouts(cores):
        bare = Bare(bundle, layout, prepared)
        bare.run(layout.batch)  # the first run of a session is slower
        found = (bare.run(images).images_per_s, layout, bare)
        spread = (layout.launches, layout.threads)
        best[spread] = max(best.get(spread, found), found, key=lambda each: each[0])
    return {layout: bare for _, layout, bare in best.values()}


def layouts(cores: int) -> list[Layout]:
    """Ways to spread the cores over launches; the first has one launch."""
    in_flight, threads = share_threads(cores)
    spreads = dict.fromkeys([(1, cores), (in_flight, threads), (cores, 1)])
    return [
        Layout(launches=launches, threads=each, batch=batch)
        for launches, each in spreads
        for batch in BATCHES
    ]


def member_sessions(bundle: Bundle, threads: int) -> list[onnxruntime.InferenceSession]:
    """One plain session for each member, as ONNX Runtime makes them but for its threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads of two networks that spin take turns badly: a third of the rate.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return [
        onnxruntime.InferenceSession(each.model, options, providers=["CPUExecutionProvider"])
        for each in bundle.members
    ]


def speed_of(work: Callable[[], object], images: int) -> Speed:
    """How fast `work` gets through so many images."""
    began_s, began_core_s = time.perf_counter(), time.process_time()
    work()
    elapsed_s, core_s = time.perf_counter() - began_s, time.process_time() - began_core_s
    return Speed(images_per_s=images / elapsed_s, core_ms=core_s * 1000 / images)
