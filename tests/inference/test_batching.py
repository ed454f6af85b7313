"""What the batcher promises: company, order, isolation, a bounded launch, an end to waiting."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.batching import (
    ARCHIVE,
    LANES,
    MAXIMUM_BATCH,
    PASSED_OVER_LAUNCHES,
    ROUTINE,
    STAT,
    Batcher,
)
from imaging_node.inference.runtime import MemberOutputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

SHAPE = (1, 2, 2)


def image(value: float) -> npt.NDArray[np.float32]:
    return np.full(SHAPE, value, np.float32)


class Model:
    """Echoes each image's value as its logit; time passes only as images are launched."""

    def __init__(self, ms_per_image: float = 1.0) -> None:
        self.launches: list[list[float]] = []
        self.now_s = 0.0
        self.ms_per_image = ms_per_image
        self.may_run = threading.Event()
        self.is_running = threading.Event()
        self.bad_value: float | None = None
        self.bad_error: Exception = RuntimeError("the launch failed")

    def predict(self, batch: npt.NDArray[np.float32]) -> list[MemberOutputs]:
        self.is_running.set()
        assert self.may_run.wait(10)
        values = [float(each) for each in batch[:, 0, 0, 0]]
        self.launches.append(values)
        if self.bad_value in values:
            raise self.bad_error
        self.now_s += self.ms_per_image * len(values) / 1000
        return [MemberOutputs(logits=np.array([[value]], np.float32), maps=()) for value in values]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher]:
    """Learned already: about 1 ms an image, so that 8 images fit a launch."""
    opened = Batcher(
        model.predict,
        item_shape=SHAPE,
        launch_budget_ms=8.5,
        maximum_waiting=100,
        monotonic_s=lambda: model.now_s,
    )
    model.may_run.set()
    while opened.batch_limit() < 8:
        for answer in [opened.submit(image(0), ROUTINE) for _ in range(8)]:
            answer.result(10)
    model.launches.clear()
    yield opened
    model.may_run.set()
    opened.close()


def hold(model: Model, batcher: Batcher) -> None:
    """Keep a launch running, so that what comes next has to queue."""
    model.may_run.clear()
    model.is_running.clear()
    batcher.submit(image(-1), STAT)
    assert model.is_running.wait(10)


def finish(model: Model, answers: list[Future[MemberOutputs]]) -> list[float]:
    model.may_run.set()
    return [float(answer.result(10).logits[0, 0]) for answer in answers]


def test_images_of_several_studies_share_a_launch_and_keep_their_own_answers(
    model: Model, batcher: Batcher
) -> None:
    hold(model, batcher)
    with ThreadPoolExecutor(4) as studies:
        answers = list(studies.map(lambda value: batcher.submit(image(value), ROUTINE), range(6)))
    assert finish(model, answers) == [0, 1, 2, 3, 4, 5]
    assert [len(launch) for launch in model.launches] == [1, 6]


def test_the_urgent_lane_goes_first_and_archive_fills_the_launch(
    model: Model, batcher: Batcher
) -> None:
    hold(model, batcher)
    answers = [batcher.submit(image(200 + index), ARCHIVE) for index in range(9)]
    answers += [batcher.submit(image(100 + index), ROUTINE) for index in range(3)]
    answers += [batcher.submit(image(index), STAT) for index in range(2)]
    finish(model, answers)
    assert model.launches[1] == [0, 1, 100, 101, 102, 200, 201, 202]
    assert model.launches[2] == [203, 204, 205, 206, 207, 208]


@pytest.mark.parametrize("error", [RuntimeError("driver"), MemoryError(), ValueError("shape")])
def test_an_image_whose_launch_fails_fails_alone(
    model: Model, batcher: Batcher, error: Exception
) -> None:
    model.bad_value, model.bad_error = 3, error
    hold(model, batcher)
    answers = [batcher.submit(image(value), ROUTINE) for value in range(7)]
    bad = answers.pop(3)
    assert finish(model, answers) == [0, 1, 2, 4, 5, 6]
    failure = bad.exception(10)
    assert isinstance(failure, NotAnalysedError)
    assert failure.reason is NotAnalysedReason.SOFTWARE


