"""One durable step for many, and none after the disk was lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import DurabilityError, StorageError
from imaging_node.flow.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        first = pool.submit(commit.submit, 1)
        assert begun.wait(10)
        others = [pool.submit(commit.submit, each) for each in range(2, 9)]
        while len(commit._waiting) < len(others):
            may_go_on.wait(0.01)
        may_go_on.set()
        outcomes = [each.result(10) for each in (first, *others)]

    assert outcomes == [each * 10 for each in range(1, 9)]
    assert groups == [1, 7]


def test_a_step_that_failed_is_tried_again_with_the_next_item() -> None:
    outcomes: list[Exception | None] = [StorageError("locked"), None]

    def step(items: Sequence[int]) -> Sequence[int]:
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return items

    commit = GroupCommit(step)
    with pytest.raises(StorageError, match="locked"):
        commit.submit(1)
    assert commit.submit(2) == 2


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
            commit.submit(item)
    assert steps == [1]
