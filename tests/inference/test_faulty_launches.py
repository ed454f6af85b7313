"""A launch that hangs, loses its device or ends its thread: who is charged, and who is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import DeviceLostError, NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.batching import FIRST_LAUNCH_FACTOR, Batcher
from imaging_node.inference.lanes import LANES, ROUTINE, STAT
from tests.inference.launched import (
    NAME,
    EchoModel,
    finish,
    image,
    learned_batcher,
    open_batcher,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def model() -> EchoModel:
    return EchoModel(ms_per_image=1, overhead_ms=4)


@pytest.fixture
def batcher(model: EchoModel) -> Iterator[Batcher]:
    opened = learned_batcher(model)
    yield opened
    model.may_run.set()
    opened.close()


def test_a_lost_device_blames_no_image_and_says_whose_launch_lost_it(
    model: EchoModel, batcher: Batcher
) -> None:
    model.bad_value, model.bad_error = 1, DeviceLostError("illegal memory access")
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE, owner=f"{value}") for value in range(3)]
    assert batcher.faulty() is None
    model.may_run.set()
    assert all(isinstance(answer.exception(10), TemporaryError) for answer in answers)
    assert batcher.faulty() == frozenset({"0", "1", "2"})


def test_only_the_first_launch_that_loses_the_device_is_charged(model: EchoModel) -> None:
    other = EchoModel()
    batcher = open_batcher(model, in_flight=2)
    batcher.add_model("other", other)
    running = []
    for name, each in ((NAME, model), ("other", other)):
        each.bad_value, each.bad_error = 0, DeviceLostError("illegal memory access")
        each.may_run.clear()
        running.append(batcher.submit(name, image(0), ROUTINE, owner=name))
        assert each.is_running.wait(10)
    waiting = [batcher.submit(NAME, image(2), lane, owner="waiting") for lane in LANES]
    other.may_run.set()
    first = running[1].exception(10)
    assert isinstance(first, DeviceLostError)
    assert first.is_counted
    model.may_run.set()
    for answer in (running[0], *waiting):
        failure = answer.exception(10)
        assert isinstance(failure, TemporaryError)
        assert not failure.is_counted
    batcher.close()
    assert batcher.faulty() == frozenset({"other"})
    assert model.launches == other.launches == [[0]]


def test_a_device_lost_by_half_a_batch_is_not_tried_with_the_other_half(
    model: EchoModel, batcher: Batcher
) -> None:
    model.fits = 3
    model.bad_value, model.bad_error = 0, DeviceLostError("illegal memory access")
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE, owner=f"{value}") for value in range(4)]
    model.may_run.set()
    failures = [answer.exception(10) for answer in answers]
    assert [each.is_counted for each in failures if isinstance(each, TemporaryError)] == (
        [True, True, False, False]
    )
    assert batcher.faulty() == frozenset({"0", "1"})
    assert model.launches[1:] == [[0, 1, 2, 3], [0, 1]]


def test_a_launch_beyond_its_limit_is_told_with_the_owners_of_its_images(
    model: EchoModel,
) -> None:
    batcher = open_batcher(model, launch_limit_s=60)
    finish(model, [batcher.submit(NAME, image(1), STAT, owner=owner) for owner in ("one", "two")])
    assert batcher.faulty() is None
    model.may_run.clear()
    model.is_running.clear()
    late = batcher.submit(NAME, image(1), STAT, owner="three")
    assert model.is_running.wait(10)
    waiting = batcher.submit(NAME, image(1), STAT, owner="four")
    model.now_s += 59
    assert batcher.faulty() is None
    model.now_s += 2
    assert batcher.faulty() == frozenset({"three"})
    finish(model, [late, waiting])
    assert batcher.faulty() is None
    batcher.close()


def test_half_a_batch_that_hangs_names_the_owners_of_that_half_only(
    model: EchoModel, batcher: Batcher
) -> None:
    model.fits = 3
    model.slow_images = 2
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE, owner=f"{value}") for value in range(4)]
    model.may_run.set()
    assert model.is_slow.wait(10)
    model.now_s += 61
    assert batcher.faulty() == frozenset({"0", "1"})
    model.slow_images = 0
    assert finish(model, answers) == [0, 1, 2, 3]
    assert batcher.faulty() is None


def test_a_first_launch_that_may_build_kernels_has_more_time(model: EchoModel) -> None:
    model.is_slow_at_first = True
    batcher = open_batcher(model, launch_limit_s=60)
    model.hold(batcher)
    model.now_s += 60 * FIRST_LAUNCH_FACTOR - 1
    assert batcher.faulty() is None
    model.now_s += 2
    assert batcher.faulty() == frozenset({""})
    model.may_run.set()
    batcher.close()


def test_closing_does_not_wait_for_a_launch_that_hangs(model: EchoModel, batcher: Batcher) -> None:
    model.hold(batcher)
    batcher.close(limit_s=0)
    assert any(each.is_alive() for each in batcher._threads)


@pytest.mark.parametrize("error", [MemoryError(), OSError("no library")])
def test_a_batch_that_gets_no_memory_fails_as_one_whose_launch_fails(
    model: EchoModel, batcher: Batcher, error: Exception
) -> None:
    model.hold(batcher)
    wide = [np.full((1, 2, 3), value, np.float32) for value in range(4)]
    first = batcher.submit(NAME, wide[0], ROUTINE)
    model.buffer_errors = [error]
    model.may_run.set()
    failure = first.exception(10)
    assert isinstance(failure, NotAnalysedError)
    assert failure.reason is NotAnalysedReason.SOFTWARE
    assert finish(model, [batcher.submit(NAME, each, ROUTINE) for each in wide]) == [0, 1, 2, 3]
    assert batcher.faulty() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_surprise_that_ends_a_thread_leaves_nobody_waiting_and_ends_the_process(
    model: EchoModel, batcher: Batcher
) -> None:
    model.bad_value, model.bad_error = 1, KeyError("a defect of ours")
    model.hold(batcher)
    answers = [batcher.submit(NAME, image(value), ROUTINE, owner=f"{value}") for value in range(20)]
    assert batcher.faulty() is None
    model.may_run.set()
    failures = [answer.exception(10) for answer in answers]
    assert [each.is_counted for each in failures if isinstance(each, TemporaryError)] == (
        [True] * 8 + [False] * 12
    )
    assert batcher.faulty() == frozenset(f"{value}" for value in range(8))
    with pytest.raises(TemporaryError):
        batcher.submit(NAME, image(0), STAT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_copy_that_ends_its_thread_ends_the_process(model: EchoModel) -> None:
    batcher = open_batcher(model)
    model.buffer_errors = [KeyError("a defect of ours")]
    answer = batcher.submit(NAME, image(1), ROUTINE, owner="one")
    assert isinstance(answer.exception(10), TemporaryError)
    batcher.close()
    assert batcher.faulty() == frozenset({"one"})


def test_a_batcher_that_was_closed_in_order_accuses_nobody(
    model: EchoModel, batcher: Batcher
) -> None:
    finish(model, [batcher.submit(NAME, image(1), ROUTINE, owner="one")])
    batcher.close()
    assert batcher.faulty() is None