@pytest.mark.parametrize(
    "bad", [np.full(SHAPE, np.nan, np.float32), np.zeros((1, 3, 2), np.float32)]
)
def test_an_image_that_cannot_be_scored_never_reaches_a_launch(
    model: Model, batcher: Batcher, bad: npt.NDArray[np.float32]
) -> None:
    assert isinstance(batcher.submit(bad, STAT).exception(10), NotAnalysedError)
    assert model.launches == []


def test_a_launch_keeps_to_the_budget_as_the_model_gets_slower(
    model: Model, batcher: Batcher
) -> None:
    model.ms_per_image = 4
    for _ in range(12):
        hold(model, batcher)
        finish(model, [batcher.submit(image(value), ARCHIVE) for value in range(8)])
    assert batcher.batch_limit() == 2
    model.ms_per_image = 100
    for _ in range(20):
        batcher.predict(image(1), ROUTINE)
    assert batcher.batch_limit() == 1


def test_a_fast_model_grows_its_launches_up_to_the_ceiling_only(model: Model) -> None:
    model.ms_per_image = 1e-6
    model.may_run.set()
    batcher = Batcher(
        model.predict,
        item_shape=SHAPE,
        launch_budget_ms=1000,
        monotonic_s=lambda: model.now_s,
    )
    limits = []
    for _ in range(12):
        limits.append(batcher.batch_limit())
        hold(model, batcher)
        finish(model, [batcher.submit(image(0), ROUTINE) for _ in range(600)])
    batcher.close()
    assert limits[0] == 1
    assert max(limits) == MAXIMUM_BATCH
    assert max(map(len, model.launches)) == MAXIMUM_BATCH


def test_archive_gets_a_place_although_urgent_images_never_stop(
    model: Model, batcher: Batcher
) -> None:
    hold(model, batcher)
    old = batcher.submit(image(999), ARCHIVE)
    urgent = [batcher.submit(image(value), STAT) for value in range(8 * PASSED_OVER_LAUNCHES + 8)]
    finish(model, [old, *urgent])
    launch = next(index for index, values in enumerate(model.launches) if 999 in values)
    assert launch == PASSED_OVER_LAUNCHES + 1
    assert model.launches[launch].count(999) == 1
    assert len(model.launches[launch]) == 8


def test_closing_answers_what_waits_and_takes_nothing_more(model: Model, batcher: Batcher) -> None:
    hold(model, batcher)
    answers = [batcher.submit(image(value), lane) for value, lane in enumerate(LANES)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert finish(model, answers) == [0, 1, 2]
    closing.join(10)
    assert not closing.is_alive()
    with pytest.raises(TemporaryError):
        batcher.submit(image(1), STAT)


def test_a_full_queue_holds_its_callers_back(model: Model) -> None:
    batcher = Batcher(model.predict, item_shape=SHAPE, launch_budget_ms=1, maximum_waiting=2)
    hold(model, batcher)
    answers = [batcher.submit(image(value), ROUTINE) for value in range(2)]
    with ThreadPoolExecutor(1) as caller:
        third = caller.submit(batcher.submit, image(2), ROUTINE)
        assert not third.done()
        assert finish(model, [*answers]) == [0, 1]
        assert finish(model, [third.result(10)]) == [2]
    batcher.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_surprise_that_ends_the_thread_leaves_nobody_waiting(
    model: Model, batcher: Batcher
) -> None:
    model.bad_value, model.bad_error = 1, KeyError("a defect of ours")
    hold(model, batcher)
    answers = [batcher.submit(image(value), ROUTINE) for value in range(20)]
    model.may_run.set()
    assert all(isinstance(answer.exception(10), TemporaryError) for answer in answers)
    with pytest.raises(TemporaryError):
        batcher.submit(image(0), STAT)
