"""The batcher: images of many studies share launches, the urgent ones first.

How many images a launch takes is a budget of milliseconds, learned for each model, never a
count: the same setting means one or two images on a small CPU and a hundred on a GPU, and
bounds how long a STAT study waits. Two launches are in flight, so that one computes while the
other copies or waits for Python, and whichever ends first takes what is most urgent.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imaging_node.domain.errors import (
    DeviceLostError,
    ImagingNodeError,
    NotAnalysedError,
    TemporaryError,
)
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.lanes import LANES, Item, WaitingLanes
from imaging_node.inference.launch_budget import LaunchBudget
from imaging_node.inference.outputs import LaunchedModel, MemberOutputs
from imaging_node.telemetry import Counters, Metric

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from imaging_node.inference.preprocessing import ModelInput

MAXIMUM_WAITING = 1024
# The first launch of a size may build kernels: it hangs only after so many times the limit.
FIRST_LAUNCH_FACTOR = 10
# Studies in work have had their time: what runs now hangs, and a stop must not.
CLOSING_LIMIT_S = 3.0

_LAUNCH_ERRORS = (
    ImagingNodeError, ArithmeticError, MemoryError, OSError, RuntimeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What may share a launch."""

    model: str
    shape: tuple[int, ...]
    type_name: str


@dataclass(slots=True, kw_only=True)
class _Queue:
    """Images of one key, and what was learned of its launches."""

    model: LaunchedModel
    budget: LaunchBudget
    lanes: WaitingLanes = field(default_factory=WaitingLanes)


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One of the launches in flight.

    Attributes:
        buffers: Memory for the batches of each key, grown as needed.
        taken: Images that were taken off the queue together and are not all answered.
        items: Those of them whose launch is running: a part, once the batch was halved.
        hangs_after_s: When the launch counts as hanging, on the monotonic clock.
    """

    buffers: dict[_Key, npt.NDArray[np.float32]] = field(default_factory=dict)
    taken: Sequence[Item] = ()
    items: Sequence[Item] = ()
    hangs_after_s: float = math.inf


class Batcher:
    """Owns the threads that launch models, all models of a process together.

    Attributes:
        launches, launched_images, copied_bytes: So far, repeated launches included; they depend
            on the images and their order, not on the clock.
        in_flight: Launches at a time.
    """

    def __init__(
        self,
        *,
        launch_budget_ms: float,
        launch_limit_s: float = math.inf,
        in_flight: int,
        maximum_waiting: int = MAXIMUM_WAITING,
        counters: Counters | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the threads.

        Args:
            launch_budget_ms: Longest launch to aim for, > 0; one image always runs.
            launch_limit_s: A launch that runs longer hangs, > 0; see `faulty`.
            in_flight: Launches at a time, >= 1.
            maximum_waiting: Images that may wait in one lane; `submit` blocks while they do.
            counters: Where launches are counted for the metrics.
            monotonic_s: Clock that times the launches.
        """
        self._launch_budget_ms = launch_budget_ms
        self._launch_limit_s = launch_limit_s
        self._maximum_waiting = maximum_waiting
        self._counters = counters or Counters()
        self._monotonic_s = monotonic_s
        self._models: dict[str, LaunchedModel] = {}
        self._queues: dict[_Key, _Queue] = {}
        self._submitted = 0
        self._changed = threading.Condition()
        self._closed = False
        self.launches = 0
        self.launched_images = 0
        self.copied_bytes = 0
        self._lost: frozenset[str] | None = None
        self.in_flight = in_flight
        self._slots = [_Slot() for _ in range(in_flight)]
        self._threads = [
            threading.Thread(target=self._run, args=(slot,), name=f"launch-{number}", daemon=True)
            for number, slot in enumerate(self._slots)
        ]
        for thread in self._threads:
            thread.start()

    def add_model(self, name: str, model: LaunchedModel) -> None:
        """Take images for `model` under `name` from now on, in the place of an earlier one.

        Raises:
            ValueError: Images of an earlier one have been submitted.
        """
        with self._changed:
            if any(key.model == name for key in self._queues):
                raise ValueError(f"images for a model {name} have been submitted")
            self._models[name] = model

    def remove_model(self, name: str) -> None:
        """Forget a model and the memory of its batches; nothing happens when there is none.

        Raises:
            ValueError: Images for it are waiting.
        """
        with self._changed:
            keys = [key for key in self._queues if key.model == name]
            if any(_waits(self._queues[key]) for key in keys):
                raise ValueError(f"images for the model {name} are waiting")
            for key in keys:
                del self._queues[key]
                for slot in self._slots:
                    slot.buffers.pop(key, None)
            self._models.pop(name, None)

    def submit(
        self,
        model: str,
        image: ModelInput,
        lane: int,
        *,
        deadline_s: float = math.inf,
        owner: str = "",
    ) -> Future[MemberOutputs]:
        """Queue one image; blocks while `maximum_waiting` images wait in its lane.

        Args:
            model: Name under which it was added.
            image: Images of one model, shape and type share launches.
            lane: One of `LANES`.
            deadline_s: On the monotonic clock; the earliest of a lane goes first.
            owner: Whose work it is: `faulty` names it.

        Returns:
            Its answer to come, or a NotAnalysedError when the image, the launch or the answer
            is bad, or a TemporaryError.

        Raises:
            TemporaryError: The batcher is closed.
            ValueError: There is no such lane.
        """
        if lane not in LANES:
            raise ValueError(f"lane {lane} is none of {LANES}")
        key = _Key(model=model, shape=image.shape, type_name=str(image.dtype))
        is_finite = bool(np.isfinite(image).all())
        with self._changed:
            if key not in self._queues:
                self._queues[key] = _Queue(
                    model=self._models[model], budget=LaunchBudget(self._launch_budget_ms)
                )
            lanes = self._queues[key].lanes
            self._changed.wait_for(
                lambda: self._closed or lanes.waiting_in(lane) < self._maximum_waiting
            )
            if self._closed:
                raise _not_at_fault()
            self._submitted += 1
            item = Item(
                image=image,
                lane=lane,
                deadline_s=deadline_s,
                number=self._submitted,
                owner=owner,
            )
            item.answer.set_running_or_notify_cancel()  # from here on nobody can cancel it
            if is_finite:
                lanes.add(item)
                self._changed.notify_all()
        if not is_finite:
            item.answer.set_exception(_software_failure("an image holds what is not a number"))
        return item.answer

    def close(self, limit_s: float = CLOSING_LIMIT_S) -> None:
        """Take no more images, answer those that wait, end the threads; safe to repeat.

        Args:
            limit_s: A launch that runs longer is left to the end of the process.
        """
        deadline_s = time.monotonic() + limit_s
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def faulty(self) -> frozenset[str] | None:
        """Owners of the images in the launch at fault.

        It runs beyond its limit, lost the accelerator or ended its thread.

        Returns:
            None while all is well; else the process must end.
        """
        now_s = self._monotonic_s()
        with self._changed:
            if self._lost is not None:
                return self._lost
            stuck = [slot.items for slot in self._slots if now_s > slot.hangs_after_s]
        return _owners(item for items in stuck for item in items) if stuck else None

    def _run(self, slot: _Slot) -> None:
        has_died = True
        try:
            while chosen := self._next_launch(slot):
                key, queue, items = chosen
                self._launch(slot, key, queue, items)
                slot.taken = slot.items = ()
            has_died = False
        finally:
            # Whatever ended this thread, nobody may wait for ever ...
            with self._changed:
                self._closed = True
                if has_died and self._lost is None:
                    # ... and a process that launches nothing more must end.
                    self._lost = _owners(slot.items)
                at_fault = [item for item in slot.items if not item.answer.done()]
                for item in at_fault:
                    item.answer.set_exception(TemporaryError("a launch ended its thread"))
                innocent = [item for item in slot.taken if not item.answer.done()]
                for each in self._queues.values():
                    innocent += each.lanes.take_all()
                for item in innocent:
                    item.answer.set_exception(_not_at_fault())
                self._changed.notify_all()

    def _next_launch(self, slot: _Slot) -> tuple[_Key, _Queue, list[Item]] | None:
        """Wait for images and choose; None once the batcher is closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(map(_waits, self._queues.values())))
            waiting = {key: queue for key, queue in self._queues.items() if _waits(queue)}
            if not waiting or self._lost is not None:
                return None
            key, queue = min(waiting.items(), key=lambda each: each[1].lanes.rank())
            items = queue.lanes.take(queue.budget.limit(self._monotonic_s()))
            slot.taken = slot.items = items
            for other in waiting.values():
                other.lanes.note_launch(items if other is queue else [])
            self._changed.notify_all()
            return key, queue, items

    def _launch(self, slot: _Slot, key: _Key, queue: _Queue, items: Sequence[Item]) -> None:
        """Run a batch; one that fails is halved until the bad image is alone."""
        if not self._begin(slot, queue, items):
            for item in items:
                item.answer.set_exception(_not_at_fault())
            return
        try:
            batch = self._copy_together(slot, key, queue, items)
            started_s = self._monotonic_s()
            answers = queue.model.predict(batch)
            if len(answers) != len(items):
                raise ValueError(f"{len(answers)} answers for {len(items)} images")
        except DeviceLostError as error:
            self._lose(items, error)
            return
        except _LAUNCH_ERRORS as error:
            if isinstance(error, MemoryError):
                with self._changed:
                    queue.budget.run_out_of_memory(len(items), self._monotonic_s())
            if len(items) == 1:
                items[0].answer.set_exception(_as_foreseen(error))
                return
        else:
            with self._changed:
                queue.budget.learn(len(items), (self._monotonic_s() - started_s) * 1000)
            for item, answer in zip(items, answers, strict=True):
                _answer(item, answer)
            return
        finally:
            slot.hangs_after_s = math.inf
        middle = len(items) // 2
        self._launch(slot, key, queue, items[:middle])
        self._launch(slot, key, queue, items[middle:])

    def _lose(self, items: Sequence[Item], error: DeviceLostError) -> None:
        """The first launch that meets it is at fault; whatever else was in flight is not."""
        with self._changed:
            is_first = self._lost is None
            if is_first:
                self._lost = _owners(items)
        for item in items:
            item.answer.set_exception(error if is_first else _not_at_fault())

    def _begin(self, slot: _Slot, queue: _Queue, items: Sequence[Item]) -> bool:
        """Count a launch and start its limit; False once the accelerator is lost."""
        count = len(items)
        with self._changed:
            if self._lost is not None:
                return False
            self.launches += 1
            self.launched_images += count
            self.copied_bytes += sum(item.image.nbytes for item in items)
            is_first = queue.model.is_slow_at_first and not queue.budget.has_seen(count)
            limit_s = self._launch_limit_s * (FIRST_LAUNCH_FACTOR if is_first else 1)
            slot.items = items
            slot.hangs_after_s = self._monotonic_s() + limit_s
        self._counters.add(Metric.LAUNCHES)
        self._counters.add(Metric.LAUNCHED_IMAGES, count)
        return True

    def _copy_together(
        self, slot: _Slot, key: _Key, queue: _Queue, items: Sequence[Item]
    ) -> npt.NDArray[np.float32]:
        """The one copy that a launch makes of its images: into memory that is used again."""
        count = len(items)
        buffer = slot.buffers.get(key)
        if buffer is None or len(buffer) < count:
            buffer = queue.model.buffer((1 << (count - 1).bit_length(), *key.shape))
            slot.buffers[key] = buffer
        batch = buffer[:count]
        for place, item in zip(batch, items, strict=True):
            place[...] = item.image
        return batch


def _waits(queue: _Queue) -> bool:
    return bool(len(queue.lanes))


def _owners(items: Iterable[Item]) -> frozenset[str]:
    return frozenset(item.owner for item in items)


def _answer(item: Item, answer: MemberOutputs) -> None:
    if answer.is_finite:
        item.answer.set_result(answer)
        return
    item.answer.set_exception(
        NotAnalysedError(
            "a network answered with values that are not numbers",
            reason=NotAnalysedReason.MODEL_OUTPUT,
        )
    )


def _as_foreseen(error: Exception) -> ImagingNodeError:
    if isinstance(error, ImagingNodeError):
        return error
    foreseen = _software_failure(f"the launch of one image failed: {type(error).__name__}")
    foreseen.__cause__ = error
    return foreseen


def _not_at_fault() -> TemporaryError:
    return TemporaryError("the scorer is closing; the study will be tried again", is_counted=False)


def _software_failure(detail: str) -> NotAnalysedError:
    return NotAnalysedError(detail, reason=NotAnalysedReason.SOFTWARE)
