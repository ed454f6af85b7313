"""Real rooms for the story's steps: SQLite, spool, decoders and the shipped model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.demonstration.local_node import DRAWN_FILMS_MODELS
from imaging_node.node.scoring_room import close_scoring_room, open_scoring_room
from imaging_node.settings import Settings
from imaging_node.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.flow.scoring import ScoringRoom

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringRoom]:
    """A scoring room: loading the model once serves all tests of a module."""
    folder: Path = tmp_path_factory.mktemp("room")
    settings = Settings.model_validate(
        {
            "state_directory": folder,
            "spool": {"min_free_bytes": 0},
            "models": DRAWN_FILMS_MODELS,
        }
    )
    room = open_scoring_room(settings, Counters())
    yield room
    close_scoring_room(room)
