"""Ends a score process whose launch hangs or whose GPU is lost: only a new one is cured."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.inference.batching import Batcher

# Another than 1, with which a role says that it cannot start at all.
EXIT_LAUNCH_HANGS = 4
_LOOK_S = 1.0
# Giving back the claims needs the database; whatever that waits for, the process ends.
_GIVE_BACK_LIMIT_S = 10.0


class LaunchWatch:
    """Owns the thread that looks at the launches in flight."""

    def __init__(
        self,
        batcher: Batcher,
        give_back_others: Callable[[frozenset[str]], None],
        *,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """Prepare the thread.

        Args:
            batcher: Whose launches are looked at.
            give_back_others: Called before the end, with the owners of the images in the launch
                at fault: the work of all others is innocent.
            end: Ends the process with an exit status, at once.
        """
        self._batcher = batcher
        self._give_back_others = give_back_others
        self._end = end
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="launch-watch", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            owners = self._batcher.faulty()
            if owners is None:
                continue
            log(Event.LAUNCH_FAULTY, role="score", count=len(owners))
            giving_back = threading.Thread(
                target=self._give_back_others, args=(owners,), daemon=True
            )
            giving_back.start()
            giving_back.join(_GIVE_BACK_LIMIT_S)
            self._end(EXIT_LAUNCH_HANGS)
            return
