"""A model whose time passes only as images are launched, for tests of the batcher."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from imaging_node.inference.batching import Batcher
from imaging_node.inference.lanes import ROUTINE
from imaging_node.inference.outputs import MemberOutputs

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

NAME = "echo"
SHAPE = (1, 2, 2)


def image(value: float) -> npt.NDArray[np.float32]:
    return np.full(SHAPE, value, np.float32)


class EchoModel:
    """Echoes each image's value as its logit; a launch takes `overhead_ms` + n * `ms_per_image`."""

    is_slow_at_first = False

    def __init__(self, ms_per_image: float = 1.0, overhead_ms: float = 0.0) -> None:
        self.launches: list[list[float]] = []
        self.now_s = 0.0
        self.ms_per_image = ms_per_image
        self.overhead_ms = overhead_ms
        self.may_run = threading.Event()
        self.may_run.set()
        self.is_running = threading.Event()
        self.bad_value: float | None = None
        self.bad_error: Exception = RuntimeError("the launch failed")
        self.fits = 10_000
        self.slow_images = 0
        self.is_slow = threading.Event()
        self.buffer_errors: list[Exception] = []

    def buffer(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        if self.buffer_errors:
            raise self.buffer_errors.pop(0)
        return np.empty(shape, np.float32)

    def predict(self, batch: npt.NDArray[np.float32]) -> list[MemberOutputs]:
        self.is_running.set()
        assert self.may_run.wait(10)
        values = [float(each) for each in batch[:, 0, 0, 0]]
        self.launches.append(values)
        if len(values) == self.slow_images:
            self.may_run.clear()
            self.is_slow.set()
            assert self.may_run.wait(10)
        if len(values) > self.fits:
            raise MemoryError("does not fit")
        if self.bad_value in values:
            raise self.bad_error
        self.now_s += (self.overhead_ms + self.ms_per_image * len(values)) / 1000
        return [
            MemberOutputs(
                logits=np.array([[value if value != 666 else np.nan]], np.float32), maps=()
            )
            for value in values
        ]

    def hold(self, batcher: Batcher, name: str = "echo") -> None:
        """Keep a launch running, so that what comes next has to queue."""
        self.may_run.clear()
        self.is_running.clear()
        batcher.submit(name, image(-1), 0)
        assert self.is_running.wait(10)


def open_batcher(
    model: EchoModel,
    *,
    in_flight: int = 1,
    maximum_waiting: int = 100,
    launch_limit_s: float = 60,
) -> Batcher:
    opened = Batcher(
        launch_budget_ms=12.5,
        launch_limit_s=launch_limit_s,
        in_flight=in_flight,
        maximum_waiting=maximum_waiting,
        monotonic_s=lambda: model.now_s,
    )
    opened.add_model(NAME, model)
    return opened


def finish(model: EchoModel, answers: list[Future[MemberOutputs]]) -> list[float]:
    model.may_run.set()
    return [float(answer.result(10).logits[0, 0]) for answer in answers]


def learned_batcher(model: EchoModel) -> Batcher:
    """One launch at a time, learned already: 4 ms and 1 ms an image, so that 8 fit."""
    opened = open_batcher(model)
    # Eight come next once three of four are timed; a launch of eight would be learned from, too.
    while sum(len(launch) == 4 for launch in model.launches) < 3:
        model.hold(opened)
        finish(model, [opened.submit(NAME, image(0), ROUTINE) for _ in range(8)])
    model.launches.clear()
    return opened
