"""What the batcher promises: company, order, isolation, bounded launches, an end to waiting."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.lanes import ARCHIVE, LANES, PASSED_OVER_LAUNCHES, ROUTINE, STAT
from tests.inference.launched import (
    NAME,
    SHAPE,
    EchoModel,
    finish,
    image,
    learned_batcher,
    open_batcher,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from imaging_node.inference.batching import Batcher


@pytest.fixture
def model() -> EchoModel:
    return EchoModel(ms_per_image=1, overhead_ms=4)


@pytest.fixture
def batcher(model: EchoModel) -> Iterator[Batcher]:
    opened = learned_batcher(model)
    yield opened
    model.may_run.set()
    opened.close()


def test_images_of_several_studies_share_a_launch_and_keep_their_own_answers(
    model: EchoModel, batcher: Batcher
) -> None:
    model.hold(batcher)
    with ThreadPoolExecutor(4) as studies:
        answers = list(
            studies.map(lambda value: batcher.submit(NAME, image(value), ROUTINE), range(6))
        )
    assert finish(model, answers) == [0, 1, 2, 3, 4, 5]
    assert [len(launch) for launch in model.launches] == [1, 6]


def test_the_urgent_lane_goes_first_and_archive_fills_the_launch(
    model: EchoModel, batcher: Batcher
) -> None:
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(200 + index), ARCHIVE) for index in range(9)]
    answers += [batcher.submit(NAME, image(100 + index), ROUTINE) for index in range(3)]
    answers += [batcher.submit(NAME, image(index), STAT) for index in range(2)]
    finish(model, answers)
    assert model.launches[1] == [0, 1, 100, 101, 102, 200, 201, 202]
    assert model.launches[2] == [203, 204, 205, 206, 207, 208]


def test_inside_a_lane_the_earliest_deadline_goes_first_and_equal_ones_in_their_order(
    model: EchoModel, batcher: Batcher
) -> None:
    model.hold(batcher)
    deadlines_s = [30.0, 10.0, 20.0, 10.0]
    answers = [
        batcher.submit(NAME, image(value), ROUTINE, deadline_s=deadline_s)
        for value, deadline_s in enumerate(deadlines_s)
    ]
    answers += [batcher.submit(NAME, image(9), ROUTINE)]
    finish(model, answers)
    assert model.launches[1] == [1, 3, 2, 0, 9]


def test_archive_gets_a_place_although_urgent_images_never_stop(
    model: EchoModel, batcher: Batcher
) -> None:
    model.hold(batcher)
    old = batcher.submit(NAME, image(999), ARCHIVE)
    urgent = [
        batcher.submit(NAME, image(value), STAT) for value in range(8 * PASSED_OVER_LAUNCHES + 8)
    ]
    finish(model, [old, *urgent])
    launch = next(index for index, values in enumerate(model.launches) if 999 in values)
    assert launch == PASSED_OVER_LAUNCHES + 1
    assert model.launches[launch].count(999) == 1
    assert len(model.launches[launch]) > 1


def test_images_of_two_models_never_share_a_launch_and_the_urgent_one_goes_first(
    model: EchoModel, batcher: Batcher
) -> None:
    other = EchoModel()
    batcher.add_model("other", other)
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE) for value in range(3)]
    answers += [batcher.submit("other", image(10 + value), STAT) for value in range(3)]
    other.may_run.clear()
    model.may_run.set()
    assert other.is_running.wait(10)  # the other's urgent images came before the routine ones
    assert model.launches == [[-1]]
    other.may_run.set()
    assert finish(model, answers) == [0, 1, 2, 10, 11, 12]
    assert all(value >= 10 for launch in other.launches for value in launch)


def test_images_of_two_shapes_never_share_a_launch(model: EchoModel, batcher: Batcher) -> None:
    model.hold(batcher)
    wide = np.full((1, 2, 3), 7, np.float32)
    answers = [batcher.submit(NAME, each, ROUTINE) for each in (image(1), wide, image(2))]
    assert finish(model, answers) == [1, 7, 2]
    assert sorted(model.launches[1:]) == [[1, 2], [7]]


def test_an_urgent_image_waits_for_the_first_of_two_launches_only(model: EchoModel) -> None:
    slow = EchoModel()
    batcher = open_batcher(model, in_flight=2)
    batcher.add_model("slow", slow)
    slow.hold(batcher, "slow")
    model.hold(batcher)
    archive = [batcher.submit(NAME, image(200 + index), ARCHIVE) for index in range(3)]
    urgent = batcher.submit(NAME, image(1), STAT)
    assert finish(model, [urgent]) == [1]  # although the other launch still runs
    assert model.launches[1][0] == 1
    slow.may_run.set()
    finish(model, archive)
    batcher.close()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("driver"), MemoryError(), ValueError("shape"), OSError("a library is gone")],
)
def test_an_image_whose_launch_fails_fails_alone(
    model: EchoModel, batcher: Batcher, error: Exception
) -> None:
    model.bad_value, model.bad_error = 3, error
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE) for value in range(7)]
    bad = answers.pop(3)
    assert finish(model, answers) == [0, 1, 2, 4, 5, 6]
    failure = bad.exception(10)
    assert isinstance(failure, NotAnalysedError)
    assert failure.reason is NotAnalysedReason.SOFTWARE


def test_an_answer_that_is_no_number_is_refused_and_its_company_is_not(
    model: EchoModel, batcher: Batcher
) -> None:
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE) for value in (1, 666, 2)]
    bad = answers.pop(1)
    assert finish(model, answers) == [1, 2]
    failure = bad.exception(10)
    assert isinstance(failure, NotAnalysedError)
    assert failure.reason is NotAnalysedReason.MODEL_OUTPUT
    assert len(model.launches) == 2


def test_what_does_not_fit_into_memory_is_halved_and_no_image_is_lost(
    model: EchoModel, batcher: Batcher
) -> None:
    model.fits = 3
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE) for value in range(12)]
    assert finish(model, answers) == list(range(12))
    # The eight in halves; those that still waited are not put together again.
    assert [len(launch) for launch in model.launches[1:]] == [8, 4, 2, 2, 4, 2, 2, 2, 2]


def test_an_image_that_is_no_number_never_reaches_a_launch(
    model: EchoModel, batcher: Batcher
) -> None:
    bad: npt.NDArray[np.float32] = np.full(SHAPE, np.nan, np.float32)
    assert isinstance(batcher.submit(NAME, bad, STAT).exception(10), NotAnalysedError)
    assert model.launches == []


def test_launches_images_and_copied_bytes_are_counted_without_the_clock(
    model: EchoModel, batcher: Batcher
) -> None:
    before = (batcher.launches, batcher.launched_images, batcher.copied_bytes)
    model.hold(batcher)
    finish(model, [batcher.submit(NAME, image(value), ROUTINE) for value in range(16)])
    assert batcher.launches - before[0] == 3
    assert batcher.launched_images - before[1] == 17
    assert batcher.copied_bytes - before[2] == 17 * image(0).nbytes


def test_closing_answers_what_waits_and_takes_nothing_more(
    model: EchoModel, batcher: Batcher
) -> None:
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), lane) for value, lane in enumerate(LANES)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert finish(model, answers) == [0, 1, 2]
    closing.join(10)
    assert not closing.is_alive()
    with pytest.raises(TemporaryError):
        batcher.submit(NAME, image(1), STAT)


def test_a_full_lane_holds_its_callers_back_and_no_other_lane(model: EchoModel) -> None:
    batcher = open_batcher(model, maximum_waiting=2)
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ARCHIVE) for value in range(2)]
    urgent = batcher.submit(NAME, image(9), STAT)
    with ThreadPoolExecutor(1) as caller:
        third = caller.submit(batcher.submit, NAME, image(2), ARCHIVE)
        assert not third.done()
        assert finish(model, [urgent, *answers]) == [9, 0, 1]
        assert finish(model, [third.result(10)]) == [2]
    batcher.close()
