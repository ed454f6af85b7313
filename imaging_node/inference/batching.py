"""The batcher: images of many studies share a launch, the urgent ones first.

How many images a launch takes is a budget of milliseconds, learned per model, never a
count: the same setting means one or two images on a small CPU and a hundred on a GPU, and
bounds how long a STAT study waits for a launch that is already running.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from imaging_node.domain.errors import ImagingNodeError, NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.preprocessing import ModelInput
from imaging_node.inference.runtime import MemberOutputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt


STAT, ROUTINE, ARCHIVE = 0, 1, 2
"""Lanes, most urgent first."""

LANES = (STAT, ROUTINE, ARCHIVE)
MAXIMUM_BATCH = 256
MAXIMUM_WAITING = 1024
PASSED_OVER_LAUNCHES = 8
"""A lane that this many launches in a row passed over gets the first place of the next."""

_NEWEST_SHARE = 0.2
_LAUNCH_ERRORS = (ImagingNodeError, ArithmeticError, MemoryError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    image: ModelInput
    answer: Future[MemberOutputs] = field(default_factory=Future)


class Batcher:
    """Owns the one thread that launches the model.

    Lanes are served in order and within a lane the earliest image first; lower lanes fill
    the places that are left. So that STAT never waits behind them and they never starve, a
    lane that was passed over by `PASSED_OVER_LAUNCHES` launches gets one place, not more.
    """

    def __init__(
        self,
        predict: Callable[[npt.NDArray[np.float32]], Sequence[MemberOutputs]],
        *,
        item_shape: tuple[int, int, int],
        launch_budget_ms: float,
        maximum_waiting: int = MAXIMUM_WAITING,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            predict: Batch of shape (n, *item_shape) to one answer per image.
            item_shape: What every image must look like.
            launch_budget_ms: Longest launch to aim for, > 0; one image always runs.
            maximum_waiting: Images that may wait; `submit` blocks while they do.
            monotonic_s: Clock that times the launches.
        """
        self._predict = predict
        self._item_shape = item_shape
        self._launch_budget_ms = launch_budget_ms
        self._maximum_waiting = maximum_waiting
        self._monotonic_s = monotonic_s
        self._lanes: tuple[deque[_Waiting], ...] = tuple(deque() for _ in LANES)
        self._passed_over = [0 for _ in LANES]
        self._changed = threading.Condition()
        self._closed = False
        self._ms_per_image: float | None = None
        self._largest_batch = 1
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, image: ModelInput, lane: int) -> Future[MemberOutputs]:
        """Queue one image; blocks while `maximum_waiting` images wait.

        Returns:
            Its answer to come, or a NotAnalysedError when the image or the launch is bad.

        Raises:
            TemporaryError: The batcher is closed.
            ValueError: There is no such lane.
        """
        if lane not in LANES:
            raise ValueError(f"lane {lane} is none of {LANES}")
        waiting = _Waiting(image=image)
        waiting.answer.set_running_or_notify_cancel()  # from here on nobody can cancel it
        if image.shape != self._item_shape or not np.isfinite(image).all():
            waiting.answer.set_exception(
                NotAnalysedError(
                    f"an image of shape {image.shape}, or with values that are not numbers,"
                    f" cannot be scored; the model takes {self._item_shape}",
                    reason=NotAnalysedReason.SOFTWARE,
                )
            )
            return waiting.answer
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or sum(map(len, self._lanes)) < self._maximum_waiting
            )
            if self._closed:
                raise TemporaryError("the scorer is closing; the study will be tried again")
            self._lanes[lane].append(waiting)
            self._changed.notify_all()
        return waiting.answer

    def predict(self, image: ModelInput, lane: int) -> MemberOutputs:
        """Queue one image and wait for its answer; raises what `submit` and the launch raise."""
        return self.submit(image, lane).result()

    def close(self) -> None:
        """Take no more images, answer those that wait, end the thread; safe to repeat."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def batch_limit(self) -> int:
        """Images that the next launch may take: what fits the budget, growing by doubling."""
        if self._ms_per_image is None:
            return 1
        fitting = int(self._launch_budget_ms / max(self._ms_per_image, 1e-6))
        return max(1, min(fitting, 2 * self._largest_batch, MAXIMUM_BATCH))

    def _run(self) -> None:
        in_flight: list[_Waiting] = []
        try:
            while in_flight := self._next_batch():
                self._launch(in_flight)
        finally:
            # Whatever ended this thread, nobody may wait for ever.
            with self._changed:
                self._closed = True
                for waiting in chain(in_flight, *self._lanes):
                    if not waiting.answer.done():
                        waiting.answer.set_exception(TemporaryError("the batcher ended"))
                for lane in self._lanes:
                    lane.clear()
                self._changed.notify_all()

    def _next_batch(self) -> list[_Waiting]:
        """Wait for images and choose; empty once the batcher is closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._lanes))
            limit = self.batch_limit()
            # Lanes in the order of their places: at most one starving lane comes first.
            starving = [
                lane
                for lane in reversed(LANES)
                if self._lanes[lane] and self._passed_over[lane] >= PASSED_OVER_LAUNCHES
            ][:1]
            order = chain(starving, (lane for lane in LANES for _ in self._lanes[lane]))
            chosen = list(islice(order, min(limit, sum(map(len, self._lanes)))))
            batch = [self._lanes[lane].popleft() for lane in chosen if self._lanes[lane]]
            for lane in LANES:
                is_passed_over = bool(self._lanes[lane]) and lane not in chosen
                self._passed_over[lane] = self._passed_over[lane] + 1 if is_passed_over else 0
            self._changed.notify_all()
            return batch

    def _launch(self, batch: Sequence[_Waiting]) -> None:
        """Run a batch; one that fails is halved until the bad image is alone."""
        started_s = self._monotonic_s()
        try:
            answers = self._predict(np.stack([waiting.image for waiting in batch]))
            if len(answers) != len(batch):
                raise ValueError(f"{len(answers)} answers for {len(batch)} images")
        except _LAUNCH_ERRORS as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(_as_foreseen(error))
                return
            middle = len(batch) // 2
            self._launch(batch[:middle])
            self._launch(batch[middle:])
            return
        self._learn((self._monotonic_s() - started_s) * 1000 / len(batch), len(batch))
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answer.set_result(answer)

    def _learn(self, ms_per_image: float, images: int) -> None:
        previous = self._ms_per_image
        self._ms_per_image = (
            ms_per_image
            if previous is None
            else (1 - _NEWEST_SHARE) * previous + _NEWEST_SHARE * ms_per_image
        )
        self._largest_batch = max(self._largest_batch, images)


def _as_foreseen(error: Exception) -> ImagingNodeError:
    if isinstance(error, ImagingNodeError):
        return error
    foreseen = NotAnalysedError(
        f"the launch of one image failed: {type(error).__name__}",
        reason=NotAnalysedReason.SOFTWARE,
    )
    foreseen.__cause__ = error
    return foreseen
