"""How long to wait before something is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """Waits that double.

    Attributes:
        first_s: After the first attempt, greater than 0.
        longest_s: What no wait exceeds, at least `first_s`.
    """

    first_s: float
    longest_s: float

    def after(self, attempts: int) -> timedelta:
        """The wait after so many attempts, 1 or more."""
        return timedelta(
            seconds=min(self.longest_s, self.first_s * 2.0 ** min(max(attempts, 1) - 1, 40))
        )
