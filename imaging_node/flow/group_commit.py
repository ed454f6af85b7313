"""One durable step for all that wait for it at the same moment."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from imaging_node.domain.errors import DurabilityError, ImagingNodeError, RowRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_MOST_ITEMS = 256
# How long a step waits for items that are being prepared: a step for each of many costs all of
# them more than that.
_LONGEST_WAIT_S = 0.002


@dataclass(slots=True)
class _Waiting(Generic[Item, Outcome]):
    """An item, and what came of it.

    Attributes:
        until_called: Held until the item is done, or its thread is to take the next step.
    """

    item: Item
    outcome: Outcome | None = None
    error: BaseException | None = None
    is_done: bool = False
    until_called: threading.Lock = field(default_factory=threading.Lock)


class GroupCommit(Generic[Item, Outcome]):
    """Owns the turn to commit: whoever has it commits for all that wait by then.

    A lone item is committed at once; where others are being prepared, the step waits a moment for
    them. Items that arrive while a step runs form the next one, and the first of them takes it:
    each thread is called once, when its item is done or its turn has come. After a failed fsync
    there is no next step.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Sequence[Outcome]],
        *,
        longest_wait_s: float = _LONGEST_WAIT_S,
    ) -> None:
        """Take the step that makes items durable: one outcome for each, in their order."""
        self._commit = commit
        self._longest_wait_s = longest_wait_s
        self._lock = threading.Lock()
        self._has_company = threading.Condition(self._lock)
        self._coming = 0
        self._waiting: list[_Waiting[Item, Outcome]] = []
        self._is_taken = False
        self._lost: DurabilityError | None = None

    def submit(self, prepare: Callable[[], Item]) -> Outcome:
        """Return the outcome of an item once it is durable.

        Args:
            prepare: Does what comes before the common step, and returns the item.

        Raises:
            Exception: What `prepare` raised, or the step; that holds for every item of the group.
        """
        mine, has_turn = self._prepared(prepare)
        if not has_turn:
            mine.until_called.acquire()
        if not mine.is_done:
            self._take_turn()
        if mine.error is not None:
            raise mine.error
        assert mine.outcome is not None
        return mine.outcome

    def _prepared(self, prepare: Callable[[], Item]) -> tuple[_Waiting[Item, Outcome], bool]:
        """The item in its place among those that wait, and whether the turn is its own."""
        with self._lock:
            self._coming += 1
        mine: _Waiting[Item, Outcome] | None = None
        has_turn = False
        try:
            mine = _Waiting(prepare())
            mine.until_called.acquire()
        finally:
            with self._lock:
                self._coming -= 1
                if mine is not None:
                    self._waiting.append(mine)
                    has_turn, self._is_taken = not self._is_taken, True
                if not self._coming:
                    self._has_company.notify_all()
        return mine, has_turn

    def _take_turn(self) -> None:
        """Commit for those that wait, the caller's item the first of them, and pass the turn on."""
        with self._lock:
            self._has_company.wait_for(lambda: not self._coming, self._longest_wait_s)
            # A group is bounded: what does not fit is the next one.
            group = self._waiting[:_MOST_ITEMS]
            del self._waiting[:_MOST_ITEMS]
        try:
            self._settle(group)
        finally:
            with self._lock:
                called = [*self._waiting[:1], *group]
                self._is_taken = bool(self._waiting)
            for each in called:
                each.until_called.release()

    def _settle(self, group: Sequence[_Waiting[Item, Outcome]]) -> None:
        try:
            outcomes = self._commit_unless_lost([each.item for each in group])
        except BaseException as error:
            if isinstance(error, DurabilityError):
                self._lost = error
            is_foreseen = isinstance(error, ImagingNodeError)
            if len(group) > 1 and (not is_foreseen or isinstance(error, RowRefusedError)):
                # What one item meets is not the others': each alone.
                for each in group:
                    self._settle([each])
                return
            for each in group:
                each.error = error
                each.is_done = True
            if not isinstance(error, Exception):
                raise
            return
        for each, outcome in zip(group, outcomes, strict=True):
            each.outcome = outcome
            each.is_done = True

    def _commit_unless_lost(self, items: Sequence[Item]) -> Sequence[Outcome]:
        if self._lost is not None:
            raise self._lost
        outcomes = self._commit(items)
        assert len(outcomes) == len(items)
        return outcomes
