"""One durable step for all that wait for it at the same moment."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from imaging_node.domain.errors import DurabilityError, ImagingNodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_MOST_ITEMS = 256


@dataclass(slots=True)
class _Waiting(Generic[Item, Outcome]):
    """An item, and what came of it."""

    item: Item
    outcome: Outcome | None = None
    error: BaseException | None = None
    is_done: bool = False


class GroupCommit(Generic[Item, Outcome]):
    """Owns the right to commit: whoever gets it first commits for all that wait by then.

    Nobody waits for company: a lone item is committed at once, and items that arrive while a
    commit runs form the next one. After a failed fsync there is no next one.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], Sequence[Outcome]]) -> None:
        """Take the step that makes items durable: one outcome for each, in their order."""
        self._commit = commit
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Waiting[Item, Outcome]] = []
        self._lost: DurabilityError | None = None

    def submit(self, item: Item) -> Outcome:
        """Return the item's outcome once it is durable.

        Raises:
            Exception: What the step raised; then it holds for every item of the group.
        """
        mine = _Waiting[Item, Outcome](item)
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            # A group is bounded: one that is longer takes another turn.
            while not mine.is_done:
                with self._lock:
                    group = self._waiting[:_MOST_ITEMS]
                    del self._waiting[:_MOST_ITEMS]
                self._settle(group)
        if mine.error is not None:
            raise mine.error
        assert mine.outcome is not None
        return mine.outcome

    def _settle(self, group: Sequence[_Waiting[Item, Outcome]]) -> None:
        try:
            outcomes = self._commit_unless_lost([each.item for each in group])
        except BaseException as error:
            if isinstance(error, DurabilityError):
                self._lost = error
            if len(group) > 1 and not isinstance(error, ImagingNodeError):
                # A defect that one item meets is not the others': each alone.
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
        return self._commit(items)
