"""One fault: what is done to a node, and what it was expected to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from abuse.ground import Ground

Scene = Callable[[Path], AbstractContextManager[Ground]]
"""A node of the kind that a fault needs, in a folder of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        number: Its name, e.g. "20".
        what: What is done.
        expected: What the node must do.
        commit: Does it; returns what was seen, raises UnexpectedError when that is another thing.
        is_sampled: Whether it is quick enough for every change.
        most_memory_mib: Most that the receiver may grow while it is done; None: see `commit`.
        answers_echo: Whether C-ECHO is answered meanwhile: not of a node that is stopped.
    """

    number: str
    what: str
    expected: str
    commit: Callable[[Ground], str]
    is_sampled: bool = True
    most_memory_mib: int | None = None
    answers_echo: bool = True
