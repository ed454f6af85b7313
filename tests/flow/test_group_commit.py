"""One durable step for many, and none after the disk was lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import DurabilityError, RowRefusedError, StorageError
from imaging_node.flow.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Sequence


class Slowly:
    """An item whose preparing lasts until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_go_on = threading.Event()

    def prepare(self) -> int:
        self.begun.set()
        assert self.may_go_on.wait(10)
        return 1


def test_items_that_wait_share_a_step_and_each_gets_its_own_outcome() -> None:
    may_go_on = threading.Event()
    begun = threading.Event()
    groups: list[int] = []

    def step(items: Sequence[int]) -> Sequence[int]:
        groups.append(len(items))
        begun.set()
        assert may_go_on.wait(10)
        return [each * 10 for each in items]

    commit = GroupCommit(step)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(commit.submit, lambda: 1)
        assert begun.wait(10)
        others = [pool.submit(commit.submit, partial(int, each)) for each in range(2, 9)]
        while len(commit._waiting) < len(others):
            may_go_on.wait(0.01)
        may_go_on.set()
        outcomes = [each.result(10) for each in (first, *others)]

    assert outcomes == [each * 10 for each in range(1, 9)]
    assert groups == [1, 7]


def test_a_row_that_the_database_refuses_fails_its_own_item_only() -> None:
    may_go_on, begun = threading.Event(), threading.Event()

    def step(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        assert may_go_on.wait(10)
        if 3 in items:
            raise RowRefusedError("UNIQUE constraint failed")
        return items

    commit = GroupCommit(step)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(commit.submit, lambda: 1)]
        assert begun.wait(10)
        waiting += [pool.submit(commit.submit, partial(int, each)) for each in (2, 3, 4)]
        while len(commit._waiting) < 3:
            may_go_on.wait(0.01)
        may_go_on.set()

    assert [each.result(10) for each in waiting if each is not waiting[2]] == [1, 2, 4]
    assert isinstance(waiting[2].exception(10), RowRefusedError)


def test_under_load_steps_never_overlap_and_nobody_waits_for_ever() -> None:
    is_at_work = threading.Lock()
    groups: list[int] = []

    def step(items: Sequence[int]) -> Sequence[int]:
        assert is_at_work.acquire(blocking=False)
        groups.append(len(items))
        may_go_on.wait(0.0005)
        is_at_work.release()
        if any(each % 97 == 0 for each in items):
            raise StorageError("locked")
        return [-each for each in items]

    may_go_on = threading.Event()
    commit = GroupCommit(step)

    def submit_many(first: int) -> int:
        failed = 0
        for item in range(first, first + 200):
            try:
                assert commit.submit(partial(int, item)) == -item
            except StorageError:
                failed += 1
        return failed

    with ThreadPoolExecutor(12) as pool:
        failed = sum(pool.map(submit_many, range(1, 2400, 200), timeout=60))

    assert sum(groups) == 2400
    assert failed >= 2400 // 97
    assert max(groups) > 1


def test_a_step_that_failed_is_tried_again_with_the_next_item() -> None:
    outcomes: list[Exception | None] = [StorageError("locked"), None]

    def step(items: Sequence[int]) -> Sequence[int]:
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return items

    commit = GroupCommit(step)
    with pytest.raises(StorageError, match="locked"):
        commit.submit(lambda: 1)
    assert commit.submit(lambda: 2) == 2


def test_after_a_failed_fsync_no_step_is_taken_any_more_whoever_waits() -> None:
    steps: list[int] = []

    def step(items: Sequence[int]) -> Sequence[int]:
        steps.append(len(items))
        if len(steps) == 1:
            raise DurabilityError("EIO")
        return items

    commit = GroupCommit(step)
    for item in range(3):
        with pytest.raises(DurabilityError):
            commit.submit(partial(int, item))
    assert steps == [1]


def test_a_step_waits_for_an_item_that_is_being_prepared() -> None:
    groups: list[Sequence[int]] = []

    def step(items: Sequence[int]) -> Sequence[int]:
        groups.append(items)
        return items

    commit = GroupCommit(step, longest_wait_s=10)
    slowly = Slowly()

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(commit.submit, slowly.prepare)
        assert slowly.begun.wait(10)
        ready = pool.submit(commit.submit, lambda: 2)
        while not commit._waiting:
            slowly.begun.wait(0.01)
        slowly.may_go_on.set()
        assert (slow.result(10), ready.result(10)) == (1, 2)

    assert groups == [[2, 1]]


def test_a_step_does_not_wait_for_ever() -> None:
    commit: GroupCommit[int, int] = GroupCommit(lambda items: items, longest_wait_s=0.01)
    slowly = Slowly()

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(commit.submit, slowly.prepare)
        assert slowly.begun.wait(10)
        assert commit.submit(lambda: 2) == 2
        slowly.may_go_on.set()
        assert slow.result(10) == 1


def test_an_item_that_could_not_be_prepared_is_waited_for_by_nobody() -> None:
    def step(items: Sequence[int]) -> Sequence[int]:
        return items

    commit = GroupCommit(step)

    def fail() -> int:
        raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        commit.submit(fail)
    assert commit._coming == 0
    assert not commit._waiting
    assert commit.submit(lambda: 2) == 2
