"""Who waits for a launch: three lanes, in each the earliest deadline first."""

from __future__ import annotations

import heapq
from concurrent.futures import Future
from dataclasses import dataclass, field

from imaging_node.inference.outputs import MemberOutputs
from imaging_node.inference.preprocessing import ModelInput

STAT, ROUTINE, ARCHIVE = 0, 1, 2
"""Lanes, most urgent first."""

LANES = (STAT, ROUTINE, ARCHIVE)
PASSED_OVER_LAUNCHES = 8
"""A lane that this many launches in a row passed over gets the first place of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image that waits.

    Attributes:
        deadline_s: On the monotonic clock; infinite when nobody set one.
        number: In the order of submission; decides between equal deadlines.
        owner: Whose work it is, e.g. a claim's token.
    """

    image: ModelInput
    lane: int
    deadline_s: float
    number: int
    owner: str
    answer: Future[MemberOutputs] = field(default_factory=Future)

    @property
    def rank(self) -> tuple[int, float, int]:
        """The smaller, the sooner."""
        return (self.lane, self.deadline_s, self.number)


class WaitingLanes:
    """Images that may share a launch, in their lanes; its caller guards it by a lock.

    Lower lanes fill the places that are left. So that STAT never waits behind them and they
    never starve, a lane that `PASSED_OVER_LAUNCHES` launches passed over gets one place, no more.
    """

    def __init__(self) -> None:
        self._lanes: tuple[list[tuple[float, int, Item]], ...] = tuple([] for _ in LANES)
        self._passed_over = [0 for _ in LANES]

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def waiting_in(self, lane: int) -> int:
        """Images in one lane."""
        return len(self._lanes[lane])

    def add(self, item: Item) -> None:
        """Queue one image in its lane."""
        heapq.heappush(self._lanes[item.lane], (item.deadline_s, item.number, item))

    def rank(self) -> tuple[int, float, int]:
        """Rank of the image that comes first; a lane that starves comes before all others."""
        starving = self._starving()
        lane = starving
        if lane is None:
            lane = next(each for each in LANES if self._lanes[each])
        _, deadline_s, number = self._lanes[lane][0][2].rank
        return (lane if starving is None else STAT - 1, deadline_s, number)

    def take(self, limit: int) -> list[Item]:
        """Remove the next `limit` images, or all when there are fewer."""
        taken: list[Item] = []
        starving = self._starving()
        if starving is not None:
            taken.append(self._pop(starving))
        for lane in LANES:
            while self._lanes[lane] and len(taken) < limit:
                taken.append(self._pop(lane))
        return taken

    def note_launch(self, taken: list[Item]) -> None:
        """Count which lanes a launch passed over, one of these images or of others."""
        served = {item.lane for item in taken}
        for lane in LANES:
            is_passed_over = bool(self._lanes[lane]) and lane not in served
            self._passed_over[lane] = self._passed_over[lane] + 1 if is_passed_over else 0

    def take_all(self) -> list[Item]:
        """Remove every image."""
        return self.take(len(self))

    def _starving(self) -> int | None:
        """The least urgent of the lanes that were passed over for too long."""
        for lane in reversed(LANES):
            if self._lanes[lane] and self._passed_over[lane] >= PASSED_OVER_LAUNCHES:
                return lane
        return None

    def _pop(self, lane: int) -> Item:
        return heapq.heappop(self._lanes[lane])[2]
